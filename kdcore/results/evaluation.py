"""Measure trained networks: accuracy, calibration, agreement with the teacher, cost."""

import sys
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from kdcore import checkpoints, networks
from kdcore.data import regimes, subsets
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.matrix.fingerprint import fingerprint
from kdcore.matrix.train_images import LABEL_NOISE, noise_in_words
from kdcore.networks.cost import multiply_adds, parameters
from kdcore.networks.input_affine import Normalisation
from kdcore.networks.other_end import OtherEnd
from kdcore.results import shots
from kdcore.results.trained_pair import TrainedCell, TrainedPair
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.training import collapse, run_folder
from kdcore.training.inference import predict

LOADED = fingerprint(__name__)
"""The fingerprint of this code when it was loaded, which may be older than the files."""
CALIBRATION_BINS = 15
DIGITS = 4
ROUNDING, COARSE = 1.0, 5.0
"""By how many points the accuracy of restored weights may differ from that in training: where this was measured in
float32, for another machine rounds otherwise; and where in a type of fewer digits, in which a network that has hardly
learnt gives many classes the same logit.
"""
FEW = 3
"""So many test images may differ, however few there are."""
PROVENANCE = ("recipe", "commit", "device", "threads", "processes", "computed_in", "versions")
"""Keys of a run's meta.json that its evaluation repeats."""


