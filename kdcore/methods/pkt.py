"""PKT: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018,
arXiv:1803.10837.

The loss is mean(p_t * log(p_t / p_s)) over all pairs of samples; each row of p is (cosine + 1) / 2, divided by its
sum. Pooled features (B, D) -> scalar, in nats.
"""

import torch
from torch import Tensor

from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS: dict[str, str] = {}


def neighbours(features: Tensor, eps: float) -> Tensor:
    """Each sample's distribution over all samples by cosine similarity, rescaled to [0, 1]: (B, D) -> (B, B)."""
    length = features.norm(dim=1, keepdim=True)
    direction = features / (length + eps)
    similarity = (direction @ direction.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


@at_least_float32
def loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Mean over all B^2 entries of the KL divergence from the teacher's neighbourhoods to the student's.

    Args:
        student: pooled features (B, D).
        teacher: pooled features (B, E).
        eps: added to lengths and to probabilities.

    Returns:
        Scalar.
    """
    of_student, of_teacher = neighbours(student, eps), neighbours(teacher, eps)
    return (of_teacher * torch.log((of_teacher + eps) / (of_student + eps))).mean()


def distill(student: Output, teacher: Output) -> Tensor:
    """`loss` of the pooled features."""
    return loss(student.pooled, teacher.pooled)
