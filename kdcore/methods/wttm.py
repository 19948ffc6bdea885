"""WTTM: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, arXiv:2402.11148; the
form with weighted samples.

The loss is that of TTM times sum(p_t^exponent), which is large where the teacher is unsure. Logits (..., C) ->
(...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods import ttm
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"exponent": "> 0"}


@at_least_float32
def power_sum(teacher: Tensor, *, exponent: float) -> Tensor:
    """Sum over classes of the teacher's probabilities raised to a power: (..., C) -> (...).

    Between 1 and C^(1 - exponent) for an exponent below 1; 1 for an exponent of 1.
    """
    # In log space, for a probability that underflows may still have a power that counts.
    return (exponent * F.log_softmax(teacher, dim=-1)).logsumexp(dim=-1).exp()


def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, exponent: float) -> Tensor:
    """`ttm.loss` times `power_sum`, in nats, per sample. The weights are not normalised over the batch.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: not used; accepted so that all logit losses are called alike.
        exponent: of the teacher's probabilities, the inverse of a temperature; the student has none.

    Returns:
        (...).
    """
    return power_sum(teacher, exponent=exponent) * ttm.loss(student, teacher, exponent=exponent)
