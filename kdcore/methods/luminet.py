"""LumiNet: Hossain et al., LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration, TMLR
2025, arXiv:2310.03669.

The loss is alpha^2 * KL(softmax(teacher / T) || softmax(student / T)) of logits that each network standardises per
class over the batch. Logits (..., B, C) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods import kd
from kdcore.numerics import at_least_float32

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"alpha": ">= 0", "temperature": "> 0"}
EPSILON = 1e-5


def perception(logits: Tensor) -> Tensor:
    """Logits (..., B, C), each class with mean zero and variance one (biased, plus `EPSILON`) over the batch."""
    centred = logits - logits.mean(dim=-2, keepdim=True)
    return centred * (centred.square().mean(dim=-2, keepdim=True) + EPSILON).rsqrt()


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, alpha: float, temperature: float) -> Tensor:
    """alpha^2 * mean over samples of KL(teacher || student) of the `perception` of both, in nats, per batch.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: not used; accepted so that all logit losses are called alike.
        alpha: its square is the weight of the divergence, in place of T^2.
        temperature: T, dimensionless.

    Returns:
        (...), a scalar for one batch; 0 for a batch of one, in which every logit equals its mean.
    """
    student, teacher = (F.log_softmax(perception(logits) / temperature, dim=-1) for logits in (student, teacher))
    return alpha**2 * kd.divergence(student, teacher).mean(dim=-1)
