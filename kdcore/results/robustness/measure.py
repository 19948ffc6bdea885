"""Measure the networks of a pair on corrupted test images: error by corruption and severity."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.data import cifar100_c, corruptions
from kdcore.data.augment import Normalize, middle
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import BATCH_PIXELS, LARGEST_BATCH
from kdcore.data.stream import stream_unaugmented
from kdcore.matrix.robustness_section import CIFAR100_C
from kdcore.results.trained_pair import TrainedPair
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256

CLEAN = ("", 0)
DIGITS = 4
Condition = tuple[str, int]
"""A corruption and its severity, from 1; `CLEAN` for images as they are."""
Seen = tuple[Condition, np.ndarray, np.ndarray]
"""The condition of a batch, the positions (B,) of its images in the test set, and the images (B, S, S, 3) uint8."""


@dataclass
class _Network:
    """A network, and how often it was right."""

    network: nn.Module
    weights: Path
    identity: dict[str, Any]
    right: dict[Condition, Tensor | int] = field(default_factory=dict)
    """Condition -> number of images; on the network's device, which is not waited for."""
    broken: Tensor | int = 0
    """Number of images whose logits are not finite."""

    def see(self, condition: Condition, images: Tensor, labels: Tensor) -> None:
        """Predict a batch of normalised images (B, 3, S, S), whose classes are (B,) int64."""
        logits = self.network(images).logits.float()
        self.right[condition] = self.right.get(condition, 0) + (logits.argmax(dim=1) == labels).sum()
        self.broken += (~torch.isfinite(logits).all(dim=1)).sum()

    def errors(self, count: int) -> dict[str, Any]:
        """Return the errors in percent on so many images: of the clean ones, and of each corruption by severity.

        Raises:
            UserError: logits were not finite, which would be counted as predictions.
        """
        if int(self.broken):
            raise UserError(
                f"{self.weights}: the logits of {int(self.broken)} corrupted test images are not finite; train it again"
            )
        found = {condition: round(100 - 100 * int(right) / count, DIGITS) for condition, right in self.right.items()}
        by_name: dict[str, list[float]] = {}
        for name, severity in sorted(found, key=lambda condition: condition[1]):
            if severity:
                by_name.setdefault(name, []).append(found[name, severity])
        return {"clean": found[CLEAN], "error": by_name}


def measure_pair(card: dict[str, Any], dataset: Dataset, teacher_weights: Path, device: torch.device) -> dict[str, Any]:
    """Measure the teacher and every cell of a pair on a set of corrupted test images, each of which is made once.

    Args:
        card: the card of stage robustness: the pair, its cells, and the set.
        dataset: the data set whose test images are corrupted.
        teacher_weights: the teacher's checkpoint.
        device: where to compute.

    Returns:
        The pair, the set, the number of test images; the names of the corruptions that are `averaged`, and of `more`
        that are not; and for the teacher and each cell its error in percent (100 minus top-1): `clean`, on the test
        images as they are, and `error`, corruption -> one per severity, from 1 to 5. Cells have their identity and the
        sha256 of their weights.

    Raises:
        UserError: see `TrainedPair`; or logits are not finite; or the published images are missing, or not
            those that were published, or of other test images.
    """
    with ExitStack() as stack:
        averaged, more, made = _images(card, dataset, stack)
        networks = _networks(card, dataset, teacher_weights, device)
        labels = torch.from_numpy(dataset.test.labels).to(device)
        normalize = Normalize(dataset.mean, dataset.std, device)
        with torch.no_grad():
            for condition, positions, images in made:
                seen = normalize(torch.from_numpy(images).to(device).permute(0, 3, 1, 2))
                target = labels[torch.from_numpy(positions).to(device)]
                for one in networks:
                    one.see(condition, seen, target)
    count = len(dataset.test.labels)
    teacher, *cells = [{**one.identity, **one.errors(count)} for one in networks]
    about = {"pair": card["pair"], "set": card["set"], "test_images": count, "averaged": averaged, "more": more}
    return {**about, "teacher": teacher, "cells": cells}


def _networks(card: dict[str, Any], dataset: Dataset, teacher_weights: Path, device: torch.device) -> list[_Network]:
    """Restore the teacher and the cells' students, in this order."""
    pair = TrainedPair(card, dataset, device)
    networks = [_Network(pair.teacher(teacher_weights), teacher_weights, {})]
    for cell in pair.cells():
        identity = {**cell.identity, "weights_sha256": file_sha256(cell.weights)}
        networks.append(_Network(pair.student(cell.weights), cell.weights, identity))
    return networks


def _images(card: dict[str, Any], dataset: Dataset, stack: ExitStack) -> tuple[list[str], list[str], Iterator[Seen]]:
    """Return the names of the corruptions of the average and of those beside it, and the images, clean ones too.

    Args:
        card: names the set, and the source of a published one.
        dataset: the data set.
        stack: keeps the published files open.
    """
    if card["set"] != CIFAR100_C:
        return list(corruptions.CORRUPTIONS), [], _made(dataset)
    if not isinstance(dataset.test, Split):
        raise UserError(f"data/{dataset.name}: holds encoded test images; {CIFAR100_C} is of CIFAR-100's, decoded")
    stored = stack.enter_context(cifar100_c.opened(card["source"], dataset.test))
    published = cifar100_c.PUBLISHED
    return list(published.averaged), list(published.more), _published(dataset, stored)


def _made(dataset: Dataset) -> Iterator[Seen]:
    """Yield the test images as they are and in every corruption of `kdcore.data.corruptions`, batch by batch."""
    for positions, images in _clean(dataset):
        yield CLEAN, positions, images
        for name in corruptions.CORRUPTIONS:
            for severity in corruptions.SEVERITIES:
                yield (name, severity), positions, corruptions.corrupt(images, positions, name, severity)


def _published(dataset: Dataset, stored: cifar100_c.Corrupted) -> Iterator[Seen]:
    """Yield the test images as they are and in every published corruption, file by file."""
    for positions, images in _clean(dataset):
        yield CLEAN, positions, images
    for name in (*cifar100_c.PUBLISHED.averaged, *cifar100_c.PUBLISHED.more):
        for severity, images in enumerate(stored.images(name), 1):
            for positions in np.split(np.arange(len(images)), range(_size(dataset), len(images), _size(dataset))):
                yield (name, severity), positions, np.array(images[positions[0] : positions[-1] + 1])


def _clean(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions (B,) and images (B, S, S, 3) uint8 of all test images as evaluation sees them, in its batches."""
    split, size = dataset.test, dataset.image_size
    positions = torch.arange(len(split.labels)).split(_size(dataset))
    if isinstance(split, Encoded):
        batches = stream_unaugmented(split, positions, size=size, device=torch.device("cpu"))
    else:
        batches = (middle(torch.from_numpy(split.images[batch.numpy()]), size) for batch in positions)
    for batch, images in zip(positions, batches, strict=True):
        yield batch.numpy(), images.permute(0, 2, 3, 1).contiguous().numpy()


def _size(dataset: Dataset) -> int:
    """Return how many images evaluation sees at once."""
    return min(LARGEST_BATCH, max(1, BATCH_PIXELS // dataset.image_size**2))
