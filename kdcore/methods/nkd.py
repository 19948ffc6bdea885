"""NKD: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023, arXiv:2303.13005.

The loss is -p_t[y] * log p_s[y] + gamma * T^2 * cross-entropy of the softmaxes without the target y. Logits (...,
C) and target (...) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"gamma": ">= 0", "temperature": "> 0", "nontarget": ["exclude_target", "all_classes"]}


@at_least_float32
def terms(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    gamma: float,
    temperature: float,
    nontarget: str = "exclude_target",
) -> tuple[Tensor, Tensor]:
    """The soft target term and the (normalised) non-target term, each (...). Arguments as in `loss`."""
    index = target.unsqueeze(-1)
    p_teacher = F.softmax(teacher, dim=-1).gather(-1, index).squeeze(-1)
    log_p_student = F.log_softmax(student, dim=-1).gather(-1, index).squeeze(-1)

    excluded = F.one_hot(target, student.shape[-1]).bool()
    if nontarget == "all_classes":
        excluded = excluded & False
    soft_student = (student / temperature).masked_fill(excluded, -float("inf"))
    soft_teacher = (teacher / temperature).masked_fill(excluded, -float("inf"))
    log_q_student = F.log_softmax(soft_student, dim=-1).masked_fill(excluded, 0.0)
    cross_entropy = -(F.softmax(soft_teacher, dim=-1) * log_q_student).sum(dim=-1)
    return -p_teacher * log_p_student, gamma * temperature**2 * cross_entropy


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    gamma: float,
    temperature: float,
    nontarget: str = "exclude_target",
) -> Tensor:
    """-p_t[y] log p_s[y] at T = 1, plus gamma * T^2 * cross-entropy of the non-target softmaxes, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        gamma: weight of the non-target term.
        temperature: T of the non-target term, dimensionless.
        nontarget: "exclude_target" drops the target before the second softmax (the paper); "all_classes" keeps it,
            as the authors' first code and SDD's code do.

    Returns:
        (...).
    """
    of_target, of_others = terms(student, teacher, target, gamma=gamma, temperature=temperature, nontarget=nontarget)
    return of_target + of_others
