"""A run's folder: trained weights, history, and what made them."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from kdcore.system import csvfile, validated
from kdcore.system.errors import UserError
from kdcore.system.files import read_json, sync, whole, write_json
from kdcore.system.validated import Acceptance, Provenance, Stored

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

WEIGHTS = "weights.safetensors"
ADAPTERS = "adapters.safetensors"
HISTORY = "history.csv"
META = "meta.json"
PROVENANCE = (
    "commit", "versions", "device", "threads", "processes", "computed_in", "accepted", "adopted", "tried", "top1"
)  # fmt: skip
"""What meta.json holds beside the card: keys of `Provenance`, and of teachers that were adopted."""


class _Training(Stored):
    epochs: int


class _Trained(Provenance):
    """What evaluation takes from the meta.json of a cell."""

    train: _Training


class _Teacher(Stored):
    """What the tables take from the meta.json of a teacher."""

    source: str
    adopted: Any = None
    accepted: list[Acceptance] = Field(default_factory=list)
    train: _Training | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "_Teacher":
        if self.source == "published" and self.adopted is None and self.train is None:
            raise ValueError("neither adopted nor trained")
        return self


def write(
    folder: Path,
    network: "nn.Module",
    history: list[dict[str, float]],
    meta: dict[str, Any],
    *,
    adapters: "nn.Module | None" = None,
) -> None:
    """Write a run's folder, whole or not at all, and to the disk, for the state it was made from goes next.

    Args:
        folder: of the run.
        network: the trained one.
        history: a row per epoch; empty for a network that was not trained here.
        meta: what made it.
        adapters: what a method trained beside the network; kept in a file of its own.
    """
    from kdcore import checkpoints  # torch, which readers of runs need not wait for

    with whole(folder) as aside:
        checkpoints.save(network, aside / WEIGHTS)
        if adapters is not None and adapters.state_dict():
            checkpoints.save(adapters, aside / ADAPTERS)
        if history:
            (aside / HISTORY).write_text(csvfile.text(history), encoding="utf-8")
        write_json(aside / META, meta)
        sync(*aside.iterdir(), aside)
    sync(folder.parent)


def check(folder: Path, card: dict[str, Any]) -> None:
    """Refuse what is no whole result of a card.

    Args:
        folder: of the run.
        card: of the teacher, baseline or cell.

    Raises:
        UserError: a file is missing or damaged, the run is of another card, or an epoch is missing or not a number.
    """
    meta = read_meta(folder)
    if not meta.items() >= card.items():
        raise UserError(f"{folder / META}: is of another card; run 'dvc repro'")
    weights = folder / WEIGHTS
    if not weights.is_file() or not weights.stat().st_size:
        raise UserError(f"{weights}: is missing or empty; {validated.REMEDY}")
    if "adopted" in meta:
        return
    try:
        with (folder / HISTORY).open(newline="") as file:
            accuracies = [float(row["test_top1"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # TypeError: of a line that is cut short
        raise validated.damaged(folder / HISTORY, error) from error
    if len(accuracies) != card["train"]["epochs"] or not all(map(math.isfinite, accuracies)):
        held = f"it holds {len(accuracies)} epochs of {card['train']['epochs']}, or no numbers"
        raise validated.damaged(folder / HISTORY, held)


def is_done(folder: Path, card: dict[str, Any]) -> bool:
    """Say whether a folder holds the whole result of a card, and of no other; whatever else asks this asks here.

    Args:
        folder: of the run.
        card: of the teacher, baseline or cell.
    """
    try:
        check(folder, card)
    except UserError:
        return False
    return True


def read(folder: Path, identity: dict[str, Any]) -> "tuple[dict[str, Any], pd.DataFrame]":
    """What made a trained network, and its history.

    Args:
        folder: of the run.
        identity: what is known of its card.

    Raises:
        UserError: a file is missing or damaged, or the run is of another card.
    """
    meta = validated.read_checked(folder / META, _Trained)
    check(folder, {**identity, "train": meta["train"]})
    return meta, read_history(folder / HISTORY)


def read_history(file: Path) -> "pd.DataFrame":
    """A line per epoch, of a run or of one that is not finished.

    Raises:
        UserError: it is missing or damaged, or an epoch is missing.
    """
    history = validated.read_table(file, ("epoch", "train_top1", "test_top1"))
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise validated.damaged(file, "its epochs are not those from 1 on")
    return history


def read_teacher(folder: Path) -> dict[str, Any]:
    """What a teacher was made from, and how.

    Raises:
        UserError: there is no such teacher, or its meta.json is damaged.
    """
    return validated.read_checked(folder / META, _Teacher)


def read_meta(folder: Path) -> dict[str, Any]:
    """The card that the run was made from, commit, versions and device.

    Raises:
        UserError: there is no such run.
    """
    return read_json(folder / META)
