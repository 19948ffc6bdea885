"""KDSVD: Lee, Kim and Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018,
arXiv:1807.06819.

Neighbouring stages add the squared differences of exp(-(v_deep - v_shallow)^2 / 8), summed over entries and
averaged over B; v are the k leading right singular vectors of a map, weighted by its singular values. Maps (B, Ch,
H, W) of every stage -> scalar without unit.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.methods._stages import matched, same_size
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"k": "integer >= 1"}
NEEDS = ["stages"]
LEAST_STAGES = 3
SPARE = 3
"""How many more vectors of the student are offered than the teacher has."""


class _RightVectors(torch.autograd.Function):
    """The leading right singular vectors of matrices (B, M, W) as eigenvectors of their W x W Gram matrices.

    The Gram matrix is formed in float64, so that squaring costs no precision. Where two singular values are equal,
    the vectors are arbitrary within their plane; the gradient takes no part in that choice and stays finite.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> Tensor:
        wide = matrices.double()
        values, vectors = torch.linalg.eigh(wide.mT @ wide)
        ctx.save_for_backward(wide, values, vectors)
        return vectors[..., -count:].flip(-1).to(matrices.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        wide, values, vectors = ctx.saved_tensors
        chosen, chosen_values = (x[..., -gradient.shape[-1] :].flip(-1) for x in (vectors, values))
        gaps = chosen_values[..., None, :] - values[..., :, None]
        equal = gaps.abs() <= 1e-12 * values[..., -1:, None]
        mixing = (vectors.mT @ gradient.double()).masked_fill(equal, 0) / gaps.masked_fill(equal, 1)
        of_gram = vectors @ mixing @ chosen.mT
        return (wide @ (of_gram + of_gram.mT)).to(gradient.dtype), None


def stage_vectors(student_map: Tensor, teacher_map: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k leading right singular vectors of the maps as matrices (Ch * H, W), weighted by the teacher's values.

    The student's are those of its k + 3 leading ones most alike to the teacher's, with their signs. The larger map is
    pooled to the smaller.

    Args:
        student_map: (B, Ch, H, W).
        teacher_map: (B, Ck, H, W).
        k: how many; at most Ch * H and W, of either map.

    Returns:
        (B, W, k) of the student and of the teacher. The signs of the teacher's vectors are those that LAPACK gives.
    """
    student, teacher = (feature_map.flatten(1, 2) for feature_map in same_size(student_map, teacher_map))
    _, values, transposed = torch.linalg.svd(teacher, full_matrices=False)
    vectors = transposed[:, :k].mT
    offered = _RightVectors.apply(student, min(k + SPARE, student.shape[2]))
    likeness = offered.mT @ vectors
    nearest = likeness.abs().argmax(dim=1, keepdim=True)
    chosen = offered.gather(2, nearest.expand(-1, offered.shape[1], -1)) * likeness.gather(1, nearest).sign().detach()
    weights = F.normalize(values[:, :k], dim=1)[:, None]
    return chosen * weights, vectors * weights


def _shape(feature_map: Tensor) -> tuple[int, int]:
    """Rows and columns of the matrices whose vectors are taken."""
    return feature_map.shape[1] * feature_map.shape[2], feature_map.shape[3]


def relation(shallow: Tensor, deep: Tensor) -> Tensor:
    """Radial basis function of the differences of two stages' vectors, (B, W, k), (B, V, k) -> (B, V, W, k)."""
    return torch.exp(-(deep[:, :, None] - shallow[:, None]).square() / 8)


def relation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared difference of the relations of neighbouring stages: summed, mean over B. Of `stage_vectors`. Scalar."""
    losses = [
        (relation(*own) - relation(*other)).square().sum() / len(own[0])
        for own, other in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    return torch.stack(losses).sum()


@at_least_float32
def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, k: int) -> Tensor:
    """`relation_loss` of the stages' singular vectors.

    Args:
        student_maps: one (B, Ch, H, W) per stage, at least two stages.
        teacher_maps: as many, with any channels and sizes.
        k: singular vectors per stage; fewer where the smallest stage has fewer.

    Returns:
        Scalar.
    """
    pairs = [same_size(own, other) for own, other in zip(student_maps, teacher_maps, strict=True)]
    k = min(k, *(min(side) for pair in pairs for side in map(_shape, pair)))
    student, teacher = zip(*(stage_vectors(own, other, k) for own, other in pairs), strict=True)
    return relation_loss(student, teacher)


def distill(student: Output, teacher: Output, *, k: int) -> Tensor:
    """`loss` of every stage after the stem."""
    return loss(*matched(student.stages, teacher.stages), k=k)
