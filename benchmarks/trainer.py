"""How fast a cell trains: images per second of four loops over the same pair, side by side in alternating runs.

- published: a plain loop as published code has it: float32, channels first, plain KD by the teacher as it is, images
  augmented by PIL transforms in a DataLoader with two workers, a loss read back at every step.
- bare: the trainer's networks, loss, optimiser, precision and memory format on one batch again and again: no data, no
  bookkeeping.
- trainer: this project's, computing the teacher.
- table: this project's, the teacher's logits in a table that an earlier cell has filled.

Each has a process of its own, since training changes how its process keeps memory.

Run: python -m benchmarks.trainer [PAIR [LEVELS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks import common
from benchmarks.common import BATCH, CLASSES, MEAN, RECIPE, SIDE, STD, Case
from kdcore.data.dataset import Split
from kdcore.methods import kd
from kdcore.objective import BatchContext
from kdcore.training import device, loop
from kdcore.training.device import autocast, keep_freed_memory
from kdcore.training.folding import folded
from kdcore.training.optimizers import SGD
from kdcore.training.random import device_generator

Loop = Callable[[], object]
Passes = Callable[[Tensor], Tensor]
"""The loss (scalar) of a batch of images (B, 3, H, W)."""
COMPARED = (("trainer", "bare"), ("trainer", "published"), ("table", "trainer"), ("table", "published"))


def published(case: Case, images: int, where: torch.device) -> Loop:
    """The loop of published trainers."""
    teacher, student = (
        network.to(memory_format=torch.contiguous_format) for network in common.networks_of(case.pair, where)
    )
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    look = [v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    look += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    split = cast(Split, common.noise(images).train)
    pictures = [(Image.fromarray(image), int(label)) for image, label in zip(split.images, split.labels, strict=True)]
    seen = _Pictures(pictures, v2.Compose(look))

    def epoch() -> None:
        student.train()
        # Forked, as was the default when that code was written; spawned ones would copy the images at every epoch.
        for batch, target in DataLoader(seen, BATCH, shuffle=True, num_workers=2, multiprocessing_context="fork"):
            with torch.no_grad():
                taught = teacher(batch.to(where)).logits
            loss = _plain_kd(student(batch.to(where)).logits, taught, target.to(where))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


class _Pictures(torch.utils.data.Dataset[Any]):
    def __init__(self, pictures: list[tuple[Image.Image, int]], see: Callable[[Image.Image], Tensor]) -> None:
        self.pictures, self.see = pictures, see

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image, label = self.pictures[position]
        return self.see(image), label

    def __len__(self) -> int:
        return len(self.pictures)


def _plain_kd(logits: Tensor, taught: Tensor, target: Tensor) -> Tensor:
    soft = kd.loss(logits, taught, temperature=RECIPE["temperature"]).mean()
    return RECIPE["ce_weight"] * F.cross_entropy(logits, target) + RECIPE["kd_weight"] * soft


def bare(case: Case, images: int, where: torch.device, compiled: Callable[[Passes], Passes] | None = None) -> Loop:
    """What the hardware does of the same forward and backward passes, which `compiled` may compile."""
    keep_freed_memory()
    teacher, _ = common.networks_of(case.pair, where)
    run = loop.prepare(case.card, common.noise(BATCH), teacher, device=where)
    taught_by = folded(teacher, SIDE).to(run.dtype)
    view = torch.randn(BATCH, 3, SIDE, SIDE, device=where).contiguous(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (BATCH,), device=where)
    context = BatchContext(torch.arange(BATCH, device=where), 1, device_generator(0, 1, where))

    def passes(view: Tensor) -> Tensor:
        with torch.no_grad():
            taught = taught_by(view.to(run.dtype))
        with autocast(where, run.dtype):
            return run.objective([run.student(view)], [taught], target, context).loss

    loss_of = passes if compiled is None else compiled(passes)

    def epoch() -> None:
        run.student.train()
        for _ in range(images // BATCH):
            cast(SGD, run.optimizer).minimise(loss_of(view))

    return epoch


def trainer(case: Case, images: int, where: torch.device) -> Loop:
    """This project's: one epoch of a student that begins anew each time."""
    teacher, _ = common.networks_of(case.pair, where)
    return partial(common.train, case, common.noise(images), teacher, where)


LOOPS = {"published": published, "bare": bare, "trainer": trainer, "table": trainer}


@cache
def _loop(name: str, case: Case, images: int) -> Loop:
    """The one of this process, made once."""
    return LOOPS[name](case, images, device.choose())


def epoch(name: str, case: Case, images: int, tables: Path) -> float:
    """Seconds that an epoch of a loop takes."""
    chosen = _loop(name, case, images)
    with common.tables(tables if name == "table" else None):
        return common.seconds(chosen, device.choose())


def main(
    pair: str = "resnet56-resnet20",
    levels: str = "1,2,4",
    count: str = "2560",
    repetitions: str = "5",
    computed: str = "auto",
) -> None:
    """Print rates and ratios with their spread, and keep them."""
    where, images = device.choose(), int(count)
    case = Case(pair, common.levels(levels), precision=computed)
    with ExitStack() as stack:
        tables = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {name: stack.enter_context(common.apart()) for name in LOOPS}

        def turn() -> dict[str, float]:
            return {name: one.submit(epoch, name, case, images, tables).result() for name, one in processes.items()}

        turn()  # warms caches and fills the table
        times = [turn() for _ in range(int(repetitions))]
    rates = {name: [round(images / run[name], 1) for run in times] for name in LOOPS}
    ratios = {f"{fast} / {slow}": [round(run[slow] / run[fast], 3) for run in times] for fast, slow in COMPARED}
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {images} images, {repetitions} runs\n")
    rows = [[f"{name}, images/s", common.spread(values, 0)] for name, values in rates.items()]
    rows += [[name, common.spread(values, 3)] for name, values in ratios.items()]
    common.show(["", "median (lowest to highest)"], rows)
    content = {
        **case.describe(where),
        "images": images,
        "images_per_second": {name: median(values) for name, values in rates.items()},
        "rates": {name: sorted(values) for name, values in rates.items()},
        "ratios": {name: sorted(values) for name, values in ratios.items()},
    }
    common.keep("trainer", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
