"""The trainer's speed as a share of a bare loop's: same networks, same precision, batches made in advance.

python -m benchmarks.trainer [pair] [images per measurement] [repetitions]
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdcore import device, training
from kdcore.data.store import Dataset, Split
from kdcore.methods import kd
from kdcore.networks.contract import Network
from kdcore.objective import Objective, Term

BATCH = 64
RECIPE = {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9, "warmup": 0}


def noise(count: int) -> Dataset:
    """Random images of CIFAR-100's shape; one test image, so that evaluation costs next to nothing."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        images = generator.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)
        return Split(images, generator.integers(0, 100, size))

    classes = [str(label) for label in range(100)]
    look: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 32, "flip": True, "padding": 4}
    return Dataset("noise", classes, split(count), split(1), **look)


def seconds(work: Callable[[], object], where: torch.device) -> float:
    """Wall time of a call, the device's queue included."""
    started = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - started


def bare_epoch(student: Network, teacher: Network, steps: int, where: torch.device) -> None:
    """Plain KD on one batch again and again: no data, no augmentation, no bookkeeping."""
    images = torch.randn(BATCH, 3, 32, 32, device=where).contiguous(memory_format=torch.channels_last)
    target = torch.randint(100, (BATCH,), device=where)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    student.train()
    teacher.eval()
    for _ in range(steps):
        with torch.no_grad():
            taught = teacher(images).logits
        logits = student(images).logits
        loss = 0.1 * F.cross_entropy(logits, target) + 0.9 * kd.loss(logits, taught, temperature=4.0).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def main(pair: str = "resnet56-resnet20", count: str = "1280", repetitions: str = "5") -> None:
    """Print both rates, their ratio and its spread."""
    where = device.choose()
    teacher, student = (training.create(name, 100, 0, where) for name in pair.split("-"))
    dataset = noise(int(count))
    settings = training.Settings(1, BATCH, 0.05, 0.9, False, 5e-4, "cosine")
    goal = Objective(RECIPE["ce_weight"], [Term("kd", RECIPE)])

    def trainer() -> None:
        training.train(student, teacher, goal, dataset, settings, seed=0, device=where)

    def bare() -> None:
        bare_epoch(student, teacher, int(count) // BATCH, where)

    trainer()
    bare()
    pairs = [(seconds(trainer, where), seconds(bare, where)) for _ in range(int(repetitions))]
    ratios = sorted(b / t for t, b in pairs)
    rates = [int(count) / median(times) for times in zip(*pairs, strict=True)]
    print(f"{pair}, batch {BATCH}, {where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"trainer {rates[0]:.0f} images/s, bare loop {rates[1]:.0f} images/s")
    print(f"trainer / bare loop: {median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
