"""The pipeline as DVC has it: what is stale, what lies in its cache, and the record of what was made.

DVC stays the only authority on both. Its command line takes a second per stage and reads and writes the whole lock file
each time, so this module calls what the command calls; besides it only `lookup` and `transfer` know DVC from inside.
What it does, and in which order, is what `dvc repro` does (dvc/repo/reproduce.py and dvc/stage of DVC 3.60 to 3.67).
"""

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
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
from dvc.utils.serialize import modify_yaml
from dvc_data import callbacks

from kdcore.system.errors import RunError, UserError

PROJECT_FILE, LOCK_FILE = "dvc.yaml", "dvc.lock"
Item = dict[str, Any]
"""A file or folder as dvc.lock has it: path, hash, md5, size, and the number of files of a folder."""


class Verdict(Enum):
    """What DVC has to do for a stage whose dependencies are in place."""

    UP_TO_DATE = "up to date"
    CACHED = "cached"
    """Its outputs have been made before, and were brought back."""
    STALE = "stale"


class Pipeline:
    """The stages that `dvc repro` would walk through, in its order.

    It keeps the stages as they are at the start, whatever becomes of params.yaml and dvc.yaml.

    Args:
        root: the project's folder, and the working directory.
        targets: as `dvc repro` has them; none is all stages.
        glob: whether the targets are patterns.
        params: a params.yaml elsewhere that stands for the project's, where nothing is to be run.

    Raises:
        UserError: there is no DVC project, a file of it is wrong, or a target unknown.
    """

    def __init__(
        self, root: Path, targets: Sequence[str] = (), *, glob: bool = False, params: Path | None = None
    ) -> None:
        for module in (progress, callbacks):
            module.logger.setLevel(logging.CRITICAL)  # no bars: one per file, they would cross what the sweep shows
        try:
            self.repo = Repo(str(root), _wait_for_lock=True)
            with self.repo.lock:
                index = self.repo.index if params is None else _index(self.repo, params)
                graph = get_active_graph(index.graph)
                stages = plan_repro(graph, _chosen(index.stages, targets, glob=glob))
        except (DvcException, StageFileDoesNotExistError) as error:
            raise UserError(f"{root / PROJECT_FILE}: {reasons(error)}") from error
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in stages}
        self.needs = {
            name: {above.addressing for above in graph.successors(stage)} for name, stage in self.stages.items()
        }
        """Stage -> those whose outputs it depends on."""
        self.made: list[PipelineStage] = []
        """Since the last `record`."""
        self.recorded_before: list[str] | None = None
        """Stages that dvc.lock held when the first of a row of interrupted sweeps began; None until that is known."""

    @property
    def steps(self) -> list[str]:
        """The stages' names, in the order of `dvc repro`."""
        return list(self.stages)

    def outputs(self, step: str) -> list[str]:
        """Paths of what a stage makes, relative to the project."""
        return [out.def_path for out in self.stages[step].outs]

    def dependencies(self, step: str) -> list[str]:
        """Paths of what a stage reads, relative to the project."""
        return [dep.def_path for dep in self.stages[step].deps]

    def command(self, step: str) -> str:
        """What makes a stage's outputs."""
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
        # DVC compares every path with every other: the folders that hold the outputs are few, and enough.
        folders = sorted({Path(path).parts[0] for step in self.stages for path in self.outputs(step)})
        paths = [str(Path(self.repo.root_dir) / folder) for folder in folders]
        hardlink = self.repo.config["core"].get("hardlink_lock", False)
        try:
            # The text by which DVC tells commands apart: that of its own calls, which must pass.
            with rwlock(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), [], paths, hardlink):
                yield
        except LockError as error:
            raise UserError(f"another command of DVC is at work here: {error}") from error

    def check(self, step: str) -> Verdict:
        """What is to be done for a stage whose dependencies are in place; brings cached outputs back.

        The outputs of a stale one are removed, as `dvc repro` removes them.

        Raises:
            RunError: DVC cannot tell, because a dependency is missing, for instance.
        """
        stage = self.stages[step]
        with self._locked(step):
            if not stage.changed():
                return Verdict.UP_TO_DATE
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self.repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                stage.save_deps()
                return Verdict.STALE
            self._keep(stage)
            return Verdict.CACHED

    def finish(self, step: str) -> None:
        """Put a stage's outputs into the cache, and remember them for `record`.

        Raises:
            RunError: DVC cannot, because an output is missing, for instance.
        """
        with self._locked(step):
            self._keep(self.stages[step])

    def record(self) -> None:
        """Bring dvc.lock up to date, as `dvc repro` would have left it.

        What was made meanwhile by others stays. A stage that is not recorded is not lost: the next run finds it in the
        cache.
        """
        if not self.made:
            return
        lock = Path(self.repo.root_dir) / LOCK_FILE
        aside = lock.with_name(f".{LOCK_FILE}.unfinished")  # DVC writes in place: killed then, it leaves half a file
        with self._locked():
            if lock.exists():
                shutil.copyfile(lock, aside)
            with modify_yaml(aside) as content:
                self._update(content)
            aside.replace(lock)
        self.made.clear()

    def _update(self, content: dict[str, Any]) -> None:
        content.setdefault("schema", "2.0")
        entries = content.setdefault("stages", {})
        if self.recorded_before is None:
            self.recorded_before = list(entries)
        for stage in self.made:
            entries.update(to_lockfile(stage))
        before = set(self.recorded_before)
        for name in self.stages:
            if name in entries and name not in before:
                entries[name] = entries.pop(name)  # new entries stand last, in the order of a serial run

    def inputs(self, step: str) -> list[Item]:
        """What a stage that has been checked reads, as it lies in the cache: of a folder that several stages fill, what
        each of them has put there.
        """
        stage = self.stages[step]
        made = [out for above in sorted(self.needs[step]) for out in self.stages[above].outs]
        found: list[Item] = []
        for item in to_single_stage_lockfile(stage)["deps"]:
            inside = [out for out in made if Path(item["path"]) in Path(out.def_path).parents]
            found += [_item(out) for out in inside] or [dict(item)]
        return found

    def _keep(self, stage: PipelineStage) -> None:
        uncached = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
        with self.repo.scm_context(quiet=True):
            stage.save(run_cache=not uncached)
            stage.commit()
        lost = [out.def_path for out in stage.outs if out.use_cache and out.changed_cache()]
        if lost:  # DVC prints what it could not copy, and goes on
            raise RunError(f"{', '.join(lost)}: DVC could not put it into its cache; is the disk full?")
        self.made.append(stage)

    @contextmanager
    def _locked(self, step: str = PROJECT_FILE) -> Iterator[None]:
        """Alone among DVC's commands; what goes wrong is said of this step."""
        try:
            with self.repo.lock:
                yield
        except DvcException as error:
            raise RunError(f"{step}: {reasons(error)}") from error


