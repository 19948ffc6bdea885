"""What there is of a matrix while its cells still train: the view from outside DVC, which no stage depends on.

A run counts where it was made from the card that the plan has now; what a replaced data set or teacher makes stale, DVC
alone can tell.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdcore import networks
from kdcore.data import storage
from kdcore.matrix.cards import CARDS
from kdcore.matrix.cell import RUNS
from kdcore.results import captions, evaluation, published
from kdcore.results.evaluation import DIGITS, PROVENANCE
from kdcore.results.rows import METRICS, Card, Evaluation, Results, read_evaluation
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.training import run_folder, timings
from kdcore.training.experiment import DATA
from kdcore.training.pulse import live_file
from kdcore.training.timings import Timing

OUT = Path("scratch/report")
EVALUATIONS, TEACHERS = Path("evaluations"), Path("teachers")


@dataclass(frozen=True)
class Done:
    """A run with results."""

    meta: dict[str, Any]
    history: pd.DataFrame | None
    """A line per epoch; None for a network that was not trained here."""

    @property
    def top1(self) -> float:
        """Percent, of the last epoch."""
        return self.meta["top1"] if self.history is None else _last(self.history)


@dataclass(frozen=True)
class Unfinished:
    """A teacher or cell that trains now, or was interrupted."""

    name: str
    epochs: int
    """In all."""
    history: pd.DataFrame
    """A line per epoch so far."""

    def __str__(self) -> str:
        """For a list."""
        return f"{self.name}: {len(self.history)} of {self.epochs} epochs, {_last(self.history):.2f}%"


@dataclass(frozen=True)
class Halfway:
    """All that there is."""

    results: Results
    cells: int
    """Of the matrix."""
    unfinished: list[Unfinished]
    """Teachers, then cells."""

    @property
    def done(self) -> int:
        """Cells with a result."""
        return sum(len(found["cells"]) for found in self.results.evaluations)


def collect() -> Halfway:
    """Read the plan's cards, and of teachers, runs, evaluations and live histories what is there now.

    Pairs without a teacher, or before the data set is there, have no evaluation: none of their cells can be current.
    What is damaged is named on stderr, and counts as not there.

    Raises:
        UserError: there is no plan, or the plan, the data set or data/published.yaml is damaged.
    """
    if not (CARDS / "tables.yaml").is_file():
        raise UserError(f"{CARDS / 'tables.yaml'}: there is no plan yet; run 'dvc repro plan'")
    card = yamlfile.read(CARDS / "tables.yaml")
    teacher_cards = {name: CARDS / "teacher" / f"{name}.yaml" for name in card["teachers"]}
    teachers = {name: _done(TEACHERS / name, yamlfile.read(path)) for name, path in teacher_cards.items()}
    there = {name: done for name, done in teachers.items() if done is not None}
    card["teachers"] = captions.origins(card, {name: done.meta for name, done in there.items()})
    unfinished = [_unfinished(path) for name, path in teacher_cards.items() if name not in there]
    evaluations, histories, cells = [], {}, 0
    for pair in card["pairs"]:
        identities = yamlfile.read(CARDS / "evaluate" / f"{pair}.yaml")["cells"]
        cells += len(identities)
        teacher = there.get(pair.split("-")[0])
        if teacher is not None and (DATA / card["data"] / storage.MANIFEST).is_file():
            found, histories[pair], still = _of_pair(card, pair, identities, teacher)
            evaluations.append(found)
            unfinished += still
    figures = published.Published.of(yamlfile.read(published.FILE), card["data"])
    results = Results.of(card, evaluations, histories, figures, _timings(evaluations))
    return Halfway(results, cells, [one for one in unfinished if one is not None])


def _of_pair(
    card: Card, pair: str, identities: list[dict[str, Any]], teacher: Done
) -> tuple[Evaluation, pd.DataFrame, list[Unfinished | None]]:
    """As `evaluation.evaluate_pair` has it, of the cells that are done, not evaluated ones with their accuracy
    alone; histories of all that have begun; and what is unfinished.
    """
    evaluated = _evaluated(EVALUATIONS / pair)
    measured = {cell["name"]: cell for cell in evaluated["cells"]}
    cells, unfinished, reused = [], [], False
    histories = [pd.DataFrame(columns=["cell", "epoch", "test_top1"])]
    for identity in identities:
        name = identity["name"]
        card_file = _card_file(identity)
        done = _done(RUNS / pair / name, yamlfile.read(card_file))
        if done is None or done.history is None:
            unfinished.append(_unfinished(card_file))
            continue
        found = _cell(identity, done, done.history)
        is_current = name in measured and _is_same(measured[name], found)
        cells.append(measured[name] if is_current else found)
        reused = reused or is_current
        histories.append(done.history.assign(cell=name))
    histories += [one.history.assign(cell=one.name) for one in unfinished if one is not None]
    summary = evaluated if reused else _without_evaluation(card, pair, teacher)
    together = pd.concat(histories[1:] or histories, ignore_index=True)
    return {**summary, "cells": cells}, together, unfinished


def _evaluated(folder: Path) -> Evaluation:
    """The evaluation of a folder, one of no cells where there is none."""
    try:
        return read_evaluation(folder) if (folder / METRICS).is_file() else {"cells": []}
    except UserError as error:
        _warn(error)
        return {"cells": []}


def _done(folder: Path, card: Card) -> Done | None:
    """The run of a folder, None where there is none of this card."""
    if not (folder / run_folder.META).is_file():
        return None
    try:
        meta = run_folder.read_meta(folder)
        if not meta.items() >= card.items():
            return None
        run_folder.check(folder, card)
        return Done(meta, None if "adopted" in meta else run_folder.read_history(folder / run_folder.HISTORY))
    except UserError as error:
        _warn(error)
        return None


def _unfinished(card_file: Path) -> Unfinished | None:
    """The run of a card as far as it is; None where it has not begun, or its history is older than the card."""
    card = yamlfile.read(card_file)
    live = live_file(card["name"])
    try:
        if live.stat().st_mtime < card_file.stat().st_mtime:
            return None
        return Unfinished(card["name"], card["train"]["epochs"], run_folder.read_history(live))
    except FileNotFoundError:
        return None
    except UserError as error:
        if live.exists():  # or it went between the two calls, when its results came in
            _warn(error)
        return None


def _warn(error: UserError) -> None:
    print(f"warning: {error}; it counts as not there", file=sys.stderr)


def _card_file(identity: dict[str, Any]) -> Path:
    return CARDS / ("train" if "scale" in identity else "baseline") / f"{identity['name']}.yaml"


def _timings(evaluations: list[Evaluation]) -> dict[str, Timing]:
    """The latest of every cell that one process trained here, from its present card and from its first epoch on."""
    log = {(timing.name, timing.card, timing.epochs): timing for timing in timings.load()}
    cells = [cell for found in evaluations for cell in found["cells"]]
    keys = {cell["name"]: (cell["name"], file_sha256(_card_file(cell)), cell["epochs"]) for cell in cells}
    return {name: log[key] for name, key in keys.items() if key in log}


def _last(history: pd.DataFrame) -> float:
    return round(float(history["test_top1"].iloc[-1]), DIGITS)


def _is_same(cell: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a cell of an evaluation was measured on the run that is there."""
    return all(cell.get(key) == found[key] for key in (*PROVENANCE, "recipe", "weights_sha256"))


def _cell(identity: dict[str, Any], done: Done, history: pd.DataFrame) -> dict[str, Any]:
    return {
        **identity,
        "top1": done.top1,
        "top1_best": evaluation.best_top1(history),
        "recipe": done.meta["recipe"],
        **{key: done.meta.get(key) for key in PROVENANCE},
        "epochs": done.meta["train"]["epochs"],
        "weights_sha256": file_sha256(RUNS / identity["pair"] / identity["name"] / run_folder.WEIGHTS),
    }


def _without_evaluation(card: Card, pair: str, teacher: Done) -> Evaluation:
    """What is known of a pair besides its cells."""
    manifest = storage.read_manifest(DATA / card["data"])
    with torch.device("meta"):  # costs depend on shapes alone
        made = [networks.create(name, len(manifest.classes), stem=manifest.stem) for name in pair.split("-")]
    of_teacher, of_student = (evaluation.cost(network, manifest.image_size) for network in made)
    return {
        "pair": pair,
        "train_images": manifest.counts.train,
        "classes": len(manifest.classes),
        "teacher": {"top1": teacher.top1, **of_teacher},
        "student": of_student,
    }
