"""LSKD: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv:2403.01427."""

from torch import Tensor

from kdcore.numerics import at_least_float32

EPSILON = 1e-7


@at_least_float32
def standardize(logits: Tensor) -> Tensor:
    """Z-score over classes: zero mean, unit (unbiased) standard deviation, before any temperature.

    Args:
        logits: (..., C), C >= 2.

    Returns:
        (..., C). Unchanged when a row of logits is shifted, or scaled by a positive factor (up to `EPSILON`,
        which is added to the deviation). A constant row becomes zeros and gets no gradient.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / (logits.shape[-1] - 1)
    constant = variance == 0
    deviation = variance.masked_fill(constant, 1.0).sqrt().masked_fill(constant, 0.0)
    return (centred / (deviation + EPSILON)).masked_fill(constant, 0.0)
