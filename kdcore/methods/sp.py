"""SP: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv:1907.09682.

Each stage adds mean((g_s - g_t)^2) over the B^2 entries of g = the rows of F F', L2-normalised, with F of shape (B,
Ch * H * W). Maps (B, Ch, H, W) of the last stage -> scalar without unit.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdcore.methods._stages import summed
from kdcore.methods._unit import unit
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS: dict[str, str] = {}
NEEDS = ["stages"]


def similarity(feature_map: Tensor) -> Tensor:
    """Dot products of all samples' maps, each row L2-normalised: (B, Ch, H, W) -> (B, B)."""
    flat = feature_map.flatten(1)
    return unit(flat @ flat.T)


def stage_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean (over B^2 entries) squared difference of `similarity`. Scalar."""
    return F.mse_loss(similarity(student_map), similarity(teacher_map))


@at_least_float32
def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over stages of `stage_loss`.

    Args:
        student_maps: one (B, Ch, H, W) per stage.
        teacher_maps: as many, with any channels and sizes.

    Returns:
        Scalar.
    """
    return summed(stage_loss, student_maps, teacher_maps)


def distill(student: Output, teacher: Output) -> Tensor:
    """`loss` of the last stage."""
    return loss(student.stages[-1:], teacher.stages[-1:])
