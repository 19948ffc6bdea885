"""The results of a matrix whose cells still train, read from outside DVC; no stage depends on this.

A run counts if it was made from the card that the plan has now, and from the data set and the teacher that are there.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

from kdcore import catalog, checkpoints, networks
from kdcore.data import storage, subsets
from kdcore.matrix import robustness_section
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS
from kdcore.results import captions, evaluation, probed, published
from kdcore.results.diagnostics import stored as diagnosed
from kdcore.results.diagnostics.stored import Diagnosis
from kdcore.results.evaluation import DIGITS
from kdcore.results.robustness import stored
from kdcore.results.rows import METRICS, Card, Evaluation, Results, read_evaluation
from kdcore.system import validated, yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.system.validated import Provenance
from kdcore.system.workspace import MANIFEST
from kdcore.training import run_folder, timings
from kdcore.training.made_from import DATA, TEACHERS, PresentInputs
from kdcore.training.pulse import live_file
from kdcore.training.timings import Timing

OUT = Path("scratch/report")
EVALUATIONS = Path("evaluations")
IN_HISTORY = MappingProxyType({"val_top1": "val_top1", "top1_ema": "ema_test_top1"})
"""What a cell's evaluation has where its run has it -> the column of the history that ends with it."""


@dataclass(frozen=True)
class Done:
    """A teacher or cell whose training has ended."""

    meta: dict[str, Any]
    history: pd.DataFrame | None
    """One line per epoch; None for a network that was not trained here."""

    @property
    def top1(self) -> float:
        """Accuracy of the last epoch in percent."""
        return self.meta["top1"] if self.history is None else _last(self.history)


@dataclass(frozen=True)
class Unfinished:
    """A teacher or cell that trains now, or was interrupted."""

    name: str
    epochs: int
    """How many it will train."""
    history: pd.DataFrame
    """One line per finished epoch."""

    def __str__(self) -> str:
        """Say how far it is, in one line, with the accuracy that was measured last."""
        measured = self.history["test_top1"].dropna()
        top1 = f"{measured.iloc[-1]:.2f}%" if len(measured) else "not measured yet"
        return f"{self.name}: {len(self.history)} of {self.epochs} epochs, {top1}"


@dataclass(frozen=True)
class Halfway:
    """The results so far, and what is missing."""

    results: Results
    cells: int
    """How many cells the matrix has."""
    unfinished: list[Unfinished]
    """Teachers that are not finished, then cells."""

    @property
    def done(self) -> int:
        """How many cells have a result."""
        return sum(len(evaluation["cells"]) for evaluation in self.results.evaluations)


def collect() -> Halfway:
    """Read the plan's cards, and the teachers, runs, evaluations and live histories that are there now.

    A pair without a teacher or data set has no evaluation, because none of its cells can be current. Damaged files are
    named on stderr, and count as missing.

    Raises:
        UserError: there is no plan, or the plan, the data set or data/published.yaml is damaged.
    """
    if not (CARDS / "tables.yaml").is_file():
        raise UserError(f"{CARDS / 'tables.yaml'}: there is no plan yet; run 'dvc repro plan'")
    card = yamlfile.read(CARDS / "tables.yaml")
    teacher_cards = {name: CARDS / "teacher" / f"{name}.yaml" for name in card["teachers"]}
    teachers = {
        name: _done(TEACHERS / name, yamlfile.read(path), run_folder.read_teacher)
        for name, path in teacher_cards.items()
    }
    now = PresentInputs()
    there = {name: done for name, done in teachers.items() if done is not None and _is_current(name, done, now)}
    card = captions.with_teachers(card, {name: done.meta for name, done in there.items()})
    unfinished = [_unfinished(path) for name, path in teacher_cards.items() if name not in there]
    evaluations, histories, cells = [], {}, 0
    for pair in card["pairs"]:
        identities = yamlfile.read(CARDS / "evaluate" / f"{pair}.yaml")["cells"]
        cells += len(identities)
        teacher = there.get(pair.split("-")[0])
        if teacher is not None and (DATA / card["data"] / MANIFEST).is_file():
            measured, histories[pair], still = _pair_so_far(card, pair, identities, teacher, now)
            evaluations.append(measured)
            unfinished += still
    figures = published.Published.of(yamlfile.read(published.FILE), card["data"])
    diagnoses = _diagnoses(card.get("diagnostics", ()), evaluations)
    results = Results.of(
        card,
        evaluations,
        histories,
        figures,
        _timings(evaluations),
        robustness=_robustness(card),
        diagnoses=diagnoses,
    )
    results = probed.with_probes(results, EVALUATIONS, partial=True)
    return Halfway(results, cells, [one for one in unfinished if one is not None])


