"""RLD: Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025, arXiv:2408.07703.

The loss is alpha * SCD + beta * MCD: the divergence of the confidences, and the one over the classes that the
teacher ranks below the target. Logits (..., C) and target (...) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods._binary import log_target_and_rest
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"alpha": ">= 0", "beta": ">= 0", "temperature": "> 0", "alpha_temperature": "> 0"}


@at_least_float32
def sample_confidence(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """SCD: T^2 * KL between (teacher's largest probability, rest) and (student's target probability, rest), (...)."""
    student, teacher = student / temperature, teacher / temperature
    binary_student = log_target_and_rest(student, target)
    binary_teacher = log_target_and_rest(teacher, teacher.argmax(dim=-1))
    divergence = F.kl_div(binary_student, binary_teacher, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * divergence


@at_least_float32
def masked_correlation(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """MCD: T^2 * KL over the classes that the teacher ranks strictly below the target, (...).

    The target and its ties are masked too. A sample of which every class is masked gives 0, with zero gradient.
    """
    masked = teacher >= teacher.gather(-1, target.unsqueeze(-1))
    nothing_left = masked.all(dim=-1, keepdim=True)
    hidden = masked & ~nothing_left
    log_student = F.log_softmax((student / temperature).masked_fill(hidden, -float("inf")), dim=-1)
    log_teacher = F.log_softmax((teacher / temperature).masked_fill(hidden, -float("inf")), dim=-1)
    per_class = F.kl_div(
        log_student.masked_fill(masked, 0.0),
        log_teacher.masked_fill(masked, 0.0),
        reduction="none",
        log_target=True,
    )
    return temperature**2 * per_class.sum(dim=-1)


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    alpha_temperature: float,
) -> Tensor:
    """alpha * SCD + beta * MCD, in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        alpha: weight of the sample-confidence term.
        beta: weight of the masked-correlation term.
        temperature: of the masked-correlation term.
        alpha_temperature: of the sample-confidence term.

    Returns:
        (...).
    """
    scd = sample_confidence(student, teacher, target, temperature=alpha_temperature)
    mcd = masked_correlation(student, teacher, target, temperature=temperature)
    return alpha * scd + beta * mcd
