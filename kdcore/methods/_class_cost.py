"""How unlike a teacher finds two classes: what it costs to move probability from one to the other (WKD).

A cost is a matrix (C, C) without unit, 0 on its diagonal. It is 1 minus the cosine of two rows of the teacher's
classifier, or 1 minus the linear CKA of what the teacher makes of the training images of two classes (Kornblith et al.,
Similarity of Neural Network Representations Revisited, ICML 2019, arXiv:1905.00414).
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32
from kdcore.system.errors import UserError

LARGEST = 4_000_000_000
"""The most bytes that the features of all classes may take. Where they would take more, the first images of each class
stand for it, as many as fit."""
FEWEST = 3
"""Rows of a class: any two matrices of two centred rows are alike."""
BLOCK = 128
"""How many rows of a class are multiplied at a time."""


def of_teacher(setting: Setting, kind: str) -> Tensor:
    """The cost (C, C) that a teacher and its training images give, before it is sharpened; on the device.

    Args:
        setting: the teacher, and the classes of the training images.
        kind: "classifier" compares the rows of the linear classifier. "cka_map" compares the last stage's map, each of
            its positions being a row; "cka_logits" compares the logits. Both are computed once and kept.

    Raises:
        UserError: the teacher has no feature maps of stages, or no linear classifier.
    """
    if kind == "classifier" and setting.classifiers[1] is None:
        raise UserError("cost: classifier needs a linear classifier, which the teacher does not have; take cka_logits")
    if kind == "classifier":
        return of_classifier(setting.classifiers[1].weight.detach())
    if kind == "cka_map" and not setting.teacher.stages:
        raise UserError(
            "cost: cka_map needs feature maps of stages, which the teacher does not have; take cka_logits or classifier"
        )
    rows = _positions if kind == "cka_map" else _logits

    def compute() -> Tensor:
        with torch.no_grad():
            features = gather(setting.teacher_outputs(), setting.labels, setting.num_classes, rows)
            if features.shape[1] < FEWEST:
                raise UserError(
                    f"cost: {kind}: the smallest class gives {features.shape[1]} rows of features, by which all "
                    "classes look alike; take another cost, or more training images of each class"
                )
            return _distance(features)

    return setting.kept(f"cost of classes, {kind}", compute)


@at_least_float32
def sharpened(distance: Tensor, sharpen: float) -> Tensor:
    """1 - exp(-sharpen * distance), elementwise."""
    return -(-sharpen * distance).expm1()


@at_least_float32
def of_classifier(weight: Tensor) -> Tensor:
    """1 minus the cosine of every two rows of a classifier's weight: (C, D) -> (C, C)."""
    rows = unit(weight)
    return (1 - rows @ rows.T).fill_diagonal_(0.0)


@at_least_float32
def of_features(features: Tensor) -> Tensor:
    """1 minus the linear CKA of every two classes: (C, N, D) -> (C, C).

    Args:
        features: N rows of D features per class; the n-th rows of two classes are a pair.
    """
    return _distance(features - features.mean(dim=1, keepdim=True))


def gather(
    outputs: Iterable[Output], labels: Tensor, classes: int, rows: Callable[[Output], Tensor], largest: int = LARGEST
) -> Tensor:
    """The features of every class, centred: (C, N, D) in float32.

    All classes have as many images as the smallest that has any; a class without images has rows of zeros.

    Args:
        outputs: the teacher's, for all training images in their order.
        labels: (N',), the images' classes.
        classes: C.
        rows: takes the features (B, P, D) of B images, P rows each, from their output.
        largest: the most bytes that the result may take.
    """
    sizes, order = labels.bincount(minlength=classes), labels.argsort(stable=True)
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes)[labels[order]]
    features, start, images = torch.empty(0), 0, int(sizes[sizes > 0].min())
    for output in outputs:
        part = rows(output).float()
        if start == 0:
            images = max(1, min(images, largest // (classes * part[0].numel() * part.element_size())))
            features = part.new_zeros(classes, images, *part.shape[1:])
        label, place = labels[start : start + len(part)], rank[start : start + len(part)]
        features[label[place < images], place[place < images]] = part[place < images]
        start += len(part)
    if start != len(labels):
        raise ValueError(f"the teacher's outputs are those of {start} images, not of {len(labels)}")
    features = features.flatten(1, 2)
    return features.sub_(features.mean(dim=1, keepdim=True))


def _positions(output: Output) -> Tensor:
    return output.stages[-1].flatten(2).mT


def _logits(output: Output) -> Tensor:
    return output.logits[:, None]


@at_least_float32
def _distance(centred: Tensor) -> Tensor:
    """1 minus the linear CKA of every two of C centred matrices (C, N, D): (C, C), 1 where one of them is zero."""
    classes, count, width = centred.shape
    fewer_products = count * (width + classes) < classes * width**2
    likeness = _by_rows(centred) if fewer_products else _by_columns(centred)
    length = likeness.diagonal().sqrt()
    length = length.masked_fill(length == 0, 1.0)
    return (1 - likeness / length / length[:, None]).fill_diagonal_(0.0)


def _by_columns(centred: Tensor) -> Tensor:
    """|X_i' X_j|^2 of every two matrices (C, N, D), from the products X_i' X_j (D, D): (C, C)."""
    likeness = centred.new_empty(len(centred), len(centred))
    for i, first in enumerate(centred):
        likeness[i, i:] = torch.stack([(first.T @ other).square().sum() for other in centred[i:]])
    return likeness.triu() + likeness.triu(1).T


def _by_rows(centred: Tensor) -> Tensor:
    """The same from the products X_i X_i' (N, N), block by block: |X_i' X_j|^2 is the sum of their elements' products.

    It takes fewer multiplications where there are few rows, or many classes.
    """
    likeness = centred.new_zeros(len(centred), len(centred))
    blocks = centred.split(BLOCK, dim=1)
    for i, first in enumerate(blocks):
        for second in blocks[i:]:
            products = (first @ second.mT).flatten(1)
            likeness += (1 if second is first else 2) * (products @ products.T)
    return likeness
