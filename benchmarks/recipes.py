"""What the augmentations and mixed images of recipes cost, beside a step of a student that is trained alone.

Run: python -m benchmarks.recipes [STUDENT [BATCH [SIZE [REPETITIONS [PRECISION]]]]]
"""

import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from kdcore.data.dataset import Dataset, Split
from kdcore.data.feed import Feed
from kdcore.matrix.train_recipe import Augmentation
from kdcore.matrix.train_section import TrainSettings
from kdcore.objective import Objective
from kdcore.training import device, loop

CLASSES = 100
BATCHES = 20
RECIPES = {
    "standard": ({}, (0.0, 0.0)),
    "mixup, cutmix": ({}, (0.8, 1.0)),
    "resized crops": ({"crop": "resized"}, (0.0, 0.0)),
    "RandAugment": ({"randaugment": {}}, (0.0, 0.0)),
    "colour jitter": ({"colour_jitter": 0.4}, (0.0, 0.0)),
    "erasing": ({"erasing": 0.25}, (0.0, 0.0)),
    "all": ({"crop": "resized", "randaugment": {}, "colour_jitter": 0.4, "erasing": 0.25},
            (0.8, 1.0)),
}  # fmt: skip


def made_up(batch: int, size: int) -> Dataset:
    """Noise, for `BATCHES` batches."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch * BATCHES, size, size, 3), dtype=np.uint8)
    split = Split(images, random.integers(CLASSES, size=len(images)))
    names = [str(number) for number in range(CLASSES)]
    return Dataset("noise", names, split, split, (0.5,) * 3, (0.25,) * 3, size, flip=True, padding=size // 8)


def per_batch(feed: Feed, batch: int, epoch: int) -> float:
    """Seconds of processor time in which a feed yields a batch, with what it draws for an epoch."""
    started = time.process_time()
    for _ in feed.batches(batch, views=1, seed=0, epoch=epoch):
        pass
    return (time.process_time() - started) / BATCHES


def per_step(student: str, dataset: Dataset, batch: int, precision: Any) -> float:
    """Seconds of processor time that a step takes, without its batch."""
    settings = TrainSettings(epochs=1, batch_size=batch, lr=0.01, schedule="cosine", precision=precision)
    network = loop.create(student, CLASSES, 0, torch.device("cpu"))
    run = loop.Run(network, Objective(1.0), settings, seed=0, device=torch.device("cpu"))
    run.begin_epoch()
    taken = []
    for seen in Feed(dataset, run.device).batches(batch, views=1, seed=0, epoch=1):
        started = time.process_time()
        run.step(seen, [])
        taken.append(time.process_time() - started)
    return median(taken[3:])


def main(
    student: str = "resnet8x4", batch: str = "64", size: str = "32", repetitions: str = "5", precision: str = "float32"
) -> None:
    """Print a table."""
    device.prepare_torch(torch.device("cpu"))
    dataset = made_up(int(batch), int(size))
    step = per_step(student, dataset, int(batch), precision)
    print(f"a step of {student}, {batch} images of {size} pixels: {1000 * step:.1f} ms")
    for name, (keys, (mixup, cutmix)) in RECIPES.items():
        seen = replace(dataset, recipe=Augmentation.model_validate(keys) if keys else None)
        feed = Feed(seen, torch.device("cpu"), mixup=mixup, cutmix=cutmix)
        took = min(per_batch(feed, int(batch), epoch) for epoch in range(1, int(repetitions) + 1))
        print(f"{name:<14} {1000 * took:6.2f} ms  {100 * took / step:5.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
