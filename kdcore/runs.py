"""A run's folder: trained weights, history, and what made them."""

import csv
import json
from pathlib import Path
from typing import Any

from torch import nn

from kdcore import checkpoints
from kdcore.errors import UserError
from kdcore.folders import whole

WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
META = "meta.json"


def write(folder: Path, network: nn.Module, history: list[dict[str, float]], meta: dict[str, Any]) -> None:
    """Write a run's folder, whole or not at all; a network that was not trained here has no history."""
    with whole(folder) as aside:
        checkpoints.save(network, aside / WEIGHTS)
        if history:
            with (aside / HISTORY).open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=history[0], lineterminator="\n")
                table.writeheader()
                table.writerows(history)
        (aside / META).write_text(json.dumps(meta, indent=1) + "\n")


def read_meta(folder: Path) -> dict[str, Any]:
    """The card that the run was made from, commit, versions, device and time.

    Raises:
        UserError: there is no such run.
    """
    if not (folder / META).is_file():
        raise UserError(f"{folder}: holds no finished run; run 'dvc repro'")
    return json.loads((folder / META).read_text())
