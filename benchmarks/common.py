"""What the benchmarks share: cells that learn from noise, processes, clocks, and files of results.

A benchmark compares runs side by side on one machine, in turn, so that all see it in the same states.
"""

import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from kdcore import checkpoints
from kdcore.data import storage
from kdcore.data.dataset import Dataset, Split
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.system.files import write_json
from kdcore.training import loop, provenance, teacher_cache
from kdcore.training.device import compute_dtype
from kdcore.training.loop import Callbacks, Run

RESULTS = Path("benchmarks/results")
BATCH = 64
SIDE, CLASSES = 32, 100
MEAN, STD = (0.5,) * 3, (0.25,) * 3
RECIPE: dict[str, Any] = {
    "temperature": 4.0,
    "ce_weight": 0.1,
    "kd_weight": 0.9,
    "warmup": 0,
    "complementary_weight": 2.0,
    "decoupling": "sdd",
}


@dataclass(frozen=True)
class Case:
    """A cell of KD that learns from noise."""

    pair: str
    levels: tuple[int, ...] = (1, 2, 4)
    stand: bool = False
    epochs: int = 1
    precision: str = "auto"
    """See `kdcore.training.device.compute_dtype`."""

    @property
    def scale(self) -> str:
        """Its levels, for the names of files."""
        return f"M{'_'.join(map(str, self.levels))}"

    @property
    def card(self) -> dict[str, Any]:
        """See `kdcore.matrix.cards`; without fingerprints."""
        teacher, _, student = self.pair.partition("-")
        return {
            "name": f"{self.pair}-kd-{self.scale}-{self.stand}-0",
            "pair": self.pair,
            "student": student,
            "method": "kd",
            "seed": 0,
            "levels": list(self.levels),
            "stand": self.stand,
            "teacher": teacher,
            "data": "noise",
            "recipe": RECIPE,
            "train": {
                "epochs": self.epochs,
                "batch_size": BATCH,
                "lr": 0.05,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "precision": self.precision,
            },
        }

    def dtype(self, where: torch.device) -> str:
        """In what it is computed, for people and the names of files."""
        return str(compute_dtype(self.precision, where)).removeprefix("torch.")

    def describe(self, where: torch.device) -> dict[str, Any]:
        """What its results have in common, for their file."""
        return {"pair": self.pair, "levels": self.levels, "batch": BATCH, "dtype": self.dtype(where)}


def levels(text: str) -> tuple[int, ...]:
    """ "1,2,4" -> (1, 2, 4)."""
    return tuple(int(level) for level in text.split(","))


def noise(count: int, test: int = 1) -> Dataset:
    """Random images of CIFAR-100's shape; by default one test image, so that evaluation costs next to nothing."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        images = generator.integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)
        return Split(images, generator.integers(0, CLASSES, size))

    classes = [str(label) for label in range(CLASSES)]
    look: dict[str, Any] = {"mean": MEAN, "std": STD, "image_size": SIDE, "flip": True, "padding": 4}
    return Dataset("noise", classes, split(count), split(test), **look)


def networks_of(pair: str, where: torch.device) -> tuple[Network, Network]:
    """Teacher and student, from the same weights every time."""
    teacher, student = (loop.create(name, CLASSES, 0, where) for name in pair.split("-"))
    # Without running statistics an untrained network's logits reach thousands, those of regions even infinity.
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        teacher.train()(torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(where))
    return teacher.eval(), student


def train(
    case: Case, dataset: Dataset, teacher: Network, where: torch.device, callbacks: Callbacks | None = None
) -> Run:
    """A cell from its beginning to its end."""
    run = loop.prepare(case.card, dataset, teacher, device=where, callbacks=callbacks)
    loop.train(run, teacher, dataset)
    return run


def lay_out(folder: Path, case: Case, *, count: int, test: int) -> Path:
    """What the pipeline has on disk when it trains a cell: its card, whose path is returned, data set and teacher."""
    card = case.card
    data, weights = folder / "data" / card["data"], folder / "pairs" / f"{case.pair}.safetensors"
    for needed in (data, weights.parent):
        needed.mkdir(parents=True)
    storage.save(noise(count, test), data)
    checkpoints.save(networks_of(case.pair, torch.device("cpu"))[0], weights)
    path = folder / "cards" / "train" / f"{card['name']}.yaml"
    yamlfile.write(path, card)
    return path


@contextmanager
def tables(folder: Path | None) -> Iterator[None]:
    """Teachers' logits are kept in a folder while the block lasts; None keeps none."""
    kept = {teacher_cache.FOLDER_VARIABLE: str(folder or ""), teacher_cache.SIZE_VARIABLE: "40" if folder else "0"}
    with mock.patch.dict(os.environ, kept):
        yield


def apart() -> ProcessPoolExecutor:
    """A fresh process that does what is submitted to it, and in between waits without computing."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def seconds(work: Callable[[], object], where: torch.device) -> float:
    """Wall time of a call, the device's queue included."""
    started = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - started


def spread(values: Sequence[float], digits: int) -> str:
    """ "0.95 (0.94 to 0.97)": their median, the lowest and the highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in Markdown: names on the left, figures on the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruled = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    for name, *figures in (head, ruled, *rows):
        padded = [
            name.ljust(widths[0]),
            *(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)),
        ]
        print(f"| {' | '.join(padded)} |")


def keep(what: str, *details: str, where: torch.device, content: dict[str, Any]) -> Path:
    """Write a result into `RESULTS`, with date, command, commit, versions, device and threads; returns the file.

    Args:
        what: of the benchmark.
        details: what tells its results apart; with `what` and the kind of device they name the file.
        where: it was measured.
        content: plain values.
    """
    made = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        **provenance.describe(where),
        **content,
    }
    file = RESULTS / f"{'-'.join([what, *details, where.type])}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, made)
    print(f"kept in {file}")
    return file


def _command() -> str:
    """As it was typed; of paths that mean nothing on other machines, the last part."""
    parts = [f".../{Path(part).name}" if Path(part).is_absolute() else part for part in sys.orig_argv[1:]]
    return shlex.join(["python", *parts])