def _pair_so_far(
    card: Card, pair: str, identities: list[dict[str, Any]], teacher: Done, now: PresentInputs
) -> tuple[Evaluation, pd.DataFrame, list[Unfinished | None]]:
    """Collect the results of a pair.

    Returns:
        The pair's evaluation (see `evaluation.evaluate_pair`) with the cells that are done, where those that have not
        been evaluated have their accuracy alone; the histories of all cells that have begun; and the unfinished cells.
    """
    evaluated = _evaluated(EVALUATIONS / pair)
    measured = {cell["name"]: cell for cell in evaluated["cells"]}
    cells, unfinished, reused = [], [], False
    histories = [pd.DataFrame(columns=["cell", "epoch", "test_top1"])]
    for identity in identities:
        name = identity["name"]
        card_file = _card_file(identity)
        done = _done(RUNS / pair / name, yamlfile.read(card_file), _read_cell)
        if done is None or done.history is None or not _is_current(name, done, now):
            unfinished.append(_unfinished(card_file))
            continue
        cell = _cell(identity, done, done.history)
        is_current = name in measured and _is_same_run(measured[name], cell)
        cells.append({**measured[name], "accepted": cell.get("accepted", [])} if is_current else cell)
        reused = reused or is_current
        histories.append(done.history.assign(cell=name))
    histories += [one.history.assign(cell=one.name) for one in unfinished if one is not None]
    is_of_teacher = evaluated.get("teacher", {}).get("weights_sha256") == _weights_of(pair)
    summary = evaluated if reused and is_of_teacher else _without_evaluation(card, pair, teacher)
    cells = [{**_own_cost(cell, card, summary["student"]), **cell} for cell in cells]
    together = pd.concat(histories[1:] or histories, ignore_index=True)
    return {**summary, "cells": cells}, together, unfinished


def _is_current(name: str, done: Done, now: PresentInputs) -> bool:
    """Whether a network was made from the data set and the teacher that are there now; says so where it was not."""
    reason = now.changed(done.meta)
    if reason:
        _warn(UserError(f"{name}: {reason}"))
    return not reason


def _robustness(card: Card) -> dict[str, dict[str, Any]]:
    """Read what was measured on corrupted images so far, set -> pair -> measurement."""
    found: dict[str, dict[str, Any]] = {name: {} for name in card.get("robustness", ())}
    for name, pair in product(found, card["pairs"]):
        folder = robustness_section.folder(name, pair)
        try:
            found[name] |= {pair: stored.read(folder)} if (folder / stored.FILE).is_file() else {}
        except UserError as error:
            _warn(error)
    return found


def _weights_of(pair: str) -> str:
    return file_sha256(TEACHERS / pair.partition("-")[0] / run_folder.WEIGHTS)


def _evaluated(folder: Path) -> Evaluation:
    """Read the evaluation in a folder; one without cells where there is none."""
    try:
        return read_evaluation(folder) if (folder / METRICS).is_file() else {"cells": []}
    except UserError as error:
        _warn(error)
        return {"cells": []}


def _read_cell(folder: Path) -> dict[str, Any]:
    return validated.read_checked(folder / run_folder.META, Provenance)


def _done(folder: Path, card: Card, read: Callable[[Path], dict[str, Any]]) -> Done | None:
    """Read the run in a folder, its meta.json by `read`; None where there is none of this card."""
    if not (folder / run_folder.META).is_file():
        return None
    try:
        meta = read(folder)
        if not run_folder.is_of(meta, card):
            return None
        run_folder.check(folder, card)
        return Done(meta, None if "adopted" in meta else run_folder.read_history(folder / run_folder.HISTORY, card))
    except UserError as error:
        _warn(error)
        return None


def _unfinished(card_file: Path) -> Unfinished | None:
    """Read how far a card's run is; None where it has not begun, or its history is older than the card."""
    card = yamlfile.read(card_file)
    live = live_file(card["name"])
    try:
        if live.stat().st_mtime < card_file.stat().st_mtime:
            return None
        return Unfinished(card["name"], card["train"]["epochs"], run_folder.read_history(live, card))
    except FileNotFoundError:
        return None
    except UserError as error:
        if live.exists():  # otherwise it was removed between the two calls, because the run has ended
            _warn(error)
        return None


