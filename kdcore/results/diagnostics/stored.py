"""The files of stage diagnose: what they hold, and how they are written and read."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from kdcore.system import validated
from kdcore.system.validated import Stored

FOLDER = Path("evaluations") / "diagnostics"
FOUND, COST = "diagnostics.json", "cost.json"
"""What is the same on every run; and what was measured on a machine."""
Diagnosis = dict[str, Any]
"""The content of `FOUND` of a pair, with that of `COST` under `cost`."""


class _Network(Stored):
    logit_mean: float
    """Mean over images of the mean over classes of an image's logits."""
    logit_deviation: float
    """Mean over images of the deviation over classes of an image's logits."""
    logits: list[list[float]]
    """The means, and the deviations, of the first images, one by one."""
    class_right: list[int]
    """Right predictions of each class."""
    regions: dict[str, list[int]] = Field(default_factory=dict)
    """Level -> counts of regions, see `kdcore.results.diagnostics.measures.region_kinds`."""
    picture: list[list[float]] | None = None
    """Points of the picture's images; None for a cell that is not the first seed of its row."""


class _Cell(_Network):
    name: str
    seed: int
    weights_sha256: str
    correlation_mean: float
    """Mean over pairs of classes of the difference of the logits' correlations, teacher's and student's."""
    correlation_max: float
    correlation_blocks: list[list[float]]
    """The differences, averaged over blocks of classes."""
    agreement: list[int]
    """Images of each bin of the teacher's confidence on which student and teacher agree."""
    cka: list[list[float | None]]
    """Student's layers x teacher's layers: stages, shallow to deep, and the pooled vector."""
    adapters: int
    """Parameters that the method trained beside the student."""


class _Picture(Stored):
    classes: list[str]
    labels: list[int]


class _Diagnosis(Stored):
    pair: str
    images: int
    class_images: list[int]
    confidence_images: list[int]
    picture: _Picture
    teacher: _Network
    cells: list[_Cell]


class _Training(Stored):
    device: str
    threads: int
    step_milliseconds: float | None
    memory: int | None


class _Cost(Stored):
    device: str
    threads: int
    images_per_second: dict[str, dict[str, float]]
    trainings: dict[str, _Training]


def write(folder: Path, found: dict[str, Any], cost: dict[str, Any]) -> None:
    """Write both files into a folder, in few lines, for most of it are long lists."""
    for name, content in ((FOUND, found), (COST, cost)):
        (folder / name).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def read(folder: Path) -> Diagnosis:
    """Read the diagnostics of a pair.

    Raises:
        UserError: a file is missing or damaged.
    """
    found = validated.read_checked(folder / FOUND, _Diagnosis)
    return {**found, "cost": validated.read_checked(folder / COST, _Cost)}


def read_all(card: dict[str, Any]) -> dict[str, Diagnosis]:
    """Read the diagnostics of all pairs that the card of stage tables names, by pair; errors as for `read`."""
    return {pair: read(FOLDER / pair) for pair in card.get("diagnostics", ())}
