"""Check that an adopted teacher is as accurate as it should be, and say why it may not be.

A checkpoint that was trained on images of another normalisation loads without an error and predicts badly. So where the
accuracy is not as expected, or not known, the normalisations in common use are tried too.
"""

import copy
import math
import sys
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.networks import input_affine
from kdcore.networks.contract import Network
from kdcore.networks.input_affine import Normalisation
from kdcore.system.errors import UserError, shown
from kdcore.training import inference

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
"""By how many points another normalisation must be better to be refused, where no accuracy is known."""
NOTICED = 2.0
"""By how many points it must be better, on the same images, to be mentioned."""
REORDERED = 10.0
"""By how many points a teacher must be better with its classes in another order, for that to be mentioned: a teacher
that mixes classes up gains some by chance.
"""
SHORT = 1.0
"""From how many points below the published accuracy on normalisations are compared; fewer are rounding, or noise."""


class Best(NamedTuple):
    """The common normalisation with which a teacher is most accurate."""

    normalisation: Normalisation
    top1: float
    """Its accuracy in percent, on a sample of the test images."""
    now: float
    """The accuracy on the same images as they are normalised now."""

    def advice(self, name: str) -> str:
        """Say what to set."""
        return (
            f"With images normalised by {self.normalisation} it reaches {self.top1:.1f}% where it now reaches "
            f"{self.now:.1f}%: set teachers.{name}.mean and teachers.{name}.std"
        )


def measure(network: Network, dataset: Dataset) -> float:
    """Return the top-1 accuracy on the test images in percent, where the network is."""
    device = next(network.parameters()).device
    labels = torch.from_numpy(dataset.test.labels).to(device)
    return inference.top1(inference.predict(network, dataset.test, dataset, device), labels).item()


def check(card: dict[str, Any], source: str, top1: float, network: Network, dataset: Dataset) -> None:
    """Stop when a checkpoint is not as accurate as it should be: other weights, data or preprocessing.

    Args:
        card: of the teacher, with `tolerance`, and `published_top1` where it is known.
        source: where the checkpoint came from.
        top1: its accuracy in percent.
        network: the teacher, which is left as it is.
        dataset: gives the test images.

    Raises:
        UserError: `top1` is more than the tolerance below the published accuracy; it is no better than chance, and the
            published accuracy is, or is not known; or none is known, and it is far below what another normalisation
            gives.
    """
    name, published = card["name"], card.get("published_top1")
    where, setting = f"teacher {name}: {source} reaches {top1:.2f}% here", f"teachers.{name}.published_top1"
    chance = _chance(dataset)
    has_learnt = top1 > chance or (published is not None and published <= chance)
    if has_learnt and published is not None and top1 >= published - min(SHORT, card["tolerance"]):
        _say_excess(where, setting, top1 - published, card)
        return
    best = _best(network, dataset)
    if published is not None:
        where += f", {published - top1:.2f} points below the published {published:.2f}%"
        if top1 < published - card["tolerance"]:
            enough = published - card["tolerance"] - _error(best.top1, dataset)
            is_it = best.top1 >= enough and best.top1 > best.now + NOTICED
            advice = best.advice(name) if is_it else _doubts(setting, network, dataset)
            raise UserError(f"{where} (allowed: {card['tolerance']}). {advice}")
    if not has_learnt:
        is_it = best.top1 > chance + BETTER
        advice = best.advice(name) if is_it else _doubts(setting, network, dataset)
        raise UserError(f"{where}, which is no better than chance. {advice}")
    if published is None:
        if best.top1 > best.now + BETTER:
            raise UserError(f"{where}. {best.advice(name)}, or {setting} if {top1:.2f} is right")
        where += (
            "; how accurate it should be is not known, so wrong weights would not be noticed "
            f"({setting} takes the accuracy that it should reach){_other_order(network, dataset)}"
        )
    if best.top1 > best.now + NOTICED:
        where += f". {best.advice(name)}, if that is how it was trained"
    print(f"warning: {where}", file=sys.stderr)


def _say_excess(where: str, setting: str, excess: float, card: dict[str, Any]) -> None:
    """Warn of a teacher that is far better than published, which weights of that publication are not."""
    if excess > card["tolerance"]:
        print(
            f"warning: {where}, {excess:.2f} points above the published {card['published_top1']:.2f}%. Is {setting} an "
            "error rate or another network's figure, or are the test images among those that it was trained on?",
            file=sys.stderr,
        )


def _doubts(setting: str, network: Network, dataset: Dataset) -> str:
    """Say what may be wrong where no common normalisation gives the expected accuracy."""
    return (
        f"Are weights, data set and class order those of the publication? If so, set {setting} (none of the common "
        f"normalisations of images gives the expected accuracy){_other_order(network, dataset)}"
    )


def _other_order(network: Network, dataset: Dataset) -> str:
    """Say that a teacher would be far more accurate if its outputs stood for other classes; empty where it would not.

    The best assignment of outputs to classes is that of the confusion matrix with the largest sum on its diagonal,
    found on every other image of the sample and tried on the rest, for with few images some fits by chance.
    """
    split, count = _sample(dataset.test), len(dataset.classes)
    logits = inference.predict(network, split, dataset, next(network.parameters()).device)
    confusion = np.zeros((count, count), dtype=np.int64)
    predicted, labels = logits.argmax(dim=1).cpu().numpy(), np.asarray(split.labels)
    np.add.at(confusion, (predicted[::2], labels[::2]), 1)
    outputs, classes = linear_sum_assignment(confusion, maximize=True)
    now, best = (100 * np.mean(order[predicted[1::2]] == labels[1::2]) for order in (np.arange(count), classes))
    if best <= now + REORDERED:
        return ""
    moved = [f"output {a} for {shown(dataset.classes[b])}" for a, b in zip(outputs, classes, strict=True) if a != b]
    return (
        f". Its classes seem to be in another order: it would reach {best:.1f}% on a sample instead of {now:.1f}% if "
        f"{', '.join(moved[:3])}{', ...' if moved[3:] else ''} stood; reorder its classifier if so"
    )


def _best(network: Network, dataset: Dataset) -> Best:
    """Compare the common normalisations on a sample of the test images."""
    measured = []
    for one in COMMON:
        probe = copy.deepcopy(network)
        input_affine.attach(probe, mean=dataset.mean, std=dataset.std, own_mean=one.mean, own_std=one.std)
        measured.append((_top1_of_sample(probe, dataset), one))
    top1, best = max(measured, key=lambda pair: pair[0])
    return Best(best, top1, _top1_of_sample(network, dataset))


def _top1_of_sample(network: Network, dataset: Dataset) -> float:
    return measure(network, replace(dataset, test=_sample(dataset.test)))


def _sample(split: Split | Encoded) -> Split | Encoded:
    """Take `IMAGES` images of a split, evenly spaced, for images are often sorted by class."""
    count = len(split.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).round().astype(np.int64))
    return split.take(chosen)


def _chance(dataset: Dataset) -> float:
    """The accuracy in percent that guessing the most frequent class reaches, with three standard errors."""
    share = np.bincount(dataset.test.labels).max() / len(dataset.test.labels)
    return float(100 * share + 3 * 100 * math.sqrt(share * (1 - share) / len(dataset.test.labels)))


def _error(top1: float, dataset: Dataset) -> float:
    """Two standard errors of an accuracy in percent on the sample."""
    share = top1 / 100
    return 200 * math.sqrt(share * (1 - share) / min(IMAGES, len(dataset.test.labels)))
