"""How the weight of a method's loss changes over the epochs.

All borders are shares of the training, so that a shorter training has the same course. Publications give them in
epochs of 240.
"""

import math

STEPS = ((1 / 24, 0.1), (1 / 12, 0.5), (3 / 4, 1.0), (7 / 8, 0.5), (math.inf, 0.1))
"""Borders and factors of NORM (Liu et al., ICLR 2023): epochs 10, 20, 180 and 210 of 240."""


def factor(schedule: str, epoch: int, epochs: int, *, decay_from: float = 0.0) -> float:
    """Return the factor of a weight in an epoch.

    Args:
        schedule: "constant": always 1. "cosine": 1 until `decay_from`, then half a cosine, which ends at 0 in the last
            epoch (WKD: Lv et al., NeurIPS 2024, arXiv:2412.08139). "steps": the factors of `STEPS`, each until its
            border.
        epoch: counted from 1.
        epochs: of the whole training.
        decay_from: the share of the epochs after which the cosine begins.
    """
    if schedule == "steps":
        return next(value for border, value in STEPS if epoch < border * epochs)
    start = decay_from * epochs
    if schedule == "cosine" and epoch > start:
        return 0.5 * (1 + math.cos(math.pi * (epoch - start) / (epochs - start)))
    return 1.0
