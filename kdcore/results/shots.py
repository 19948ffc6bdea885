"""Accuracy on classes with many, some and few training images, of networks that were trained on a long tail of them."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from kdcore.data import regimes

GROUPS = ("head", "medium", "tail")
MANY, FEW = 100, 20
"""Classes of more images than `MANY` are the head, those of fewer than `FEW` the tail, as in Liu et al., Large-Scale
Long-Tailed Recognition in an Open World, CVPR 2019, arXiv:1904.05160."""
COUNTS, THIRDS = "counts", "thirds"
DIGITS = 4


def grouped(counts: Sequence[int]) -> tuple[str, dict[str, list[int]]]:
    """Divide classes by how many training images they have.

    Args:
        counts: of every class, by its index.

    Returns:
        `COUNTS` where the published limits leave no group empty, as with CIFAR-100 and an imbalance of 100; else
        `THIRDS`: head and tail are a third of the classes each, rounded down, at least one, and medium what is left.
        Then the class indices of each group that has any.
    """
    by_count = [
        [label for label, count in enumerate(counts) if count > MANY],
        [label for label, count in enumerate(counts) if FEW <= count <= MANY],
        [label for label, count in enumerate(counts) if count < FEW],
    ]
    kind = COUNTS if all(by_count) else THIRDS
    if kind == THIRDS:
        falling = np.argsort(-np.array(counts), kind="stable").tolist()
        third = max(1, len(counts) // 3)
        by_count = [falling[:third], falling[third:-third], falling[max(third, len(counts) - third) :]]
    return kind, {name: sorted(part) for name, part in zip(GROUPS, by_count, strict=True) if part}


def measured(logits: Tensor, labels: Tensor, counts: Sequence[int], train: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is measured of a network's regime of training data, as a part of its cell's entry; empty where all
    training images, or as many of each class, were used.

    Args:
        logits: (N, C), of test images.
        labels: (N,), the true ones.
        counts: how many training images each class has beside those kept for validation.
        train: the training settings of the cell's card.

    Returns:
        `images`, how many training images were used. With a long tail also how classes were `grouped_by`, and
        `head_top1`, `medium_top1` and `tail_top1`: the mean over a group's classes of the share of their test images
        that are recognised, in percent, rounded to four decimals. Classes without test images do not count.
    """
    if not (train.get("share") or train.get("long_tail")):
        return {}
    used = regimes.used(counts, train)
    content: dict[str, Any] = {"images": sum(used)}
    if not train.get("long_tail"):
        return content
    kind, groups = grouped(used)
    right = (logits.argmax(dim=1) == labels).cpu().numpy()
    true = labels.cpu().numpy()
    for name, classes in groups.items():
        each = [right[true == label].mean().item() for label in classes if (true == label).any()]
        if each:
            content[f"{name}_top1"] = round(100 * fmean(each), DIGITS)
    return {**content, "grouped_by": kind}
