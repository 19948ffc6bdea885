"""How fast a cell trains: images per second of six loops over the same pair, side by side in alternating runs.

- published: the trainer of a checkout of SDD-CVPR2024 or one of its family (see `benchmarks.checkout`), with its own
  networks, distiller, transforms and loader. Without a checkout, a plain loop as such code has it: float32, channels
  first, plain KD by the teacher as it is, images augmented by PIL transforms in a DataLoader with two workers, a loss
  read back at every step.
- bare: our trainer's networks, loss, optimiser, precision and memory format on one batch again and again: no data, no
  bookkeeping.
- trainer: ours, computing the teacher.
- table: ours, the teacher's logits in a table that an earlier cell has filled.
- compiled, compiled table: the same two with compiled steps (`train.compile: auto`).

Of ours, the steps after the first four are timed, for the first ones compile. Each has a process of its own, since
training changes how its process keeps memory.

Run: [CHECKOUT=FOLDER] python -m benchmarks.trainer [PAIR [LEVELS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import io
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks import common, compiled
from benchmarks.checkout import Checkout
from benchmarks.common import BATCH, CLASSES, MEAN, RECIPE, SIDE, STD, Case
from kdcore.data.dataset import Split
from kdcore.methods import kd
from kdcore.objective import BatchContext
from kdcore.system.errors import UserError
from kdcore.training import device, loop
from kdcore.training.device import autocast, keep_freed_memory
from kdcore.training.folding import folded
from kdcore.training.optimizers import SGD
from kdcore.training.random import device_generator

Loop = Callable[[], object]
Passes = Callable[[Tensor], Tensor]
"""The loss (scalar) of a batch of images (B, 3, H, W)."""
OURS = {
    "trainer": "eager",
    "table": "eager table",
    "compiled": "compiled",
    "compiled table": "compiled table",
}
"""What `benchmarks.compiled` calls them."""
LOOPS = ("published", "bare", *OURS)
COMPARED = (
    ("trainer", "bare"),
    ("trainer", "published"),
    ("table", "trainer"),
    ("table", "published"),
    ("compiled", "published"),
    ("compiled table", "published"),
)


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


def bare(case: Case, images: int, where: torch.device, compiler: Callable[[Passes], Passes] | None = None) -> Loop:
    """What the hardware does of the same forward and backward passes, which `compiler` may compile."""
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

    loss_of = passes if compiler is None else compiler(passes)

    def epoch() -> None:
        run.student.train()
        for _ in range(images // BATCH):
            cast(SGD, run.optimizer).minimise(loss_of(view))

    return epoch


def checked_out(folder: Path, case: Case, images: int, where: torch.device) -> Loop:
    """The epochs of a checkout's trainer, which tests one image and saves its state after each, as ours does."""
    checkout = Checkout(folder)
    decoupled = case.levels == (1, 2, 4)
    if not (checkout.has_regions if decoupled else case.levels == (1,)):
        raise UserError(f"{folder}: has no levels {list(case.levels)}")
    student, teacher = (
        checkout.network(name, CLASSES, regions=decoupled).to(where) for name in reversed(case.pair.split("-"))
    )
    teacher.load_state_dict(common.networks_of(case.pair, where)[0].state_dict())
    weights = {"KD__TEMPERATURE": RECIPE["temperature"], "KD__LOSS__CE_WEIGHT": RECIPE["ce_weight"]}
    weights["KD__LOSS__KD_WEIGHT"] = RECIPE["kd_weight"]
    distiller = checkout.distiller("SDD_KD" if decoupled else "KD", student, teacher, regions=decoupled, **weights)
    dataset, epochs = common.noise(images), itertools.count(1)
    out = tempfile.TemporaryDirectory()
    running = checkout.trainer(distiller, cast(Split, dataset.train), cast(Split, dataset.test), Path(out.name))

    def epoch() -> None:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            running.train_epoch(next(epochs))
            _ = out  # is removed with this function

    return epoch


@cache
def _peer(name: str, case: Case, images: int, checkout: Path | None) -> Loop:
    """The one of this process, made once."""
    if name == "published" and checkout is not None:
        return checked_out(checkout, case, images, device.choose())
    return (bare if name == "bare" else published)(case, images, device.choose())


def seconds(name: str, case: Case, images: int, tables: Path, checkout: Path | None) -> float:
    """What a loop takes for an image."""
    if name in OURS:
        return compiled.epoch(OURS[name], case, images, tables)[1] / BATCH
    with common.tables(None):
        return common.seconds(_peer(name, case, images, checkout), device.choose()) / images


def main(
    pair: str = "resnet56-resnet20",
    levels: str = "1,2,4",
    count: str = "2560",
    repetitions: str = "5",
    computed: str = "auto",
) -> None:
    """Print rates and ratios with their spread, and keep them."""
    where, images = device.choose(), int(count)
    folder = Path(os.environ["CHECKOUT"]).absolute() if "CHECKOUT" in os.environ else None
    case = Case(pair, common.levels(levels), precision=computed)
    with ExitStack() as stack:
        tables = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {name: stack.enter_context(common.apart()) for name in LOOPS}

        def turn() -> dict[str, float]:
            return {n: one.submit(seconds, n, case, images, tables, folder).result() for n, one in processes.items()}

        turn()  # warms caches, compiles, and fills the tables
        times = [turn() for _ in range(int(repetitions))]
    rates = {name: [round(1 / run[name], 1) for run in times] for name in LOOPS}
    ratios = {f"{fast} / {slow}": [round(run[slow] / run[fast], 3) for run in times] for fast, slow in COMPARED}
    peer = folder.name if folder else "a plain loop"
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {images} images, {repetitions} runs")
    print(f"published: {peer}\n")
    rows = [[f"{name}, images/s", common.spread(values, 0)] for name, values in rates.items()]
    rows += [[name, common.spread(values, 3)] for name, values in ratios.items()]
    common.show(["", "median (lowest to highest)"], rows)
    content = {
        **case.describe(where),
        "images": images,
        "published": peer,
        "images_per_second": {name: median(values) for name, values in rates.items()},
        "rates": {name: sorted(values) for name, values in rates.items()},
        "ratios": {name: sorted(values) for name, values in ratios.items()},
    }
    common.keep("trainer", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
