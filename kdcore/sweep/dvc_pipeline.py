"""The pipeline as DVC knows it: which stages are stale, which outputs are cached, and the record in dvc.lock.

DVC decides all of it. Its command line takes a second per stage, and reads and writes the whole lock file each time, so
this module calls the functions that `dvc repro` calls, in the same order (dvc/repo/reproduce.py and dvc/stage of DVC
3.60 to 3.67). Only `dry_run`, `transfer` and `mend` use DVC's inner functions besides.
"""

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from io import StringIO
from pathlib import Path
from typing import Any

from dvc import progress
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.output import Output
from dvc.parsing import DataResolver
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.rwlock import rwlock
from dvc.stage import PipelineStage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.exceptions import StageFileDoesNotExistError
from dvc.stage.serialize import to_lockfile, to_single_stage_lockfile
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import ParseError, load_yaml
from dvc_data import callbacks
from fsspec.implementations.memory import MemoryFileSystem
from ruamel.yaml import YAML

from kdcore.system.errors import RunError, UserError, suggest
from kdcore.system.files import replace_text

PROJECT_FILE, LOCK_FILE = "dvc.yaml", "dvc.lock"
WIDTH, UNLIMITED = 80, 1 << 30
"""The width of DVC's YAML, and one at which no line is broken."""
SILENCE = 5.0
"""Seconds that DVC's lock is waited for without a word; its own commands hold it for less."""
BUSY = "{lock}: another command of DVC holds it; waiting for its end ('dvc status' says what helps if there is none)"
Item = dict[str, Any]
"""The entry of a file or folder in dvc.lock: path, hash, md5, size, and the number of files of a folder."""


class Verdict(Enum):
    """What DVC says of a stage whose dependencies are in place."""

    UP_TO_DATE = "up to date"
    CACHED = "cached"
    """It was run before with the same dependencies; its outputs were brought back from the cache."""
    STALE = "stale"


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """Open a project, and hold the lock of DVC's commands meanwhile; where another one holds it, wait, and say so."""
    repo = Repo(str(root), _wait_for_lock=True)
    said = threading.Timer(SILENCE, print, [BUSY.format(lock=Path(repo.tmp_dir) / "lock")], {"file": sys.stderr})
    said.daemon = True
    said.start()
    try:
        with repo.lock:
            said.cancel()
            yield repo
    finally:
        said.cancel()


