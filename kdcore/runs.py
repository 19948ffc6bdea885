"""A run's folder: trained weights, history, and what made them."""

import csv
from pathlib import Path
from typing import Any

from torch import nn

from kdcore import checkpoints, jsonfile
from kdcore.folders import whole

WEIGHTS = "weights.safetensors"
ADAPTERS = "adapters.safetensors"
HISTORY = "history.csv"
META = "meta.json"


def write(
    folder: Path,
    network: nn.Module,
    history: list[dict[str, float]],
    meta: dict[str, Any],
    *,
    adapters: nn.Module | None = None,
) -> None:
    """Write a run's folder, whole or not at all.

    Args:
        folder: of the run.
        network: the trained one.
        history: a row per epoch; empty for a network that was not trained here.
        meta: what made it.
        adapters: what a method trained beside the network; kept in a file of its own.
    """
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


def read_meta(folder: Path) -> dict[str, Any]:
    """The card that the run was made from, commit, versions, device and time.

    Raises:
        UserError: there is no such run.
    """
    return jsonfile.read(folder / META)
