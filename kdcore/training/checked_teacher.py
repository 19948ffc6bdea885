"""Check that an adopted teacher is as accurate as it should be, and say why it may not be.

A checkpoint that was trained on images of another normalisation loads without an error and predicts badly. So where the
accuracy is not as expected, or not known, the normalisations in common use are tried too.
"""

import copy
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import torch

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.networks import input_affine
from kdcore.networks.contract import Network
from kdcore.system.errors import UserError
from kdcore.training import inference

Rgb = tuple[float, float, float]


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""

    mean: Rgb
    std: Rgb


COMMON = (
    Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
    Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),  # CIFAR-100
    Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
    Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),  # CIFAR-10, mean of the images' deviations
    Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # pixels from 0 to 1
    Normalisation((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),  # pixels from 0 to 255
)
IMAGES = 2000
"""How many test images the normalisations are compared on."""
BETTER = 5.0
"""By how many points another normalisation must be better, where no accuracy is known, to be no accident."""


def check(card: dict[str, Any], source: str, top1: float, network: Network, dataset: Dataset) -> None:
    """Stop when a checkpoint is not as accurate as it should be: other weights, data or preprocessing.

    Args:
        card: of the teacher, with `tolerance`, and `published_top1` where it is known.
        source: where the checkpoint came from.
        top1: its accuracy in percent.
        network: the teacher, which is left as it is.
        dataset: gives the test images.

    Raises:
        UserError: `top1` is more than the tolerance below the published accuracy. Where none is known: it is no better
            than chance, or far below what another normalisation gives.
    """
    published, where = card.get("published_top1"), f"teacher {card['name']}: {source} reaches {top1:.2f}% here"
    if published is not None:
        short = published - card["tolerance"]
        if top1 < short:
            raise UserError(
                f"{where}, {published - top1:.2f} points below the published {published:.2f}% (allowed: "
                f"{card['tolerance']}). {_advice(card['name'], network, dataset, at_least=short)}"
            )
        return
    setting = f"teachers.{card['name']}.published_top1"
    if top1 <= _chance(dataset):
        advice = _advice(card["name"], network, dataset, at_least=_chance(dataset) + BETTER)
        raise UserError(f"{where}, which is no better than chance. {advice}")
    now = _top1_of_sample(network, dataset)
    top1_of_best, best = _best(network, dataset)
    if top1_of_best > now + BETTER:
        raise UserError(f"{where}. {_instead(card['name'], best, top1_of_best)}, or {setting} if {top1:.2f} is right")
    print(
        f"warning: {where}; how accurate it should be is not known, so wrong weights would not be noticed ({setting} "
        "takes the accuracy that it should reach)",
        file=sys.stderr,
    )


def _advice(name: str, network: Network, dataset: Dataset, *, at_least: float) -> str:
    """Say which normalisation gives the expected accuracy, or else what may be wrong."""
    top1, best = _best(network, dataset)
    if top1 >= at_least - _error(top1, dataset):
        return _instead(name, best, top1)
    return (
        "Are weights, data set and class order those of the publication? If so, set "
        f"teachers.{name}.published_top1 (none of the common normalisations of images gives the expected accuracy)"
    )


def _instead(name: str, best: Normalisation, top1: float) -> str:
    mean, std = ([round(value, 4) for value in values] for values in best)
    return (
        f"With images normalised by mean {mean} and std {std} it reaches {top1:.1f}%: set teachers.{name}.mean and "
        f"teachers.{name}.std"
    )


def _best(network: Network, dataset: Dataset) -> tuple[float, Normalisation]:
    """Find the common normalisation with which a network is most accurate on a sample of the test images."""
    measured = []
    for one in COMMON:
        probe = copy.deepcopy(network)
        input_affine.attach(probe, mean=dataset.mean, std=dataset.std, own_mean=one.mean, own_std=one.std)
        measured.append((_top1_of_sample(probe, dataset), one))
    return max(measured, key=lambda pair: pair[0])


def _top1_of_sample(network: Network, dataset: Dataset) -> float:
    split = _sample(dataset.test)
    device = next(network.parameters()).device
    logits = inference.predict(network, split, dataset, device)
    return inference.top1(logits, torch.from_numpy(split.labels).to(device)).item()


def _sample(split: Split | Encoded) -> Split | Encoded:
    """Take `IMAGES` images of a split, evenly spaced, for images are often sorted by class."""
    count = len(split.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).round().astype(np.int64))
    if isinstance(split, Encoded):
        return Encoded(split.table.take(chosen), split.root)
    return Split(np.ascontiguousarray(split.images[chosen]), split.labels[chosen])


def _chance(dataset: Dataset) -> float:
    """The accuracy in percent that guessing the most frequent class reaches, with three standard errors."""
    share = np.bincount(dataset.test.labels).max() / len(dataset.test.labels)
    return float(100 * share + 3 * 100 * math.sqrt(share * (1 - share) / len(dataset.test.labels)))


def _error(top1: float, dataset: Dataset) -> float:
    """Two standard errors of an accuracy in percent on the sample."""
    share = top1 / 100
    return 200 * math.sqrt(share * (1 - share) / min(IMAGES, len(dataset.test.labels)))
