"""Keeping results when fingerprints of the code have changed, because a person says that the numbers have not.

A cell or teacher whose card differs from its results in fingerprints alone would be trained again. `survey` finds
them; `accept` brings their provenance and dvc.lock up to date instead, and keeps the reason with the results.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS, TRAININGS
from kdcore.matrix.left_out import is_left_out
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.files import file_sha256, json_text, replace_text
from kdcore.system.git import code_version
from kdcore.training import run_folder

CODE, ACCEPTED, NETWORKS = "code", "accepted", "networks"
Card = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A teacher or cell that DVC would make again."""

    stage: str
    """The stage's name in DVC, "train@resnet20-resnet8-kd-1-False-base-0"."""
    folder: Path
    """The folder of its results."""
    card: Card
    """The card of the planned matrix."""
    meta: Card
    """The content of the results' meta.json: the card that they were made from, and provenance."""
    obstacles: tuple[str, ...]
    """Why it cannot be accepted: values that differ, other changed inputs. Empty where it can."""

    @property
    def name(self) -> str:
        """The name of the teacher or cell."""
        return self.stage.partition("@")[2]

    @property
    def changed_code(self) -> list[str]:
        """Which fingerprints differ: "trainer", "method", ..."""
        old, new = _fingerprints(self.meta), _fingerprints(self.card)
        return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def survey() -> list[Candidate]:
    """Run stage plan, and find the teachers and cells that have results and that DVC would make again.

    Raises:
        UserError: DVC cannot say what is stale; its own words are in the message.
    """
    _dvc("repro", "plan")
    planned = {f"{kind}@{path.stem}": path for kind in TRAININGS for path in sorted((CARDS / kind).glob("*.yaml"))}
    if not planned:
        return []
    stale: dict[str, list[Any]] = json.loads(_dvc("status", "--json", *planned).strip().rpartition("\n")[2] or "{}")
    candidates = [_candidate(stage, stale[stage]) for stage in planned if stage in stale]
    return [candidate for candidate in candidates if candidate is not None]


def choose(candidates: Sequence[Candidate], names: Sequence[str]) -> list[Candidate]:
    """The candidates with these names or stages; all that can be accepted where no name is given.

    Raises:
        UserError: a name is no candidate, or one that cannot be accepted.
    """
    if not names:
        return [candidate for candidate in candidates if not candidate.obstacles]
    by_name = {key: candidate for candidate in candidates for key in (candidate.name, candidate.stage)}
    for name in names:
        if name not in by_name:
            hint = suggest(name, by_name)
            raise UserError(f"{shown(name)}: is no teacher or cell with results that DVC would make again.{hint}")
        if by_name[name].obstacles:
            raise UserError(f"{name}: cannot be accepted: {'; '.join(by_name[name].obstacles)}. 'dvc repro' makes it")
    return list({by_name[name].stage: by_name[name] for name in names}.values())


def accept(chosen: Sequence[Candidate], reason: str) -> None:
    """Write the new fingerprints and the reason into results, and have DVC record them as they are.

    Killed between the two, the same call goes on: until DVC has recorded a result, `survey` finds it.

    Args:
        chosen: from `choose`.
        reason: why the change of code leaves the numbers as they are.

    Raises:
        UserError: results are damaged, or DVC cannot record them.
    """
    if not chosen:
        return
    for candidate in chosen:  # all of them before any is changed
        run_folder.check(candidate.folder, candidate.card | _of_code(candidate.meta))
    files = {candidate.stage: _checksums(candidate.folder, candidate.meta) for candidate in chosen}
    for candidate in chosen:
        old, new = _fingerprints(candidate.meta), _fingerprints(candidate.card)
        if old != new:
            entry = {
                "reason": reason,
                "commit": code_version(),
                "from": old,
                "to": new,
                "files": files[candidate.stage],
            }
            accepted = [*candidate.meta.get(ACCEPTED, []), entry]
            meta = candidate.meta | _of_code(candidate.card) | {ACCEPTED: accepted}
            replace_text(candidate.folder / run_folder.META, json_text(meta))
    _dvc_commit(*(candidate.stage for candidate in chosen))


