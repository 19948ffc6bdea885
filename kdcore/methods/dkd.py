"""DKD: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv:2203.08679.

The loss is alpha * TCKD + beta * NCKD: the divergence between target and rest, and the one between the other
classes. Logits (..., C) and target (...) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods._binary import log_target_and_rest
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"alpha": ">= 0", "beta": ">= 0", "temperature": "> 0"}


@at_least_float32
def terms(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Target-class and non-target-class knowledge distillation (TCKD, NCKD), each (...), T^2 included.

    TCKD is the KL divergence between the two binary distributions (target, rest), NCKD the one between the
    softmaxes over the classes that are not the target. Arguments as in `loss`.
    """
    student, teacher = student / temperature, teacher / temperature
    binary_student = log_target_and_rest(student, target)
    binary_teacher = log_target_and_rest(teacher, target)
    tckd = F.kl_div(binary_student, binary_teacher, reduction="none", log_target=True).sum(dim=-1)

    is_target = F.one_hot(target, student.shape[-1]).bool()
    others_student = F.log_softmax(student.masked_fill(is_target, -float("inf")), dim=-1)
    others_teacher = F.log_softmax(teacher.masked_fill(is_target, -float("inf")), dim=-1)
    per_class = F.kl_div(
        others_student.masked_fill(is_target, 0.0),
        others_teacher.masked_fill(is_target, 0.0),
        reduction="none",
        log_target=True,
    )
    return temperature**2 * tckd, temperature**2 * per_class.sum(dim=-1)


def loss(student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float, beta: float, temperature: float) -> Tensor:
    """alpha * TCKD + beta * NCKD, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        alpha: weight of the target-class term.
        beta: weight of the non-target-class term.
        temperature: T, dimensionless; both terms are multiplied by its square.

    Returns:
        (...).
    """
    tckd, nckd = terms(student, teacher, target, temperature=temperature)
    return alpha * tckd + beta * nckd
