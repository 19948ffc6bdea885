"""RC: one of the label-corrected baselines of RLD: Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025,
arXiv:2408.07703.

The loss is KD + rc_weight * T^2 * KL(raised || student), where "raised" is the student's own prediction with a larger
logit of the target, without gradient. Logits (..., C) and target (...) -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods import kd
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {"temperature": "> 0", "rc_weight": ">= 0", "variant": ["centred", "as_published"]}


def raised(student: Tensor, target: Tensor, *, variant: str) -> Tensor:
    """The student's logits (..., C) with the target's raised, without gradient. Arguments as in `loss`."""
    student = student.detach()
    rise = student.amax(dim=-1, keepdim=True)
    if variant == "centred":
        rise = rise - student.mean(dim=-1, keepdim=True)
    return student + rise * F.one_hot(target, student.shape[-1])


@at_least_float32
def terms(
    student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float, variant: str = "as_published"
) -> tuple[Tensor, Tensor]:
    """KL from the teacher's and from the raised prediction, each (...), T^2 included. Arguments as in `loss`."""
    own, of_teacher, of_raised = (
        F.log_softmax(logits / temperature, dim=-1)
        for logits in (student, teacher, raised(student, target, variant=variant))
    )
    return temperature**2 * kd.divergence(own, of_teacher), temperature**2 * kd.divergence(own, of_raised)


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float,
    rc_weight: float,
    variant: str = "as_published",
) -> Tensor:
    """KD + rc_weight * T^2 * KL(raised prediction || student), in nats, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        temperature: T, dimensionless; both terms are multiplied by its square.
        rc_weight: weight of the second term.
        variant: by how much the target's logit is raised. "centred": by how far the largest logit lies above their
            mean. That is never negative and does not change when all logits are shifted. "as_published": by the
            largest logit, which is the same where logits have mean zero, as standardised ones do. Elsewhere it
            depends on a shift, and where all logits are negative it lowers the target's.

    Returns:
        (...).
    """
    divergence, correction = terms(student, teacher, target, temperature=temperature, variant=variant)
    return divergence + rc_weight * correction
