"""Recognise networks that have learnt nothing, although all of their numbers are finite."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

import numpy as np

EPOCHS = 3
"""The mean training accuracy of this many last epochs must be above chance."""
ERRORS = 2
"""The mean training accuracy must be this many standard errors above chance, which is the accuracy of always naming the
most frequent class.
"""
ADVICE = "see its history; a lower train.lr, or lower weights of the method, may help"


def reason(predicted: int, train_top1: Sequence[float], labels: np.ndarray, *, images: str = "test") -> str | None:
    """Say why a network counts as collapsed; None if it does not.

    Args:
        predicted: how many different classes the network names for the images that it is measured on.
        train_top1: the training accuracy of every epoch, in percent.
        labels: class indices (N,) of the training images.
        images: what the images are called that the network is measured on.
    """
    if predicted == 1:
        return f"predicts one class for all {images} images"
    chance = np.bincount(labels).max() / len(labels)
    last = train_top1[-EPOCHS:]
    error = sqrt(chance * (1 - chance) / (EPOCHS * len(labels)))
    if len(last) == EPOCHS and fmean(last) <= 100 * (chance + ERRORS * error):
        return f"fits the training images no better than chance in the last {EPOCHS} epochs"
    return None
