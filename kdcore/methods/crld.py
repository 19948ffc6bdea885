"""CRLD: Zhang et al., Cross-View Consistency Regularisation for Knowledge Distillation, ACM MM 2024, arXiv:2412.16493.

The loss is KD within each view, where the teacher is sure of the weak one, + KD across the views, where it is sure of
the strong one. Logits (..., C) of both views -> (...), in nats.
"""

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods import kd
from kdcore.numerics import at_least_float32
from kdcore.standardize import standardize as standardized

KIND = "logit"
VIEWS = ["weak", "strong"]
PARAMETERS = {
    "temperature": "> 0",
    "tau_weak": "[0, 1)",
    "tau_strong": "[0, 1)",
    "within_weight": ">= 0",
    "cross_weight": ">= 0",
}


def sure(teacher: Tensor, threshold: float) -> Tensor:
    """Where the teacher's largest probability (temperature 1) is at least a threshold: (..., C) -> (...)."""
    return teacher.softmax(dim=-1).amax(dim=-1) >= threshold


@at_least_float32
def terms(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    *,
    temperature: float,
    tau_weak: float,
    tau_strong: float,
    standardize: bool = False,
) -> tuple[Tensor, Tensor]:
    """KD within and across the views, masked, each (...), unweighted. Arguments as in `loss`."""
    masks = sure(teacher_weak, tau_weak), sure(teacher_strong, tau_strong)
    views = [student_weak, student_strong, teacher_weak, teacher_strong]
    if standardize:
        views = [standardized(logits) for logits in views]
    own_weak, own_strong, weak, strong = (F.log_softmax(logits / temperature, dim=-1) for logits in views)
    within = kd.divergence(own_weak, weak) + kd.divergence(own_strong, strong)
    across = kd.divergence(own_strong, weak) + kd.divergence(own_weak, strong)
    return temperature**2 * within * masks[0], temperature**2 * across * masks[1]


def loss(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float,
    tau_weak: float,
    tau_strong: float,
    within_weight: float,
    cross_weight: float,
    standardize: bool = False,
) -> Tensor:
    """within_weight * KD within the views + cross_weight * KD across them, in nats, per sample.

    As published, each mask belongs to a pair of divergences and not to the teacher's view in them.

    Args:
        student_weak: logits (..., C) of the weakly augmented images.
        student_strong: logits (..., C) of the strongly augmented images.
        teacher_weak: the teacher's logits (..., C) of the weakly augmented images.
        teacher_strong: the teacher's logits (..., C) of the strongly augmented images.
        target: not used; accepted so that all logit losses are called alike.
        temperature: T, dimensionless; all divergences are multiplied by its square.
        tau_weak: the teacher's least confidence in the weak view for a sample to count within the views.
        tau_strong: its least confidence in the strong view for a sample to count across the views.
        within_weight: weight of the divergences between the same view of both networks.
        cross_weight: weight of the divergences between different views.
        standardize: z-score the logits of the divergences; the confidences take them as they are.

    Returns:
        (...); 0, without gradient, for a sample that counts nowhere.
    """
    within, across = terms(
        student_weak,
        student_strong,
        teacher_weak,
        teacher_strong,
        temperature=temperature,
        tau_weak=tau_weak,
        tau_strong=tau_strong,
        standardize=standardize,
    )
    return within_weight * within + cross_weight * across
