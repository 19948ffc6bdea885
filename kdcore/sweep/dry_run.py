"""Work out what `dvc repro` would do with each stage, without running or changing anything.

A stage is judged by what it would read: files as they are, cards as they would be written, and outputs of the stages
above it, as far as they are known before those run. DVC decides again when the stages run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.dependency import Dependency
from dvc.output import Output
from dvc.stage.cache import _get_cache_hash
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import Card
from kdcore.matrix.cell import TRAININGS
from kdcore.matrix.left_out import MARKER, is_left_out
from kdcore.matrix.params import Params
from kdcore.sweep.display import listed
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import read_json
from kdcore.training import run_folder

# Why this calls DVC's functions, not `dvc status`: with 2,036 of 3,430 cells done, `dvc status --json` took 14.5 s of
# CPU and a whole dry run 13.6 s, on the same busy machine; only a sixth of that is spent here, most goes into reading
# dvc.lock. And `dvc status` knows neither the cards that the plan will write, nor what the run cache holds, nor -S.

MD5 = "md5"
MISSING = ""
"""Stands for the md5 of a dependency that is missing and that no stage makes."""
TROUBLES = {
    "deleted": "its results are gone",
    "modified": "its results were changed",
    "not in cache": "its results are not in DVC's cache",
}
"""What DVC says of an output that is not as it was recorded, and what a person reads."""
CONTENTS = {"runs": "cells", "teachers": "teachers", "evaluations": "evaluations"}
"""Folder -> what stages put into it."""
SHORT, FEW, MANY = 40, 3, 10
"""The longest value that a reason shows, the most changes, and the most changes below one key that are told apart."""
MARKER_MD5 = hashlib.md5(MARKER.encode(), usedforsecurity=False).hexdigest()
Sums = dict[str, str]
"""Path -> md5; that of a folder ends with .dir."""


class Outlook(str, Enum):
    """What would become of a stage."""

    TO_RUN = "to run"
    CACHED = "cached"
    """It was run before with what it would read now, and DVC's cache holds its outputs."""
    BLOCKED = "blocked"
    """Nothing that it reads is known to have changed, but something must run first, which may change it."""
    UP_TO_DATE = "up to date"
    LEFT_OUT = "left out"
    """The matrix leaves the cell out; a sweep writes its marker, which takes no time."""


class Lookup:
    """Reads dvc.lock, DVC's cache and run cache, and the workspace; changes only DVC's own table of file hashes.

    Keys of the run cache and hashes of folders are computed by DVC's own functions (DVC 3.60 to 3.67).

    Args:
        pipeline: whose stages are looked up, before any of them is checked or run.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.run_cache: Any = pipeline.repo.stage_cache

    def recorded_deps(self, step: str) -> Sums:
        """Return what a stage read when it was last recorded; nothing where it never was."""
        return _sums(self.pipeline.stages[step].deps)

    def recorded_outs(self, step: str) -> Sums:
        """Return what a stage had made when it was last recorded."""
        return _sums(self.pipeline.stages[step].outs)

    def has_new_command(self, step: str) -> bool:
        """Say whether a stage's command differs from the recorded one."""
        return bool(self.pipeline.stages[step].changed_stage())

    def trouble(self, step: str) -> str:
        """Return how a stage's outputs differ from the record, as a key of `TROUBLES`; empty where they do not."""
        return next((trouble for out in self.pipeline.stages[step].outs for trouble in out.status().values()), "")

    def is_in_cache(self, step: str, outputs: Sums) -> bool:
        """Say whether DVC's cache holds these outputs of a stage, all of them, and would bring them back: of a stage
        whose outputs persist it does not, though it may have them from the time before.
        """
        if any(out.persist for out in self.pipeline.stages[step].outs):
            return False
        outs = [{"path": path, "hash": MD5, MD5: value} for path, value in outputs.items()]
        return bool(self.run_cache._create_stage({"cmd": self.pipeline.command(step), "outs": outs}).outs_cached())

    def made_from(self, step: str, inputs: Sums) -> Sums | None:
        """Return what a stage made of these dependencies before; None where the run cache has no such run."""
        content = {
            "cmd": self.pipeline.command(step),
            "deps": [{"path": path, "hash": MD5, MD5: inputs[path]} for path in sorted(inputs)],
            "outs": [{"path": path} for path in sorted(self.pipeline.outputs(step))],
        }
        key = _get_cache_hash(content, key=True)
        entries = list(Path(self.run_cache._get_cache_dir(key)).glob("*"))
        if not entries:
            return None
        newest = max(entries, key=lambda path: path.stat().st_mtime)
        entry = self.run_cache._load_cache(key, newest.name)
        return None if entry is None else {item["path"]: item[MD5] for item in entry["outs"]}

    def hash_now(self, step: str, path: str) -> str | None:
        """Return the md5 of a dependency as it is in the workspace; None where there is nothing."""
        dependency = self._dependency(step, path)
        return str(dependency.get_hash().value) if dependency.exists else None

    def files_in_cache(self, folder: str) -> Sums:
        """List the files of a folder in DVC's cache, which is named by its md5."""
        return _files(Tree.load(self.pipeline.repo.cache.local, HashInfo(MD5, folder)))

    def files_now(self, step: str, path: str) -> Sums:
        """List the files of a dependency that is a folder, as it is in the workspace."""
        dependency = self._dependency(step, path)
        if not dependency.exists:
            return {}
        cache = dependency.local_cache
        _, _, tree = dependency._build(
            cache, dependency.fs_path, dependency.fs, MD5, ignore=dependency.dvcignore, dry_run=True
        )
        return _files(tree)

    def _dependency(self, step: str, path: str) -> Dependency:
        return next(dep for dep in self.pipeline.stages[step].deps if dep.def_path == path)


