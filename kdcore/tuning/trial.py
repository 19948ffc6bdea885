"""One trial: train its cells one after another, report every epoch to the study, and end early where that is asked."""

import math
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import json_text, remove_file, replace_text
from kdcore.training import experiment, run_folder
from kdcore.training.finite import NotFiniteError
from kdcore.training.loop import Row
from kdcore.training.pulse import live_file, pulse_file
from kdcore.training.state import saved_states
from kdcore.tuning import study as studies
from kdcore.tuning.study import ABOUT, RESULT, folder

COLUMN = "val_top1"


class PrunedError(Exception):
    """The trial is worse than others were at this epoch, and ends."""


class Reports:
    """What a trial tells its study: after each epoch, the mean of its cells' accuracies so far.

    Args:
        trial: Optuna's object.
        epochs: of each of the trial's cells, in their order.
    """

    def __init__(self, trial: Any, epochs: list[int]) -> None:
        self.trial, self.epochs = trial, epochs
        self.last: list[float] = []
        """Of each finished cell, the accuracy of its last epoch."""
        self.score: float | None = None

    def add(self, history: list[Row]) -> None:
        """Take in a cell's history after one more epoch; one after which nothing was measured tells nothing.

        Raises:
            PrunedError: the study asks the trial to end.
        """
        row = history[-1]
        if math.isnan(row[COLUMN]):
            return
        self.score = fmean([*self.last, row[COLUMN]])
        step = sum(self.epochs[: len(self.last)]) + int(row["epoch"])
        self.trial.report(self.score, step)
        print(f"epoch {row['epoch']:.0f}: validation {row[COLUMN]:.2f}%", flush=True)
        if step < sum(self.epochs) and self.trial.should_prune():
            raise PrunedError

    def end_cell(self, accuracy: float) -> None:
        """Take in the accuracy of a cell's last epoch."""
        self.last.append(accuracy)
        self.score = fmean(self.last)


def run(study: str, number: int) -> None:
    """Train the cells of a trial, or go on with them, and write how it ended to `RESULT`.

    Raises:
        UserError: there is no such trial, or what it needs is missing.
    """
    here = folder(study, number)
    if not (here / ABOUT).is_file():
        raise UserError(f"{here / ABOUT}: there is no such trial; 'python -m stages.tune' starts trials")
    about = yamlfile.read(here / ABOUT)
    cards = {name: yamlfile.read(here / f"{name}.yaml") for name in about["cells"]}
    epochs = [card["train"]["epochs"] for card in cards.values()]
    found = studies.opened(study, studies.pruner(about["pruner"], epochs[0]))
    trial = studies.library().trial.Trial(found, found.get_trials(deepcopy=False)[number]._trial_id)
    reports = Reports(trial, epochs)
    state, reason = "complete", ""
    try:
        for name, card in cards.items():
            reports.end_cell(_train(here, name, card, reports))
    except PrunedError:
        state = "pruned"
    except NotFiniteError as error:  # of these values: the search goes on with others
        state, reason = "failed", str(error)
    score = None if state == "failed" else reports.score
    replace_text(here / RESULT, json_text({"state": state, "score": score, "cells": reports.last, "reason": reason}))
    for name in cards:
        _forget(here, name)


def _train(here: Path, name: str, card: dict[str, Any], reports: Reports) -> float:
    """Train a cell, where that is not done; returns the accuracy of its last epoch."""
    out = here / name
    if not run_folder.is_done(out, card):
        pair = card["pair"]
        weights = Path("pairs") / f"{pair}.safetensors"
        experiment.run(here / f"{name}.yaml", out, teacher_weights=weights, watch=reports.add)
    return float(run_folder.read_history(out / run_folder.HISTORY, card)[COLUMN].iloc[-1])


def _forget(here: Path, name: str) -> None:
    """Remove what a cell leaves: its weights, which nobody needs, and, where it was stopped, its state."""
    shutil.rmtree(here / name, ignore_errors=True)
    remove_file(live_file(name))
    remove_file(pulse_file(name))
    for state in saved_states():
        if state.name == name:
            state.discard()
