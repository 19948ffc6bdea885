"""How fast a cell trains: images per second of four loops over the same pair, side by side in alternating runs.

- published: a plain loop as published code has it: float32, channels first, the teacher as it is, images augmented by
  PIL transforms in a DataLoader with two workers, a loss read back at every step.
- bare: the trainer's networks, precision and memory format on one batch again and again: no data, no bookkeeping.
- trainer: this project's, computing the teacher.
- table: this project's, the teacher's logits in a table that an earlier cell has filled.

Run: python -m benchmarks.trainer [PAIR [LEVELS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from kdcore import device, precision, teacher_table, training
from kdcore.data.store import Dataset, Split
from kdcore.folding import folded
from kdcore.methods import kd
from kdcore.networks.contract import Network

BATCH = 64
SIDE, CLASSES = 32, 100
RECIPE = {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9, "warmup": 0}
DECOUPLED = {"complementary_weight": 2.0, "decoupling": "sdd"}
RESULTS = Path("benchmarks/results")
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def noise(count: int) -> Dataset:
    """Random images of CIFAR-100's shape; one test image, so that evaluation costs next to nothing."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        images = generator.integers(0, 256, (size, SIDE, SIDE, 3)).astype(np.uint8)
        return Split(images, generator.integers(0, CLASSES, size))

    classes = [str(label) for label in range(CLASSES)]
    look: dict[str, Any] = {"mean": MEAN, "std": STD, "image_size": SIDE, "flip": True, "padding": 4}
    return Dataset("noise", classes, split(count), split(1), **look)


def networks_of(pair: str, where: torch.device) -> tuple[Network, Network]:
    """Teacher and student, from the same weights every time."""
    teacher, student = (training.create(name, CLASSES, 0, where) for name in pair.split("-"))
    return teacher.eval(), student


def published(pair: str, dataset: Dataset, where: torch.device) -> Callable[[], None]:
    """The loop of published trainers."""
    teacher, student = (network.to(memory_format=torch.contiguous_format) for network in networks_of(pair, where))
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    look = [v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    look += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    see = v2.Compose(look)
    split = cast(Split, dataset.train)
    pictures = [(Image.fromarray(image), int(label)) for image, label in zip(split.images, split.labels, strict=True)]
    seen = _Pictures(pictures, see)

    def epoch() -> None:
        student.train()
        for images, target in DataLoader(seen, BATCH, shuffle=True, num_workers=2):
            with torch.no_grad():
                taught = teacher(images.to(where)).logits
            logits = student(images.to(where)).logits
            loss = _loss(logits, taught, target.to(where))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


class _Pictures(torch.utils.data.Dataset[Any]):
    def __init__(self, pictures: list[tuple[Image.Image, int]], see: Callable[[Image.Image], torch.Tensor]) -> None:
        self.pictures, self.see = pictures, see

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        image, label = self.pictures[position]
        return self.see(image), label

    def __len__(self) -> int:
        return len(self.pictures)


def bare(pair: str, steps: int, where: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Plain KD on one batch: no data, no augmentation, no bookkeeping."""
    teacher, student = networks_of(pair, where)
    taught_by = folded(teacher, SIDE).to(dtype)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=where).contiguous(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (BATCH,), device=where)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=True)

    def epoch() -> None:
        student.train()
        for _ in range(steps):
            with torch.no_grad():
                taught = taught_by(images.to(dtype)).logits
            with precision.autocast(where, dtype):
                logits = student(images).logits
            loss = _loss(logits, taught, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def trainer(
    pair: str, levels: list[int], dataset: Dataset, where: torch.device, computed: str, *, table: bool
) -> Callable[[], None]:
    """This project's, one epoch; a student anew each time."""
    teacher, _ = networks_of(pair, where)
    settings = training.Settings(1, BATCH, 0.05, 0.9, False, 5e-4, "cosine", precision=computed)
    card = {"student": pair.split("-")[1], "method": "kd", "recipe": {**RECIPE, **DECOUPLED}, "seed": 0,
            "levels": levels, "train": vars(settings)}  # fmt: skip

    def epoch() -> None:
        with _environment(teacher_table.SIZE_VARIABLE, "40" if table else "0"):
            training.train([training.prepare(card, dataset, teacher, device=where)], teacher, dataset)

    return epoch


def _loss(logits: torch.Tensor, taught: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    soft = kd.loss(logits, taught, temperature=RECIPE["temperature"]).mean()
    return RECIPE["ce_weight"] * F.cross_entropy(logits.float(), target) + RECIPE["kd_weight"] * soft


def seconds(work: Callable[[], None], where: torch.device) -> float:
    """Wall time of a call, the device's queue included."""
    started = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - started


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def main(
    pair: str = "resnet56-resnet20",
    levels: str = "1,2,4",
    count: str = "1280",
    repetitions: str = "5",
    computed: str = "auto",
) -> None:
    """Print rates and ratios with their spread, and keep them."""
    where, images = device.choose(), int(count)
    dataset, dtype = noise(images), precision.resolve(computed, where)
    scale = [int(level) for level in levels.split(",")]
    with tempfile.TemporaryDirectory() as tables, _environment(teacher_table.FOLDER_VARIABLE, tables):
        loops = {
            "published": published(pair, dataset, where),
            "bare": bare(pair, images // BATCH, where, dtype),
            "trainer": trainer(pair, scale, dataset, where, computed, table=False),
            "table": trainer(pair, scale, dataset, where, computed, table=True),
        }
        for loop in loops.values():
            loop()  # warms caches and fills the table
        times = [{name: seconds(loop, where) for name, loop in loops.items()} for _ in range(int(repetitions))]
    rates = {name: round(images / median(run[name] for run in times), 1) for name in loops}
    ratios = {
        f"{fast} / {slow}": sorted(round(run[slow] / run[fast], 3) for run in times)
        for fast, slow in (("trainer", "bare"), ("trainer", "published"), ("table", "trainer"), ("table", "published"))
    }
    print(f"{pair}, M=[{levels}], batch {BATCH}, {dtype}, {where}, {torch.get_num_threads()} threads, {images} images")
    for name, rate in rates.items():
        print(f"{name:10} {rate:8.0f} images/s")
    for name, values in ratios.items():
        print(f"{name:20} {median(values):.3f} (from {values[0]:.3f} to {values[-1]:.3f})")
    made = {"pair": pair, "levels": scale, "batch": BATCH, "dtype": str(dtype), "device": str(where),
            "threads": torch.get_num_threads(), "images": images, "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(), "images_per_second": rates, "ratios": ratios,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}  # fmt: skip
    file = RESULTS / f"trainer-{pair}-M{levels.replace(',', '_')}-{dtype}-{where.type}.json".replace("torch.", "")
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