def hash_of_folder(files: Mapping[str, str]) -> str:
    """Compute the md5 by which DVC names a folder with these files."""
    tree = Tree()
    for path, value in files.items():
        tree.add(PurePosixPath(path).parts, Meta(), HashInfo(MD5, value))
    tree.digest()
    return str(tree.hash_info.value)


def _files(tree: Any) -> Sums:
    return {"/".join(key): file_hash.value for key, _, file_hash in tree}


def _sums(items: Iterable[Output]) -> Sums:
    return {item.def_path: str(item.hash_info.value) for item in items if item.hash_info}


class Judge:
    """Judges stages one by one, in the order of `dvc repro`.

    Args:
        lookup: what DVC knows.
        params: the matrix.
        make_cards: makes all cards; called only where one is needed.
        replaced: files that would have other contents than they have: path -> md5.
    """

    def __init__(
        self, lookup: Lookup, params: Params, make_cards: Callable[[], dict[str, Card]], *, replaced: Sums | None = None
    ) -> None:
        self.lookup, self.params = lookup, params
        self.make_cards = make_cards
        self.hashes: dict[str, str | None] = dict(replaced or {})
        """Path -> md5 once all stages judged so far have run; None where it depends on what they will make."""
        self.outputs: dict[str, Sums | None] = {}
        """Stage -> its outputs once it has run; None where they are not known before."""
        self.up_to_date: set[str] = set()
        self.files_in_cache = cache(lookup.files_in_cache)
        pipeline = lookup.pipeline
        self.makers = {path: step for step in pipeline.steps for path in pipeline.outputs(step)}
        """Output -> the stage that makes it."""
        self.fillers: dict[str, list[str]] = {}
        """Folder -> the stages with outputs inside it."""
        for path, step in self.makers.items():
            for folder in Path(path).parents:
                self.fillers.setdefault(folder.as_posix(), []).append(step)

    @cached_property
    def cards(self) -> dict[str, Card]:
        """All cards as the plan would write them."""
        return self.make_cards()

    @cached_property
    def left_out(self) -> set[str]:
        """The stages of cells that the matrix leaves out."""
        if not self.params.exclude and len(self.params.variants) == 1:
            return set()
        return {name.replace("/", "@", 1) for name, card in self.cards.items() if is_left_out(card)}

    def judge(self, step: str) -> tuple[Outlook, str]:
        """Say what would become of a stage, and why; the stages that it needs must have been judged."""
        if step in self.left_out:
            self.outputs[step] = dict.fromkeys(self.lookup.pipeline.outputs(step), MARKER_MD5)
            if self.lookup.recorded_outs(step) == self.outputs[step]:
                self.up_to_date.add(step)
            return Outlook.LEFT_OUT, ""
        now = {path: self._hash_after(step, path) for path in self.lookup.pipeline.dependencies(step)}
        if MISSING in now.values():
            self.outputs[step] = None
            return Outlook.BLOCKED, f"{next(path for path, md5 in now.items() if md5 == MISSING)} is missing"
        recorded = self.lookup.recorded_deps(step)
        unknown = [path for path, md5 in now.items() if md5 is None]
        changed = [path for path, md5 in now.items() if md5 is not None and md5 != recorded.get(path)]
        is_new = not self.lookup.recorded_outs(step)
        outlook, self.outputs[step], trouble = self._outlook(step, now, is_changed=is_new or bool(changed))
        if outlook is Outlook.UP_TO_DATE:
            self.up_to_date.add(step)
            return outlook, ""
        if outlook is not Outlook.CACHED:
            self._foretell(step)
        if is_new:
            reasons = ["made before" if outlook is Outlook.CACHED else "never run"]
        else:
            reasons = [*self._changes(step, changed), *([trouble] if trouble else [])]
        reasons += [f"{listed([self._name(path) for path in unknown])} must run first"] if unknown else []
        return outlook, "; ".join(reasons)

    def _outlook(self, step: str, now: dict[str, str | None], *, is_changed: bool) -> tuple[Outlook, Sums | None, str]:
        """Return what becomes of a stage, its outputs then, and what is wrong with its present ones."""
        inputs = {path: md5 for path, md5 in now.items() if md5 is not None}
        is_changed = is_changed or self.lookup.has_new_command(step)
        if len(inputs) < len(now):
            return (Outlook.TO_RUN if is_changed else Outlook.BLOCKED), None, ""
        recorded = self.lookup.recorded_outs(step)
        trouble = "" if is_changed else self.lookup.trouble(step)
        if not is_changed and not trouble:
            return Outlook.UP_TO_DATE, recorded, ""
        outputs = self.lookup.made_from(step, inputs) if is_changed else recorded
        if outputs is not None and self.lookup.is_in_cache(step, outputs):
            return Outlook.CACHED, outputs, TROUBLES.get(trouble, trouble)
        return Outlook.TO_RUN, None, TROUBLES.get(trouble, trouble)

    def _hash_after(self, step: str, path: str) -> str | None:
        if path not in self.hashes:
            self.hashes[path] = self._find_hash(step, path)
        return self.hashes[path]

    def _find_hash(self, step: str, path: str) -> str | None:
        """Compute the md5 that a dependency will have, from the stage that makes it or those that fill it."""
        for whole in (path, *(folder.as_posix() for folder in Path(path).parents)):
            if whole in self.makers:
                outputs = self.outputs[self.makers[whole]]
                if outputs is None:
                    return None
                if whole == path:
                    return outputs[path]
                return self.files_in_cache(outputs[whole]).get(Path(path).relative_to(whole).as_posix(), MISSING)
        fillers = self.fillers.get(path, [])
        if any(self.outputs[filler] is None for filler in fillers):
            return None
        if all(filler in self.up_to_date for filler in fillers):
            return self.lookup.hash_now(step, path) or MISSING
        return self._hash_when_filled(step, path, fillers)

    def _hash_when_filled(self, step: str, path: str, fillers: list[str]) -> str:
        """Compute the md5 of a folder once the outputs of the stages that fill it are brought back into it."""
        files = self.lookup.files_now(step, path)
        for filler in fillers:
            for output, md5 in (self.outputs[filler] or {}).items():
                inside = Path(output).relative_to(path).as_posix()
                files = {file: value for file, value in files.items() if not f"{file}/".startswith(f"{inside}/")}
                if md5 == MARKER_MD5:
                    files[inside] = md5
                else:
                    files |= {f"{inside}/{file}": value for file, value in self.files_in_cache(md5).items()}
        return hash_of_folder(files)

    def _foretell(self, step: str) -> None:
        """Note what two stages will make, which is known before they run: cards, and the pairs' copies of teachers."""
        if step == "plan":
            for name, card in self.cards.items():
                text = yamlfile.text(card).encode()
                path = (CARDS / f"{name}.yaml").as_posix()
                self.hashes[path] = hashlib.md5(text, usedforsecurity=False).hexdigest()
        elif step == "pairs":
            for pair in self.params.pairs:
                weights = f"teachers/{pair.partition('-')[0]}/{run_folder.WEIGHTS}"
                self.hashes[f"pairs/{pair}.safetensors"] = self._hash_after(step, weights)

    def _changes(self, step: str, changed: list[str]) -> Iterator[str]:
        """Say what has changed since a stage was last recorded."""
        if self.lookup.has_new_command(step):
            yield "its command changed"
        for path in changed:
            yield self._card_change(step, path) if _is_card(path) else f"{self._name(path)} changed"

    def _name(self, path: str) -> str:
        """Name a dependency as a person does: data, a teacher, the cells of a pair."""
        if path == f"data/{self.params.data.name}":
            return "data"
        if path.startswith("data/"):
            return f"target {Path(path).name}"
        if path.startswith("pairs/"):
            return f"teacher {Path(path).name.partition('-')[0]}"
        fillers = [filler for filler in self.fillers.get(path, []) if filler not in self.left_out]
        unknown = [filler for filler in fillers if self.outputs[filler] is None]
        if not unknown:
            return path
        if len(unknown) == 1:
            return unknown[0]
        contents = CONTENTS.get(path.partition("/")[0], f"stages that fill {path}")
        return f"{'all' if unknown == fillers else f'{len(unknown)} of'} {len(fillers)} {contents}"

    def _card_change(self, step: str, path: str) -> str:
        new = self.cards[Path(path).relative_to(CARDS).with_suffix("").as_posix()]
        differences = (difference(old, new) for old in self._old_cards(step, path))
        shown = next(filter(None, differences), "")
        return f"card: {shown}" if shown else "card changed"

    def _old_cards(self, step: str, path: str) -> Iterator[Card]:
        """Yield the card with which a stage was last run: from its results, and from the plan if that still has it."""
        meta = Path(self.lookup.pipeline.outputs(step)[0]) / run_folder.META
        if step.partition("@")[0] in TRAININGS and meta.is_file():
            with suppress(UserError):  # a damaged file says nothing of the card
                yield read_json(meta)
        file = Path(path)
        if file.is_file() and self.lookup.hash_now(step, path) == self.lookup.recorded_deps(step).get(path):
            yield yamlfile.read_written(file)