def _candidate(stage: str, changes: list[Any]) -> Candidate | None:
    """The candidate of a stale stage; None where it has no results."""
    kind, _, name = stage.partition("@")
    card_file = CARDS / kind / f"{name}.yaml"
    card = yamlfile.read(card_file)
    if is_left_out(card):
        return None
    folder = Path("teachers") / name if kind == "teacher" else RUNS / card["pair"] / name
    if not (folder / run_folder.META).is_file():
        return None
    try:
        meta = run_folder.read_meta(folder)
    except UserError as error:
        return Candidate(stage, folder, card, {}, (str(error),))
    rewritten = _is_rewritten(folder, meta)
    obstacles = [*differences(card, meta), *_inputs(changes, card_file, folder, rewritten=rewritten)]
    if CODE not in meta or (_fingerprints(meta) == _fingerprints(card) and not rewritten):
        obstacles.append(f"{folder} holds other results than DVC has recorded")
    return Candidate(stage, folder, card, meta, tuple(obstacles))


def _is_rewritten(folder: Path, meta: Card) -> bool:
    """Whether an earlier call has accepted these very files, and was ended before DVC recorded them."""
    accepted = meta.get(ACCEPTED)
    last = accepted[-1] if isinstance(accepted, list) and accepted else {}
    return "to" in last and last["to"] == _fingerprints(meta) and last.get("files") == _checksums(folder, meta)


def _checksums(folder: Path, meta: Card) -> dict[str, str]:
    """The sha256 of every file of results by its path; of meta.json without what `accept` writes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / run_folder.META]
    kept = {key: value for key, value in _values(meta).items() if key != ACCEPTED}
    described = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files} | {run_folder.META: described}


def _of_code(content: Card) -> Card:
    """The parts of a card or meta.json that hold fingerprints: of the project's code, and of networks by name."""
    return {key: content[key] for key in (CODE, NETWORKS) if key in content}


def _fingerprints(content: Card) -> Card:
    """The fingerprints of a card or meta.json: of the project's code, and what makes each network by name."""
    named = {f"network {name}": one["package"] for name, one in content.get(NETWORKS, {}).items() if "package" in one}
    return {**content.get(CODE, {}), **named}


def _values(content: Card) -> Card:
    """A card or meta.json without fingerprints."""
    kept = {key: value for key, value in content.items() if key != CODE}
    if NETWORKS in kept:
        kept[NETWORKS] = {
            name: {key: value for key, value in one.items() if key != "package"} for name, one in kept[NETWORKS].items()
        }
    return kept


def differences(card: Card, meta: Card) -> Iterator[str]:
    """Yield the values of a card, except fingerprints, that differ from those that a folder's results were made from.

    Args:
        card: of the teacher, baseline or cell.
        meta: the content of the folder's meta.json.
    """
    card, meta = _values(card), _values(meta)
    for key, value in card.items():
        yield from _changes(key, meta.get(key), value)
    for key in sorted(meta.keys() - card.keys() - set(run_folder.PROVENANCE)):
        yield f"{key} was {shown(meta[key])}, is gone"


def _changes(key: str, old: Any, new: Any) -> Iterator[str]:
    """Yield the values below a key that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in sorted({*old, *new}):
            yield from _changes(f"{key}.{part}", old.get(part), new.get(part))
    elif old != new:
        yield f"{key} was {shown(old)}, is {shown(new)}"


def _inputs(changes: list[Any], card_file: Path, folder: Path, *, rewritten: bool) -> Iterator[str]:
    """What else has changed, as DVC says, than the card and results that an earlier call has rewritten."""
    for change in changes:
        if not isinstance(change, dict):
            yield str(change)
            continue
        for what, paths in change.items():
            for path, state in paths.items():
                is_card = what == "changed deps" and Path(path) == card_file
                is_rewritten = what == "changed outs" and Path(path) == folder and state == "modified" and rewritten
                if not is_card and not is_rewritten:
                    yield f"{path} is {state}"


def _dvc_commit(*stages: str) -> None:
    """Have DVC record the results of stages as they are now."""
    _dvc("commit", "--force", *stages)


def _dvc(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "dvc", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise UserError(f"dvc {arguments[0]}: failed; it says: {said}")
    return done.stdout
