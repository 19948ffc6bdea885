"""SP: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv:1907.09682."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.methods._unit import unit
from kdcore.networks.contract import Output
from kdcore.precision import at_least_float32

KIND = "feature"
PARAMETERS: dict[str, str] = {}


def similarity(feature_map: Tensor) -> Tensor:
    """Dot products of all samples' maps, each row L2-normalised: (B, Ch, H, W) -> (B, B)."""
    flat = feature_map.flatten(1)
    return unit(flat @ flat.T)


@at_least_float32
def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean (over B^2 entries) squared difference of `similarity`.

    Args:
        student_maps: one (B, Ch, H, W) per stage.
        teacher_maps: as many, with any channels and sizes.

    Returns:
        Scalar.
    """
    pairs = zip(student_maps, teacher_maps, strict=True)
    return torch.stack([F.mse_loss(similarity(student), similarity(teacher)) for student, teacher in pairs]).sum()


def distill(student: Output, teacher: Output) -> Tensor:
    """`loss` of the last stage."""
    return loss(student.stages[-1:], teacher.stages[-1:])