def difference(old: Card, new: Card) -> str:
    """Describe what differs between two cards, as in "recipe.temperature 4.0 -> 3.0"; empty where nothing does.

    Args:
        old: a card, perhaps with more keys at its first level: those that say where results come from.
        new: the card that would be written.
    """
    before, after = (dict(_flat(card)) for card in (old, json.loads(json.dumps(new))))
    before = {key: value for key, value in before.items() if key.partition(".")[0] in new}
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    tops = Counter(key.partition(".")[0] for key in changed)
    changed = list(dict.fromkeys(top if tops[top := key.partition(".")[0]] > MANY else key for key in changed))
    changes = [_change(key, before.get(key), after.get(key)) for key in changed]
    more = [f"{len(changes) - FEW} more"] if len(changes) > FEW else []
    return ", ".join([*changes[:FEW], *more])


def _flat(card: Card, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested card under keys such as recipe.temperature."""
    for key, value in card.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _change(key: str, old: Any, new: Any) -> str:
    texts = ["none" if value is None else str(value) for value in (old, new)]
    if key.startswith("code.") or old == new or max(map(len, texts)) > SHORT:
        return f"{key} changed"
    return f"{key} {' -> '.join(texts)}"


def _is_card(path: str) -> bool:
    return Path(path).parts[0] == CARDS.name
