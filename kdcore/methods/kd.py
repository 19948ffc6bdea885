"""KD: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531."""

import torch.nn.functional as F
from torch import Tensor

from kdcore.precision import at_least_float32

KIND = "logit"
PARAMETERS = {"temperature": "> 0"}


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of the softened predictions, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: not used; accepted so that all logit losses are called alike.
        temperature: T, dimensionless.

    Returns:
        (...).
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * divergence