def _index(repo: Repo, params: Path) -> Index:
    """The stages that dvc.yaml would have with another params.yaml."""
    project = load_file(repo, str(Path(repo.root_dir) / PROJECT_FILE))
    project.resolver = DataResolver(repo, str(params.parent), project.contents)
    return Index(repo, stages=list(project.stages.values()))


def _chosen(stages: Sequence[PipelineStage], targets: Sequence[str], *, glob: bool) -> list[PipelineStage]:
    """The stages that targets name. DVC's own search reads the lock file, the slowest part, again for each of them.

    Raises:
        UserError: one names none.
    """
    found: dict[str, PipelineStage] = {}
    for target in targets or [PROJECT_FILE]:
        pattern = target if glob else escape(target)
        chosen = {
            stage.addressing: stage
            for stage in stages
            if target == PROJECT_FILE or any(fnmatchcase(name, pattern) for name in _names(stage))
        }
        if not chosen:
            raise UserError(f"{target}: names no stage; 'dvc stage list --name-only' shows all, --glob allows patterns")
        found |= chosen
    return list(found.values())


def _item(out: Output) -> Item:
    return {"path": out.def_path, "hash": "md5", **out.hash_info.to_dict(), **out.meta.to_dict()}


def _names(stage: PipelineStage) -> tuple[str, str]:
    """Its own, and that of all its cells."""
    return stage.addressing, stage.addressing.partition("@")[0]


def reasons(error: BaseException) -> str:
    """What an error says, and what it was raised from."""
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
        UserError: one is malformed, or names an unknown key.
    """
    try:
        apply_overrides(params, list(overrides))
    except DvcException as error:
        raise UserError(f"-S {' -S '.join(overrides)}: {reasons(error)}") from error
