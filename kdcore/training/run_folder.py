"""Read and write a run's folder: the trained weights, one row of history per epoch, and a record of what made them."""

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
"""Keys of meta.json that no card holds: how the run was computed, which later changes of its code were accepted, and,
for a teacher from a checkpoint, the sources that were tried, the one that was adopted, and its measured top-1 accuracy
in percent.
"""


class _Training(Stored):
    epochs: int


class _Trained(Provenance):
    """The keys that evaluation reads from the meta.json of a cell."""

    train: _Training


class _Adopted(Stored):
    """The checkpoint that became a teacher."""

    source: str
    member: str | None = None
    sha256: str


class _Teacher(Stored):
    """The keys that the result tables read from the meta.json of a teacher."""

    source: str
    adopted: _Adopted | None = None
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
    """Write a run's folder: either all of its files appear, or none does.

    The function returns only when the disk holds them, because the saved state of the run is removed next.

    Args:
        folder: the run's folder; an existing one is replaced.
        network: the trained network.
        history: one row per epoch; empty for a network that was not trained here.
        meta: content of meta.json: the card, and how the run was computed.
        adapters: modules that a method trained beside the network; they are written to a file of their own.
    """
    from kdcore import checkpoints  # it imports torch, for which readers of runs need not wait

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
    """Check that a folder holds the whole result of a card.

    Args:
        folder: the run's folder.
        card: the card of the teacher, baseline or cell.

    Raises:
        UserError: a file is missing or damaged, the run was made from another card, or an epoch is missing or has an
            accuracy that is not finite.
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
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # TypeError: a line is cut short
        raise validated.damaged(folder / HISTORY, error) from error
    if len(accuracies) != card["train"]["epochs"] or not all(map(math.isfinite, accuracies)):
        held = f"it holds {len(accuracies)} epochs of {card['train']['epochs']}, or no numbers"
        raise validated.damaged(folder / HISTORY, held)


def is_done(folder: Path, card: dict[str, Any]) -> bool:
    """Return whether a folder holds the whole result of this card; all code that asks whether a run is done calls this.

    Args:
        folder: the run's folder.
        card: the card of the teacher, baseline or cell.
    """
    try:
        check(folder, card)
    except UserError:
        return False
    return True


def read(folder: Path, identity: dict[str, Any]) -> "tuple[dict[str, Any], pd.DataFrame]":
    """Read what made a trained network (its meta.json), and its history, one row per epoch.

    Args:
        folder: the run's folder.
        identity: the part of the run's card that the caller knows.

    Raises:
        UserError: a file is missing or damaged, or the run was made from another card.
    """
    meta = validated.read_checked(folder / META, _Trained)
    check(folder, {**identity, "train": meta["train"]})
    return meta, read_history(folder / HISTORY)


def read_history(file: Path) -> "pd.DataFrame":
    """Read the history of a finished or unfinished run: one row per epoch.

    Raises:
        UserError: the file is missing or damaged, or an epoch is missing.
    """
    history = validated.read_table(file, ("epoch", "train_top1", "test_top1"))
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise validated.damaged(file, "its epochs are not those from 1 on")
    return history


def read_teacher(folder: Path) -> dict[str, Any]:
    """Read the meta.json of a teacher: its card, and how it was trained or adopted.

    Raises:
        UserError: the file is missing or damaged.
    """
    return validated.read_checked(folder / META, _Teacher)


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the meta.json of a run: its card, and the commit, versions and device that computed it.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_json(folder / META)