def evaluate_pair(
    card: dict[str, Any], dataset: Dataset, teacher_weights: Path, device: torch.device
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure the teacher and every cell of a pair.

    Args:
        card: the card of stage evaluate, with the pair and its cells, and with the share of the validation images if
            there are any.
        dataset: the data set whose test images are used, with all of its training images.
        teacher_weights: the teacher's checkpoint.
        device: where to compute.

    Returns:
        A summary with metrics of the teacher, cost of both networks, and one entry per cell: identity, metrics, recipe,
        provenance; `top1_ema`, of the averaged weights, where there are any; `cost` where its student ends otherwise
        (see `own_cost`); and, for a cell that has learnt nothing, the sign of that (see `collapse`). `train_images`
        counts the training images besides validation images. Then the histories of all cells, one row per cell and
        epoch.

    Raises:
        UserError: see `TrainedPair`; or weights or logits are not finite.
    """
    dataset = subsets.chosen(dataset, **({"validation": card["validation"]} if "validation" in card else {}))
    pair, images = TrainedPair(card, dataset, device), _Images(dataset, device)
    teacher = pair.teacher(teacher_weights)
    teacher_logits = images.logits(teacher, teacher_weights)
    plain = plain_cost(
        pair.student_name,
        len(dataset.classes),
        stem=dataset.stem,
        image_size=dataset.image_size,
        described=card.get("networks"),
    )
    cells = list(pair.cells())
    summary = {
        "pair": card["pair"],
        "train_images": len(dataset.train.labels),
        "classes": len(dataset.classes),
        "teacher": {
            **_with_reliability(teacher_logits, images.labels, teacher_logits),
            "weights_sha256": file_sha256(teacher_weights),
            **cost(teacher, dataset.image_size),
        },
        "student": plain,
        "cells": [_entry(cell, pair, images, teacher_logits, plain) for cell in cells],
    }
    histories = [cell.history.assign(cell=cell.identity["name"]) for cell in cells]
    return summary, pd.concat(histories, ignore_index=True)


def _entry(
    cell: TrainedCell, pair: TrainedPair, images: "_Images", teacher_logits: Tensor, plain: dict[str, int]
) -> dict[str, Any]:
    """Measure one cell.

    Args:
        cell: its results.
        pair: restores its networks.
        images: what it is measured on.
        teacher_logits: (N, C), its teacher's.
        plain: the cost of its student without another end.
    """
    train, student = cell.meta["train"], pair.student(cell.weights)
    logits = images.logits(student, cell.weights)
    averaged = {}
    if train.get("ema"):
        of_average = cell.folder / run_folder.AVERAGE
        of_images = images.logits(pair.student(of_average), of_average)
        averaged = {"top1_ema": measure(of_images, images.labels)["top1"]}
    learnt = regimes.learnt(images.counts, train)
    metrics = _with_reliability(logits, images.labels, teacher_logits)
    _check_restored(cell, {**metrics, **averaged}, len(logits))
    collapsed = collapse.reason(len(logits.argmax(dim=1).unique()), list(cell.history["train_top1"]), learnt)
    return {
        **cell.identity,
        **metrics,
        "top1_best": best_top1(cell.history),
        **images.on_validation(student, cell.weights),
        **averaged,
        **shots.measured(logits, images.labels, images.counts, train),
        **provenance(cell.meta),
        "weights_sha256": file_sha256(cell.weights),
        **own_cost(student, images.dataset.image_size, plain),
        **({"collapsed": collapsed} if collapsed else {}),
    }


def _check_restored(cell: TrainedCell, measured: Mapping[str, float], images: int) -> None:
    """Refuse weights that do not give the accuracies, in percent, that training had after its last epoch: they do not
    make the network that was trained. `images` counts the test images.
    """
    allowed = max(ROUNDING if cell.meta["computed_in"] == "float32" else COARSE, 100 * FEW / images)
    for key, column in (("top1", "test_top1"), ("top1_ema", "ema_test_top1")):
        if key not in measured or abs(measured[key] - (trained := cell.history[column].iloc[-1])) <= allowed:
            continue
        raise UserError(
            f"{cell.weights}: has {measured[key]:.2f}% ({key}), and in training it had {trained:.2f}% after the last "
            "epoch. So the network that is restored is another one: the file was replaced, or the network computes "
            "with values that training changes and its state dict lacks, such as plain attributes; register these as "
            f"buffers. Then remove {cell.folder}, and run 'dvc repro' to train it again"
        )


class _Images:
    """The images that networks are measured on.

    Args:
        dataset: has them, and the training images besides the validation images.
        device: where to compute.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.labels = torch.from_numpy(dataset.test.labels).to(device)
        self.counts: list[int] = np.bincount(dataset.train.labels, minlength=len(dataset.classes)).tolist()
        """The training images of each class."""

    def logits(self, network: nn.Module, weights: Path, images: Split | Encoded | None = None) -> Tensor:
        """Predict images, the test images by default; logits that are not finite would be counted as predictions, so
        they are an error.
        """
        logits = predict(network, self.dataset.test if images is None else images, self.dataset, self.device)
        broken = int((~torch.isfinite(logits).all(dim=1)).sum())
        if broken:
            what = "test" if images is None else "validation"
            raise UserError(
                f"{weights}: the logits of {broken} of {len(logits)} {what} images are not finite; train it again"
            )
        return logits

    def on_validation(self, network: nn.Module, weights: Path) -> dict[str, float]:
        """Return the accuracy in percent on the validation images as a part of an entry; empty without any."""
        if self.dataset.validation is None:
            return {}
        labels = torch.from_numpy(self.dataset.validation.labels).to(self.device)
        return {"val_top1": measure(self.logits(network, weights, self.dataset.validation), labels)["top1"]}


def evaluate_checkpoint(
    network: str,
    weights: Path,
    dataset: Dataset,
    device: torch.device,
    mean_std: Sequence[float] | None = None,
    *,
    weights_key: str | None = None,
    described: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], pd.Series]:
    """Measure one network.

    Args:
        network: the network's name.
        weights: its checkpoint, ours or a published one.
        dataset: the data set whose test images are used.
        device: where to compute.
        mean_std: the three means and the three deviations of the images that it was trained on, where they are not the
            data set's; None takes those that the folder of a run records.
        weights_key: see `kdcore.checkpoints.load`.
        described: see `kdcore.networks.create`.

    Returns:
        Metrics (see `measure`), the number of test images and the cost; and top-1 in percent by class.

    Raises:
        UserError: the checkpoint cannot be read or does not fit the network, or its weights or logits are not finite;
            or it was trained on images of another normalisation that nothing says.
    """
    classes = len(dataset.classes)
    images = Normalisation(dataset.mean, dataset.std)
    meta, recorded = run_folder.recorded(weights)
    own = Normalisation(mean_std[:3], mean_std[3:]) if mean_std else recorded
    restored = checkpoints.restore(
        network,
        classes,
        weights,
        device,
        stem=dataset.stem,
        weights_key=weights_key,
        images=images,
        own=own,
        classes=dataset.classes,
        described=described,
    )
    if meta.get("student", network) != network:
        print(
            f"warning: {weights}: was trained as {meta['student']}, which may see images otherwise than {network}",
            file=sys.stderr,
        )
    if own is not None and own != images:
        print(f"{weights}: sees images normalised by {own}, as in its training", file=sys.stderr)
    tested = _Images(dataset, device)
    logits = tested.logits(restored, weights)
    metrics = {**measure(logits, tested.labels), "test_images": len(logits), **cost(restored, dataset.image_size)}
    by_class = _accuracy(logits, tested.labels, 1, average="none").cpu() * 100
    return metrics, pd.Series(by_class.tolist(), index=dataset.classes, name="top1").round(DIGITS)


