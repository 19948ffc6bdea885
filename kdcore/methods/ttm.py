"""TTM: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, arXiv:2402.11148.

The loss is KL(p_t^exponent, normalised || p_s), with both softmaxes at temperature 1. Logits (..., C) -> (...), in
nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods import kd
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"exponent": "> 0"}


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, exponent: float) -> Tensor:
    """KL of the teacher's prediction, raised to a power and normalised, and the student's, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: not used; accepted so that all logit losses are called alike.
        exponent: of the teacher's probabilities, the inverse of a temperature; the student has none.

    Returns:
        (...).
    """
    # The power of a softmax, normalised, is the softmax of the multiplied logits. No probability underflows first.
    return kd.divergence(F.log_softmax(student, dim=-1), F.log_softmax(exponent * teacher, dim=-1))
