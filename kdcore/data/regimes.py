"""Show a network a share of the training images, a long tail of them, or some of them under wrong labels.

It changes a data set after `kdcore.data.subsets` has chosen its images. A cell's card has a fingerprint of this module
only where it has such a setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcore.data import subsets
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.matrix.train_images import is_set
from kdcore.system.errors import UserError

STREAM = 1
"""Tells draws of labels from those of `subsets`, which have seeds of two numbers."""
ROUNDING = 1e-9
"""Keeps a number of images that is whole but for rounding from being one less."""
Train = Mapping[str, Any]
"""The training settings of a card."""


@dataclass(frozen=True)
class Relabelled(Encoded):
    """Encoded images under other labels than their table has; decoding processes get them without these."""

    given: np.ndarray | None = None
    """(N,) int64."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.asarray(self.given)

    def take(self, positions: np.ndarray) -> "Relabelled":
        """Select some of the images by their positions, with the labels that they have here."""
        return replace(super().take(positions), given=self.labels[positions])


def applied(dataset: Dataset, card: Mapping[str, Any]) -> Dataset:
    """Return a data set as the network that a card describes sees it. Validation and test images stay as they are.

    Args:
        dataset: as `kdcore.training.loop.seen_by` returns it for the card.
        card: of a cell, or of a teacher that is trained here; of its settings `share` or `long_tail`, and
            `label_noise`, act here.

    Raises:
        UserError: as `check`; or the data set has one class, and labels cannot be wrong.
    """
    train = card["train"]
    if not is_set(train):
        return dataset
    check(subsets.counts(dataset), {**card, "validation": None})
    part, classes = dataset.train, len(dataset.classes)
    wanted = np.array(used(np.bincount(part.labels, minlength=classes).tolist(), train))
    part = part.take(np.flatnonzero(_rank(part.labels) < wanted[part.labels]))
    if noise := train.get("label_noise"):
        if classes < 2:
            raise UserError(f"train.label_noise: {dataset.name} has one class, and no wrong label for it; remove it")
        part = _relabelled(part, noisy(part.labels, classes, noise))
    return replace(dataset, train=part)


def used(counts: Sequence[int], train: Train) -> list[int]:
    """Return how many images of each class are used.

    Args:
        counts: how many training images each class has beside those kept for validation, by class index.
        train: `per_class`, `share` or `long_tail`, or none of them.

    Returns:
        With `share`, the nearest number to that share of the class's images, at least one. With `long_tail`, of C
        classes, n * long_tail ** (-k / (C - 1)) of class k, rounded down, where n is the size of the smallest class.
    """
    if share := train.get("share"):
        return [min(count, max(1, round(share * count))) for count in counts]
    if factor := train.get("long_tail"):
        last = max(1, len(counts) - 1)
        return [int(min(counts) * factor ** (-k / last) + ROUNDING) for k in range(len(counts))]
    per_class = train.get("per_class")
    return [count if per_class is None else min(count, per_class) for count in counts]


def noisy(labels: np.ndarray, classes: int, noise: Train) -> np.ndarray:
    """Return labels of which some are wrong; the draw depends on the arguments alone.

    Of the n images of every class, exactly round(rate * n) are drawn and get another label. Those of a lower rate are
    among those of a higher one. (Co-teaching, arXiv:1804.06872, draws for each image whether its label is wrong, so
    that the rate holds on average.)

    Args:
        labels: (N,) int64, the true ones.
        classes: how many there are, two at least.
        noise: `kind`, `rate` and `seed`, as `kdcore.matrix.train_images.LabelNoise`.

    Returns:
        (N,) int64.
    """
    given = labels.copy()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        seed = np.random.SeedSequence([noise.get("seed", 0), int(label), STREAM])
        random = np.random.Generator(np.random.Philox(seed))
        drawn = random.permutation(members)[: round(noise["rate"] * len(members))]
        steps = random.integers(1, classes, len(members)) if noise["kind"] == "symmetric" else np.ones_like(members)
        given[drawn] = (label + steps[: len(drawn)]) % classes
    return given


def learnt(counts: Sequence[int], train: Train) -> np.ndarray:
    """Return the labels (N,) of the images that a network learns, by class and not in the order of the images.

    Args:
        counts: see `used`.
        train: the training settings of the network's card.
    """
    labels = np.repeat(np.arange(len(counts)), used(counts, train))
    noise = train.get("label_noise")
    return noisy(labels, len(counts), noise) if noise else labels


def check(classes: Mapping[str, int], card: Mapping[str, Any], *, of: str = "") -> None:
    """Refuse a regime that leaves a class without an image, or noise that changes no label.

    Args:
        classes: how a message names a class -> how many training images it has, those for validation among them; or
            one entry for every class, where nothing more is known.
        card: of a cell, or of a teacher that is trained here.
        of: what a message says behind the key, such as the variant that sets it.

    Raises:
        UserError: names the class and what is allowed.
    """
    train, validation = card["train"], card.get("validation")
    if not is_set(train):
        return
    kept = {who: 0 if validation is None else subsets.validation_count(validation, n) for who, n in classes.items()}
    left = {who: count - kept[who] for who, count in classes.items()}
    owner = f"teachers.{card['name']}." if "source" in card else ""
    if (factor := train.get("long_tail")) and min(left.values(), default=1) < factor:
        who, fewest = min(left.items(), key=lambda item: item[1])
        raise UserError(
            f"{owner}train.long_tail{of}: {factor:g}: the last class gets {factor:g} times fewer images than the "
            f"smallest ({who}) has, {fewest}, and so none; lower it to {fewest} or less, or remove it"
        )
    if noise := train.get("label_noise"):
        key = f"{owner}train.label_noise{of}: rate {noise['rate']:g}"
        counts = used(list(left.values()), train)
        if not any(round(noise["rate"] * count) for count in counts):
            raise UserError(
                f"{key}: changes no label, for no class has more than {max(counts, default=0)} images that are used; "
                "raise it, or use more images"
            )
        if noise["kind"] == "symmetric" and len(left) > 1 and noise["rate"] >= 1 - 1 / len(left):
            raise UserError(
                f"{key}: kind symmetric must stay below {1 - 1 / len(left):g} with {len(left)} classes, or no more "
                "images of a class have its label than another one's; lower it"
            )
        held = np.bincount(learnt(list(left.values()), train), minlength=len(left)) if len(left) > 1 else [1]
        if not all(held):
            who = list(left)[[bool(count) for count in held].index(False)]
            raise UserError(f"{key}: leaves no image with the label of {who}; lower it, or use more images")


def _rank(labels: np.ndarray) -> np.ndarray:
    """Return the place (N,) of each image among those of its class, counted from 0."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels == label
        rank[members] = np.arange(members.sum())
    return rank


def _relabelled(split: Split | Encoded, labels: np.ndarray) -> Split | Encoded:
    if isinstance(split, Encoded):
        return Relabelled(split.table, split.root, split.file, split.rows, labels)
    return replace(split, labels=labels)