class Pipeline:
    """The stages that `dvc repro` would visit, in its order.

    They stay as they are at the start, though params.yaml or dvc.yaml may change.

    Args:
        root: the project's folder, which is the working directory.
        targets: names of stages, as for `dvc repro`; without any, all stages.
        glob: whether the targets are patterns.
        params: for a dry run, a params.yaml elsewhere that stands for the project's.

    Raises:
        UserError: there is no DVC project, a file of it is wrong, or a target unknown.
    """

    def __init__(
        self, root: Path, targets: Sequence[str] = (), *, glob: bool = False, params: Path | None = None
    ) -> None:
        for module in (progress, callbacks):
            module.logger.setLevel(logging.CRITICAL)  # no bars: one per file, they would cross what the sweep shows
        try:
            with opened(root) as self.repo:
                index = self.repo.index if params is None else _index(self.repo, params)
                graph = get_active_graph(index.graph)
                stages = plan_repro(graph, _chosen(index.stages, targets, glob=glob))
        except (DvcException, StageFileDoesNotExistError) as error:
            raise UserError(f"{root / PROJECT_FILE}: {reasons(error)}{_lacking(error)}") from error
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in stages}
        self.needs = {
            name: {above.addressing for above in graph.successors(stage)} for name, stage in self.stages.items()
        }
        """Stage -> the stages whose outputs it depends on."""
        self.stale: set[str] = set()
        """Stages that `check` has found stale. They are not asked again: DVC would take their removed outputs, of the
        old dependencies, for those of the new ones."""
        self.unrecorded: list[PipelineStage] = []
        """Stages that were run or brought back since the last `record`."""
        self.recorded_before: list[str] | None = None
        """Stages in dvc.lock when this sweep began, or the first of several that were interrupted in a row; None until
        dvc.lock was read. Later entries are put in the order of a serial run.
        """

    @property
    def steps(self) -> list[str]:
        """Names of the stages, in the order of `dvc repro`."""
        return list(self.stages)

    def outputs(self, step: str) -> list[str]:
        """List the paths that a stage makes, relative to the project."""
        return [out.def_path for out in self.stages[step].outs]

    def dependencies(self, step: str) -> list[str]:
        """List the paths that a stage reads, relative to the project."""
        return [dep.def_path for dep in self.stages[step].deps]

    def command(self, step: str) -> str:
        """Return the command that makes a stage's outputs."""
        return str(self.stages[step].cmd)

    @cached_property
    def cache(self) -> Path:
        """The folder of DVC's cache."""
        return Path(self.repo.cache.local.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other DVC commands from the pipeline's outputs.

        Raises:
            UserError: one of them is at work; names it.
        """
        # DVC compares every path with every other, so only the few folders are locked that hold all outputs.
        folders = sorted({Path(path).parts[0] for step in self.stages for path in self.outputs(step)})
        paths = [str(Path(self.repo.root_dir) / folder) for folder in folders]
        hardlink = self.repo.config["core"].get("hardlink_lock", False)
        try:
            # DVC lets calls pass that name the same command, as its own calls in this process do.
            with rwlock(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), [], paths, hardlink):
                yield
        except LockError as error:
            raise UserError(f"another command of DVC is at work here: {error}") from error

    def check(self, step: str) -> Verdict:
        """Decide what to do for a stage whose dependencies are in place, and bring cached outputs back.

        The outputs of a stale stage are removed, as by `dvc repro`.

        Raises:
            RunError: DVC cannot tell, because a dependency is missing, for instance.
        """
        if step in self.stale:
            return Verdict.STALE
        stage = self.stages[step]
        with self._locked(step):
            if not stage.changed():
                return Verdict.UP_TO_DATE
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self.repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                self.stale.add(step)
                return Verdict.STALE
            stage.save_deps()
            self._keep(stage)
            return Verdict.CACHED

    def begin(self, step: str) -> str:
        """Note what a stage is about to read, and return its command.

        Raises:
            RunError: a dependency is missing.
        """
        with self._locked(step):
            self.stages[step].save_deps()
        return self.command(step)

    def finish(self, step: str) -> None:
        """Put a stage's outputs into the cache, and remember them for `record`.

        Raises:
            RunError: DVC cannot, because an output is missing, for instance; or what the stage read has changed since
                it began, so that nobody knows what its outputs were made from.
        """
        with self._locked(step):
            stage = self.stages[step]
            before = {dep.def_path: dep.hash_info for dep in stage.deps}
            stage.save_deps()
            changed = [dep.def_path for dep in stage.deps if dep.hash_info != before[dep.def_path]]
            if changed:
                raise RunError(f"{', '.join(changed)} changed while it ran; run the same command again")
            self._keep(stage)

    def record(self) -> bool:
        """Write the stages made since the last call to dvc.lock, as `dvc repro` would have left it; returns whether
        there are any.

        Entries that other commands wrote meanwhile stay. A stage that a killed sweep did not record is not lost: the
        next sweep finds its outputs in the cache.
        """
        if not self.unrecorded:
            return False
        lock = Path(self.repo.root_dir) / LOCK_FILE
        with self._locked():  # DVC writes in place, where a kill would leave half a file, and takes nine times as long
            content = load_yaml(lock) if lock.exists() else {}
            self._update(content)
            replace_text(lock, _as_dvc_writes(content))
        self.unrecorded.clear()
        return True

    def _update(self, content: dict[str, Any]) -> None:
        content.setdefault("schema", "2.0")
        entries = content.setdefault("stages", {})
        if self.recorded_before is None:
            self.recorded_before = list(entries)
        for stage in self.unrecorded:
            entries |= {name: dict(entry) for name, entry in to_lockfile(stage).items()}  # no OrderedDict: !!omap
        before = set(self.recorded_before)
        for name in self.stages:
            if name in entries and name not in before:
                entries[name] = entries.pop(name)  # new entries stand last, in the order of a serial run

    def inputs(self, step: str) -> list[Item]:
        """List what a stage that was checked reads, as it lies in the cache. A folder that several stages fill is
        listed as the outputs of each.
        """
        stage = self.stages[step]
        outputs = [out for above in sorted(self.needs[step]) for out in self.stages[above].outs]
        items: list[Item] = []
        for item in to_single_stage_lockfile(stage)["deps"]:
            inside = [out for out in outputs if Path(item["path"]) in Path(out.def_path).parents]
            items += [_item(out) for out in inside] or [dict(item)]
        return items

    def _keep(self, stage: PipelineStage) -> None:
        """Put outputs into the cache, with the hashes of what the stage read."""
        uncached = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
        with self.repo.scm_context(quiet=True):
            stage.save_outs()
            stage.md5 = stage.compute_md5()
            if not uncached:
                self.repo.stage_cache.save(stage)
            stage.commit()
        lost = [out.def_path for out in stage.outs if out.use_cache and out.changed_cache()]
        if lost:  # DVC prints what it could not copy, and goes on
            raise RunError(f"{', '.join(lost)}: DVC could not put it into its cache; is the disk full?")
        self.unrecorded.append(stage)

    @contextmanager
    def _locked(self, step: str = PROJECT_FILE) -> Iterator[None]:
        """Hold DVC's lock; errors of DVC become errors of this step."""
        try:
            with self.repo.lock:
                yield
        except DvcException as error:
            raise RunError(f"{step}: {reasons(error)}") from error
        finally:  # DVC leaves a list of every folder there, and looks through all of them for the next one
            MemoryFileSystem.store.clear()


def _as_dvc_writes(content: dict[str, Any]) -> str:
    """Return the text of a dvc.lock, the same that DVC's own, slower functions make of it."""
    yaml = YAML(typ="safe")  # by libyaml, where that is installed
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares it as None
    yaml.width = UNLIMITED
    text = StringIO()
    yaml.dump(content, text)
    return "".join(map(_folded, text.getvalue().splitlines(keepends=True)))


def _folded(line: str) -> str:
    """Break a line as DVC's functions do, whose YAML begins a new one before any word that goes beyond `WIDTH`."""
    if len(line) <= WIDTH or ": " not in line:
        return line
    key, _, value = line.partition(": ")
    indent = " " * (len(key) - len(key.lstrip(" -")) + 2)
    made, column = f"{key}:", len(key) + 1
    for word in value.rstrip("\n").split(" "):
        is_beyond = column + 1 + len(word) > WIDTH
        column = len(indent) + len(word) if is_beyond else column + 1 + len(word)
        made += f" \n{indent}{word}" if is_beyond else f" {word}"
    return f"{made}\n"


def _index(repo: Repo, params: Path) -> Index:
    """Resolve dvc.yaml with another params.yaml."""
    project = load_file(repo, str(Path(repo.root_dir) / PROJECT_FILE))
    project.resolver = DataResolver(repo, str(params.parent), project.contents)
    return Index(repo, stages=list(project.stages.values()))


def _chosen(stages: Sequence[PipelineStage], targets: Sequence[str], *, glob: bool) -> list[PipelineStage]:
    """Return the stages that targets name. DVC's own search would read the lock file again for each target.

    Raises:
        UserError: a target names no stage.
    """
    by_name: dict[str, PipelineStage] = {}
    for target in targets or [PROJECT_FILE]:
        pattern = target if glob else escape(target)
        chosen = {
            stage.addressing: stage
            for stage in stages
            if target == PROJECT_FILE or any(fnmatchcase(name, pattern) for name in _names(stage))
        }
        if not chosen:
            near = suggest(target, [stage.addressing for stage in stages])
            shows = "'dvc stage list --name-only' shows all, --glob allows patterns"
            raise UserError(f"{target}: names no stage.{near} {shows}")
        by_name |= chosen
    return list(by_name.values())


def _item(out: Output) -> Item:
    return {"path": out.def_path, "hash": "md5", **out.hash_info.to_dict(), **out.meta.to_dict()}


def _names(stage: PipelineStage) -> tuple[str, str]:
    """Return the names by which a target may mean a stage: its own, and that of its matrix."""
    return stage.addressing, stage.addressing.partition("@")[0]


def _lacking(error: BaseException) -> str:
    """Point to the check that says what to write, where dvc.yaml names a key that params.yaml does not have."""
    return (
        "; 'python -m stages.plan --check params.yaml' says what to write there"
        if "Could not find" in reasons(error)
        else ""
    )


def reasons(error: BaseException) -> str:
    """Join the messages of an error and of the errors that caused it."""
    causes = []
    reason: BaseException | None = error
    while reason is not None:
        causes.append(str(reason).strip())
        reason = reason.__cause__
    return ": ".join(dict.fromkeys(filter(None, causes)))


def override(params: Path, overrides: Sequence[str]) -> None:
    """Change a params file as `dvc exp run -S` does.

    Args:
        params: the file.
        overrides: key=value, in Hydra's grammar.

    Raises:
        UserError: one is malformed, or names an unknown key; or DVC wrote something that is no YAML, as it does where a
            list that an earlier change took apart becomes empty.
    """
    changes = f"-S {' -S '.join(overrides)}"
    try:
        apply_overrides(params, list(overrides))
    except DvcException as error:
        raise UserError(f"{changes}: {_grid(overrides) or reasons(error)}") from error
    try:
        load_yaml(params)
    except ParseError as error:
        raise UserError(
            f"{changes}: DVC cannot write this into a file that it has changed before; take the earlier changes back "
            "(git checkout params.yaml) and give all of them at once, or write this one there yourself"
        ) from error


def _grid(overrides: Sequence[str]) -> str:
    """Explain values with commas and without brackets, which Hydra takes for a grid; empty where there are none."""
    for override in overrides:
        key, _, values = override.partition("=")
        if "," in values and not values.startswith(("[", "{", "(", "'", '"')):
            return (
                f"values without brackets are one experiment each, for 'dvc exp run --queue'; write '{key}=[{values}]'"
            )
    return ""
