"""Which samples and classes a teacher is less sure of than usual: the masks of MLKD and of streamlined KD."""

import torch
from torch import Tensor


def unsure(teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and classes whose confidence is at most the median's.

    A sample's confidence is its largest probability (temperature 1), a class's the sum of its probabilities.

    Args:
        teacher: logits (..., B, C).

    Returns:
        (..., B) and (..., C), bool.
    """
    probabilities = teacher.softmax(dim=-1)
    return _at_most_median(probabilities.amax(dim=-1)), _at_most_median(probabilities.sum(dim=-2))


def _at_most_median(confidence: Tensor) -> Tensor:
    return confidence <= torch.quantile(confidence, 0.5, dim=-1, keepdim=True)