def measure(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Metrics of predictions on N test images.

    Args:
        logits: (N, C), from the network to measure.
        labels: (N,).
        teacher_logits: (N, C), from its teacher, if it has one.

    Returns:
        top1, top5 and agreement (share of images with the teacher's prediction) in percent; nll, the negative
        log-likelihood in nats; ece, the expected calibration error in percent (15 equal bins, L1; Guo et al., ICML
        2017, arXiv:1706.04599). Rounded to four decimals.
    """
    count, confidence, accuracy = _calibration(logits, labels)
    values = {
        "top1": 100 * _accuracy(logits, labels, 1),
        "top5": 100 * _accuracy(logits, labels, min(5, logits.shape[1])),
        "nll": F.cross_entropy(logits.double(), labels),
        "ece": 100 * (count * (accuracy - confidence).abs()).nansum() / len(labels),
    }
    if teacher_logits is not None:
        values["agreement"] = 100 * _accuracy(logits, teacher_logits.argmax(dim=1), 1)
    return {name: round(float(value), DIGITS) for name, value in values.items()}


def reliability(logits: Tensor, labels: Tensor) -> dict[str, list[int] | list[float | None]]:
    """Return the bins of the expected calibration error, which a reliability diagram draws.

    Args:
        logits: (N, C).
        labels: (N,).

    Returns:
        Per bin, from the least to the most confident predictions: count of images; mean confidence and accuracy, both
        from 0 to 1 and rounded to four decimals, None where the bin is empty.
    """
    count, confidence, accuracy = _calibration(logits, labels)
    means = {"confidence": confidence.tolist(), "accuracy": accuracy.tolist()}
    rounded = {name: [None if isnan(x) else round(x, DIGITS) for x in values] for name, values in means.items()}
    return {"count": count.long().tolist(), **rounded}


def cost(network: nn.Module, image_size: int) -> dict[str, int]:
    """Count parameters, and multiply-adds of convolutions and matrix products for one image."""
    return {"parameters": parameters(network), "multiply_adds": multiply_adds(network, image_size)}


def plain_cost(
    name: str, classes: int, *, stem: str, image_size: int, described: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Count the `cost` of a network as it is made, before a method gives it another end; no weights are made for one of
    the zoo.
    """
    with torch.device("cpu" if described and name in described else "meta"):  # others' code may ask for values
        return cost(networks.create(name, classes, stem=stem, described=described), image_size)


def own_cost(student: nn.Module, image_size: int, plain: dict[str, int]) -> dict[str, dict[str, int]]:
    """Return the `cost` of a cell's student as a part of its entry, where its method gave it another end.

    Args:
        student: the network that is evaluated.
        image_size: height and width, in pixels.
        plain: the cost of the network that it was made from. Empty is returned where the two are equal.
    """
    own = cost(student, image_size) if isinstance(student, OtherEnd) else plain
    return {} if own == plain else {"cost": own}


def best_top1(history: pd.DataFrame) -> float:
    """Return the test accuracy of the best epoch in percent: the first of those that are best on the validation images,
    or, in a history without them, on the test images, as many papers choose it. Epochs that were not measured
    (`train.evaluate_every`) are none of them.
    """
    chosen_on = history["val_top1" if "val_top1" in history else "test_top1"]
    return round(float(history["test_top1"].iloc[int(np.nanargmax(chosen_on.to_numpy()))]), DIGITS)


def provenance(meta: dict[str, Any]) -> dict[str, Any]:
    """Take from a run's meta.json what trained it: recipe, epochs, training images of each class where that is not all,
    the regime of training data where there is one, how rarely it was measured where that is not after every epoch, code
    and machine, whether steps were compiled where that was asked for, accepted changes of the code.
    """
    accepted = {"accepted": meta["accepted"]} if meta.get("accepted") else {}
    budget = {key: meta["train"][key] for key in ("epochs", "per_class", "evaluate_every") if key in meta["train"]}
    compiled = {"compiled": meta["compiled"]} if "compiled" in meta else {}
    regime = {key: meta["train"][key] for key in ("share", "long_tail") if key in meta["train"]}
    if noise := meta["train"].get(LABEL_NOISE):
        regime[LABEL_NOISE] = noise_in_words(noise)
    return {**{key: meta.get(key) for key in PROVENANCE}, **compiled, **budget, **regime, **accepted}


def _with_reliability(logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> dict[str, Any]:
    return {**measure(logits, labels, teacher_logits), "reliability": reliability(logits, labels)}


def _calibration(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count of images, mean confidence and accuracy per bin: three (15,) float64, means nan for an empty bin.

    A prediction with confidence 1 is in the last bin, as in the paper; torchmetrics has a sixteenth bin for it.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64, device=logits.device)
    in_bin = F.one_hot(torch.bucketize(confidence, edges[1:-1], right=True), CALIBRATION_BINS).double()
    count = in_bin.sum(dim=0)
    return count, confidence @ in_bin / count, (predicted == labels).double() @ in_bin / count


def _accuracy(logits: Tensor, labels: Tensor, k: int, average: str = "micro") -> Tensor:
    return multiclass_accuracy(logits, labels, num_classes=logits.shape[1], top_k=k, average=average)
