"""Networks that have learnt nothing, though every number of theirs is finite."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

import numpy as np

EPOCHS = 3
"""The last ones, of which a training accuracy must be told from chance."""
ERRORS = 2
"""Standard errors of the accuracy of a network that always names the most frequent class."""
ADVICE = "see its history; a lower train.lr, or lower weights of the method, may help"


def reason(predicted: int, train_top1: Sequence[float], labels: np.ndarray) -> str | None:
    """Why a network counts as collapsed; None where it does not.

    Args:
        predicted: how many classes it names for the test images.
        train_top1: in percent, of every epoch.
        labels: (N,), of the training images.
    """
    if predicted == 1:
        return "predicts one class for all test images"
    chance = np.bincount(labels).max() / len(labels)
    last = train_top1[-EPOCHS:]
    error = sqrt(chance * (1 - chance) / (EPOCHS * len(labels)))
    if len(last) == EPOCHS and fmean(last) <= 100 * (chance + ERRORS * error):
        return f"fits the training images no better than chance in the last {EPOCHS} epochs"
    return None
