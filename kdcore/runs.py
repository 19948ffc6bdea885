"""A run's folder: trained weights, history, and what made them."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore import disk, jsonfile
from kdcore.errors import UserError
from kdcore.folders import whole

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
ADAPTERS = "adapters.safetensors"
HISTORY = "history.csv"
META = "meta.json"


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
            with (aside / HISTORY).open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=history[0], lineterminator="\n")
                table.writeheader()
                table.writerows(history)
        jsonfile.write(aside / META, meta)
        disk.sync(*aside.iterdir(), aside)
    disk.sync(folder.parent)


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
        raise UserError(f"{folder / META}: is of another card")
    weights = folder / WEIGHTS
    if not weights.is_file() or not weights.stat().st_size:
        raise UserError(f"{weights}: is missing or empty")
    if "adopted" in meta:
        return
    try:
        with (folder / HISTORY).open(newline="") as file:
            accuracies = [float(row["test_top1"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / HISTORY}: is missing or damaged ({error!r})") from error
    if len(accuracies) != card["train"]["epochs"] or not all(map(math.isfinite, accuracies)):
        raise UserError(
            f"{folder / HISTORY}: holds {len(accuracies)} epochs of {card['train']['epochs']}, or no numbers"
        )


def read_meta(folder: Path) -> dict[str, Any]:
    """The card that the run was made from, commit, versions and device.

    Raises:
        UserError: there is no such run.
    """
    return jsonfile.read(folder / META)
