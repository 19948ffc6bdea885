"""RKD: Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv:1904.05068.

The loss is distance_weight * smooth-L1 of the distances between samples, divided by their mean, + angle_weight *
smooth-L1 of the cosines between three samples. Pooled features (B, D) -> scalar without unit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS = {"distance_weight": ">= 0", "angle_weight": ">= 0"}


def distances(features: Tensor, *, squared: bool, eps: float) -> Tensor:
    """Euclidean distances between all samples, (B, D) -> (B, B), divided by the mean of the positive ones."""
    square = features.square().sum(dim=1)
    found = (square[:, None] + square - 2 * features @ features.T).clamp(min=eps)
    if not squared:
        found = found.sqrt()
    between = ~torch.eye(len(features), dtype=torch.bool, device=features.device)
    found = found * between
    positive = found > 0
    return found / (found.sum() / positive.sum().clamp(min=1)).clamp(min=eps)


def angles(features: Tensor) -> Tensor:
    """Cosines of the angles at i between j and k, (B, D) -> (B, B, B), axes i, j, k."""
    directions = F.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.mT


@at_least_float32
def terms(student: Tensor, teacher: Tensor, *, squared: bool = False, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """The distance and the angle term: smooth-L1 means over all B^2 and B^3 entries, diagonal included. Scalars."""
    by_distance = F.smooth_l1_loss(
        distances(student, squared=squared, eps=eps), distances(teacher, squared=squared, eps=eps)
    )
    return by_distance, F.smooth_l1_loss(angles(student), angles(teacher))


def loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float,
    angle_weight: float,
    squared: bool = False,
    eps: float = 1e-12,
) -> Tensor:
    """distance_weight * RKD-D + angle_weight * RKD-A.

    Args:
        student: pooled features (B, D).
        teacher: pooled features (B, E).
        distance_weight: weight of the distance term.
        angle_weight: weight of the angle term.
        squared: compare squared distances.
        eps: below which a squared distance counts as this.

    Returns:
        Scalar; 0 for a batch of one sample, which has no relations.
    """
    by_distance, by_angle = terms(student, teacher, squared=squared, eps=eps)
    return distance_weight * by_distance + angle_weight * by_angle


def distill(student: Output, teacher: Output, *, distance_weight: float, angle_weight: float) -> Tensor:
    """`loss` of the pooled features."""
    return loss(student.pooled, teacher.pooled, distance_weight=distance_weight, angle_weight=angle_weight)
