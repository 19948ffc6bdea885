"""Read and write a run's folder: the trained weights, one row of history per epoch, and a record of what made them."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from kdcore.matrix.train_card import is_measured, measured_on
from kdcore.system import csvfile, validated
from kdcore.system.errors import UserError
from kdcore.system.files import read_json, sync, whole, write_json
from kdcore.system.validated import Acceptance, Provenance, Stored

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from kdcore.data.dataset import Dataset
    from kdcore.networks.input_affine import Normalisation

WEIGHTS = "weights.safetensors"
AVERAGE = "ema.safetensors"
ADAPTERS = "adapters.safetensors"
HISTORY = "history.csv"
META = "meta.json"
PROVENANCE = (
    "commit", "versions", "device", "threads", "tf32", "processes", "computed_in", "accepted", "adopted", "tried",
    "top1", "images", "compiled", "made_from"
)  # fmt: skip
"""Keys of meta.json that no card holds: how the run was computed, which later changes of its code were accepted, how
its images were normalised, what it was made from (see `made_from`), and, for a teacher from a checkpoint, the sources
that were tried, the one that was adopted, and its measured top-1 accuracy in percent.
"""
OPTIONAL = ("validation", "test")
"""Keys that a card holds only where they are set: a run without them is of another card than one with them."""


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
    average: "nn.Module | None" = None,
) -> None:
    """Write a run's folder: either all of its files appear, or none does.

    The function returns only when the disk holds them, because the saved state of the run is removed next.

    Args:
        folder: the run's folder; an existing one is replaced.
        network: the trained network.
        history: one row per epoch; empty for a network that was not trained here.
        meta: content of meta.json: the card, and how the run was computed.
        adapters: modules that a method trained beside the network; they are written to a file of their own.
        average: the network with averaged weights, for a file of its own.
    """
    from kdcore import checkpoints  # it imports torch, for which readers of runs need not wait

    with whole(folder) as aside:
        checkpoints.save(network, aside / WEIGHTS)
        if average is not None:
            checkpoints.save(average, aside / AVERAGE)
        if adapters is not None and adapters.state_dict():
            checkpoints.save(adapters, aside / ADAPTERS)
        if history:
            (aside / HISTORY).write_text(csvfile.text(history), encoding="utf-8")
        write_json(aside / META, meta)
        sync(*aside.iterdir(), aside)
    sync(folder.parent)


def seen(dataset: "Dataset") -> dict[str, Any]:
    """Return how a run's images were normalised, as a part of meta.json: its weights fit such images alone."""
    return {"images": {"mean": list(dataset.mean), "std": list(dataset.std)}}


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
    if not is_of(meta, card):
        raise UserError(f"{folder / META}: is of another card; run 'dvc repro'")
    averaged = [folder / AVERAGE] if _is_averaged(card) else []
    for weights in (folder / WEIGHTS, *averaged):
        if not weights.is_file() or not weights.stat().st_size:
            raise UserError(f"{weights}: is missing or empty; {validated.REMEDY}")
    if "adopted" in meta:
        return
    try:
        with (folder / HISTORY).open(newline="") as file:
            rows = list(csv.DictReader(file))
        measured = [row for epoch, row in enumerate(rows, 1) if _is_measured(card, epoch)]
        accuracies = [float(row[column]) for row in measured for column in _accuracies(card)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # TypeError: a line is cut short
        raise validated.damaged(folder / HISTORY, error) from error
    if len(rows) != card["train"]["epochs"] or not all(map(math.isfinite, accuracies)):
        held = f"it holds {len(rows)} epochs of {card['train']['epochs']}, or no numbers"
        raise validated.damaged(folder / HISTORY, held)


def is_of(meta: dict[str, Any], card: dict[str, Any]) -> bool:
    """Return whether a run was made from a card.

    Args:
        meta: the content of the run's meta.json.
        card: the card, or its identity with those of the keys `OPTIONAL` that it holds.
    """
    return meta.items() >= card.items() and all(meta.get(key) == card.get(key) for key in OPTIONAL)


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
        identity: the part of the run's card that the caller knows, with those of the keys `OPTIONAL` that it holds.

    Raises:
        UserError: a file is missing or damaged, or the run was made from another card.
    """
    meta = validated.read_checked(folder / META, _Trained)
    check(folder, {**identity, "train": meta["train"]})
    return meta, read_history(folder / HISTORY, meta)


def read_history(file: Path, card: dict[str, Any]) -> "pd.DataFrame":
    """Read the history of a finished or unfinished run: one row per epoch, with gaps where nothing was measured.

    Args:
        file: path of the file.
        card: of the teacher, baseline or cell; it says which accuracies a row has.

    Raises:
        UserError: the file is missing or damaged, or an epoch or its accuracy is missing.
    """
    history = validated.read_table(file, ("epoch", "train_top1"))
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise validated.damaged(file, "its epochs are not those from 1 on")
    measured = [_is_measured(card, epoch) for epoch in history["epoch"]]
    validated.check_finite(file, history[measured], _accuracies(card))
    return history


def _is_measured(card: dict[str, Any], epoch: int) -> bool:
    """Return whether the network of a card is measured after an epoch: always where the card says nothing of them."""
    train = card.get("train")
    return train is None or is_measured(epoch, epochs=train["epochs"], every=train.get("evaluate_every"))


def _accuracies(card: dict[str, Any]) -> list[str]:
    """Name the columns of a history that hold the accuracies on validation and test images."""
    columns = [f"{name}_top1" for name in measured_on(card)]
    return [*columns, *(f"ema_{column}" for column in columns if _is_averaged(card))]


def _is_averaged(card: dict[str, Any]) -> bool:
    """Return whether the run of a card averages its weights; a teacher's card without training does not."""
    return bool((card.get("train") or {}).get("ema"))


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


def recorded(weights: Path) -> "tuple[dict[str, Any], Normalisation | None]":
    """Read what the folder of a run, or an exported file, says of its weights.

    Args:
        weights: the weights' file, which may lie in no run's folder.

    Returns:
        The content of meta.json, of an exported file only `student` and `networks`, and nothing where there is neither,
        or for the average of a run's weights; and how the images were normalised that the network was trained on, where
        that is recorded.

    Raises:
        UserError: the record is damaged.
    """
    from kdcore import checkpoints  # they import torch
    from kdcore.networks.input_affine import Normalisation

    if weights.name in (WEIGHTS, AVERAGE) and (weights.parent / META).is_file():
        meta = read_meta(weights.parent)
        said = meta if "adopted" in meta and "mean" in meta else meta.get("images")
        meta = meta if weights.name == WEIGHTS else {}
    elif about := checkpoints.exported(weights):
        meta, said = {"student": about["network"], "networks": about["networks"]}, about
    else:
        return {}, None
    return meta, Normalisation(tuple(said["mean"]), tuple(said["std"])) if said else None