def _warn(error: UserError) -> None:
    print(f"warning: {error}; it counts as not there", file=sys.stderr)


def _card_file(identity: dict[str, Any]) -> Path:
    return CARDS / ("train" if "scale" in identity else "baseline") / f"{identity['name']}.yaml"


def _timings(evaluations: list[Evaluation]) -> dict[str, Timing]:
    """Return the latest time of every cell that one process trained here without a break, from its present card, and
    without others side by side, whose time would be told for its own.
    """
    log = {(timing.name, timing.card, timing.epochs): timing for timing in timings.load() if not timing.beside}
    cells = [cell for evaluation in evaluations for cell in evaluation["cells"]]
    keys = {cell["name"]: (cell["name"], file_sha256(_card_file(cell)), cell["epochs"]) for cell in cells}
    return {name: log[key] for name, key in keys.items() if key in log}


def _diagnoses(pairs: Iterable[str], evaluations: list[Evaluation]) -> dict[str, Diagnosis]:
    """Read the diagnostics of pairs that have some, of the cells whose weights are those that are there now."""
    now = {cell["weights_sha256"] for evaluation in evaluations for cell in evaluation["cells"]}
    found = {}
    for pair in pairs:
        try:
            diagnosis = diagnosed.read(diagnosed.FOLDER / pair) if (diagnosed.FOLDER / pair).is_dir() else {"cells": []}
        except UserError as error:
            _warn(error)
            continue
        cells = [cell for cell in diagnosis["cells"] if cell["weights_sha256"] in now]
        if cells:
            found[pair] = {**diagnosis, "cells": cells}
    return found


def _last(history: pd.DataFrame, column: str = "test_top1") -> float:
    return round(float(history[column].iloc[-1]), DIGITS)


def _is_same_run(evaluated: dict[str, Any], cell: dict[str, Any]) -> bool:
    """Return whether a cell of an evaluation was measured on the run that is there."""
    return all(evaluated.get(key) == cell[key] for key in (*evaluation.PROVENANCE, "weights_sha256"))


def _cell(identity: dict[str, Any], done: Done, history: pd.DataFrame) -> dict[str, Any]:
    return {
        **identity,
        "top1": done.top1,
        "top1_best": evaluation.best_top1(history),
        **{name: _last(history, column) for name, column in IN_HISTORY.items() if column in history},
        **evaluation.provenance(done.meta),
        "weights_sha256": file_sha256(RUNS / identity["pair"] / identity["name"] / run_folder.WEIGHTS),
    }


def _own_cost(cell: dict[str, Any], card: Card, plain: dict[str, int]) -> dict[str, Any]:
    """Return the cost of a cell's student that ends as its method wants, see `evaluation.own_cost`."""
    if not any(entry.replaces_student for entry in catalog.terms(cell["method"])):
        return {}
    manifest = storage.read_manifest(DATA / card["data"])
    weights = RUNS / cell["pair"] / cell["name"] / run_folder.WEIGHTS
    try:
        named = cell["student"] in _described(cell["pair"])
        with torch.device("cpu" if named else "meta"):  # costs depend on shapes alone; others' code may ask for values
            network = networks.create(
                cell["student"], len(manifest.classes), stem=manifest.stem, described=_described(cell["pair"])
            )
            return evaluation.own_cost(checkpoints.with_its_end(network, weights), manifest.image_size, plain)
    except UserError as error:
        print(f"warning: {error}; the cost of its student is not known", file=sys.stderr)
        return {}


def _described(pair: str) -> dict[str, Any]:
    """Return the descriptions of a pair's networks that params.yaml names."""
    return yamlfile.read(CARDS / "evaluate" / f"{pair}.yaml").get("networks", {})


def _without_evaluation(card: Card, pair: str, teacher: Done) -> Evaluation:
    """Return what is known of a pair besides its cells."""
    manifest = storage.read_manifest(DATA / card["data"])
    teacher_cost, student_cost = (
        evaluation.plain_cost(
            card.get("networks", {}).get(name, name),
            len(manifest.classes),
            stem=manifest.stem,
            image_size=manifest.image_size,
            described=_described(pair),
        )
        for name in pair.split("-")
    )
    counted = manifest.counts.train
    if "validation" in card:
        dataset = subsets.chosen(storage.load(DATA / card["data"]), validation=card["validation"])
        counted = len(dataset.train.labels)
    return {
        "pair": pair,
        "train_images": counted,
        "classes": len(manifest.classes),
        "teacher": {"top1": teacher.top1, **teacher_cost},
        "student": student_cost,
    }
