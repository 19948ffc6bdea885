"""Choose which of a data set's training images a network sees, and which of them are kept for validation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdcore.data.dataset import Dataset, first_of_each_class
from kdcore.system.errors import UserError, shown

SEED = 0
"""Decides which images are kept for validation: the same ones for every seed of training."""


def chosen(
    dataset: Dataset,
    *,
    validation: float | None = None,
    per_class: int | None = None,
    augmented: bool = True,
    key: str = "train.per_class",
) -> Dataset:
    """Return a data set as one network sees it. Its test images, mean and deviation stay as they are.

    Args:
        dataset: as it is stored.
        validation: the share of the training images of every class that is kept for validation; None keeps none.
        per_class: how many of the remaining training images of every class are used, the first ones; None uses all.
        augmented: whether training images are seen augmented.
        key: the key of params.yaml that `per_class` comes from, for messages.

    Raises:
        UserError: a class has too few images.
    """
    check(counts(dataset), validation=validation, per_class=per_class, key=key)
    if validation is not None:
        kept = validation_positions(dataset.train.labels, validation)
        others = np.setdiff1d(np.arange(len(dataset.train.labels)), kept)
        dataset = replace(dataset, train=dataset.train.take(others), validation=dataset.train.take(kept))
    if per_class is not None:
        dataset = replace(dataset, train=first_of_each_class(dataset.train, per_class))
    return replace(dataset, augmented=augmented)


def part_of(card: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `chosen` that say which images the card of a cell asks for, or that of a teacher which is
    trained here.
    """
    owner = f"teachers.{card['name']}." if "source" in card else ""
    per_class = card["train"].get("per_class")
    return {"validation": card.get("validation"), "per_class": per_class, "key": f"{owner}train.per_class"}


def validation_count(share: float, count: int) -> int:
    """Return how many of a class's `count` training images are kept for validation: at least one."""
    return max(1, round(share * count))


def validation_positions(labels: np.ndarray, share: float) -> np.ndarray:
    """Draw the training images that are kept for validation; the draw depends on the arguments alone.

    Args:
        labels: (N,), class indices of the training images.
        share: of the images of every class.

    Returns:
        Their positions (V,), rising.
    """
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, int(label)])))
        kept.append(random.permutation(members)[: validation_count(share, len(members))])
    return np.sort(np.concatenate(kept))


def check(classes: Mapping[str, int], *, validation: float | None, per_class: int | None, key: str) -> None:
    """Refuse to take more training images than a class has.

    Args:
        classes: how a message names a class -> how many training images it has.
        validation: see `chosen`.
        per_class: see `chosen`.
        key: see `chosen`.

    Raises:
        UserError: names the first class that has too few, and what is allowed.
    """
    left = dict(classes)
    if validation is not None:
        kept = {who: validation_count(validation, count) for who, count in classes.items()}
        left = {who: count - kept[who] for who, count in classes.items()}
        for who, count in classes.items():
            if left[who] < 1:
                raise UserError(
                    f"data.validation: {validation}: {who} has {count} training images, and {kept[who]} of them for "
                    "validation would leave none to train on; lower the share, add images of that class (two at "
                    "least), or remove data.validation"
                )
    if per_class is not None:
        for who, count in left.items():
            if count < per_class:
                beside = "" if validation is None else " beside those for validation"
                raise UserError(
                    f"{key}: {per_class}: {who} has {count} training images{beside}; lower it to "
                    f"{min(left.values())} or fewer, the images of the smallest class, or remove it to use all"
                )


def counts(dataset: Dataset) -> dict[str, int]:
    """Return how many training images every class has, under the words with which `check` names it."""
    found = np.bincount(dataset.train.labels, minlength=len(dataset.classes)).tolist()
    return {f"class {shown(name)}": count for name, count in zip(dataset.classes, found, strict=True)}
