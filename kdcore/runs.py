"""A run's folder: trained weights, history, and what made them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from kdcore import checkpoints
from kdcore.errors import UserError
from kdcore.folders import whole

WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
META = "meta.json"


def write(folder: Path, network: nn.Module, history: list[dict[str, float]], meta: dict[str, Any]) -> None:
    """Write a run's folder, whole or not at all."""
    with whole(folder) as aside:
        checkpoints.save(network, aside / WEIGHTS)
        pd.DataFrame(history).to_csv(aside / HISTORY, index=False)
        (aside / META).write_text(json.dumps(meta, indent=1) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """One row per epoch.

    Raises:
        UserError: there is no such run.
    """
    if not (folder / HISTORY).is_file():
        raise UserError(f"{folder}: holds no finished run; run 'dvc repro'")
    return pd.read_csv(folder / HISTORY).to_dict("records")  # type: ignore[return-value]


def read_meta(folder: Path) -> dict[str, Any]:
    """The card that the run was made from, commit, versions, device and time."""
    return json.loads((folder / META).read_text())
