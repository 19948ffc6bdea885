"""OFA: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation, NeurIPS
2023, arXiv:2310.19444; the loss of the student's logits, without the heads of its stages.

The loss is sum_c -w_c log p_s(c) with w = (1 + p_t)^gamma - 1 for the target and p_t^gamma for the other classes.
Logits (..., C) and target (...) -> (...), in nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"gamma": "> 0", "temperature": "> 0"}


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """Cross-entropy with the teacher's probabilities, the target's enhanced, in nats, per sample.

    At gamma 1 it is cross-entropy with the teacher, so its least value is not 0.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        gamma: exponent of the weights; above 1 it enhances the target against the other classes.
        temperature: of both softmaxes, dimensionless; nothing is multiplied by its square.

    Returns:
        (...).
    """
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    of_others = (gamma * log_teacher).exp()
    of_target = (gamma * log_teacher.exp().log1p()).expm1()
    is_target = F.one_hot(target, student.shape[-1]).bool()
    return -(torch.where(is_target, of_target, of_others) * log_student).sum(dim=-1)
