"""AT: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv:1612.03928.

Each stage adds mean((a_s - a_t)^2) with a = unit(mean over channels of |x|^p), flattened over positions. Maps (B,
Ch, H, W) of every stage -> scalar without unit.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from kdcore.methods._stages import matched, same_size, summed
from kdcore.methods._unit import unit
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"p": ">= 1"}
NEEDS = ["stages"]


def attention(feature_map: Tensor, p: float) -> Tensor:
    """Spatial attention: the mean of |x|^p over channels, flattened and L2-normalised (published code has p = 2).

    Args:
        feature_map: (B, Ch, H, W).
        p: exponent.

    Returns:
        (B, H * W).
    """
    return unit(feature_map.abs().pow(p).mean(dim=1).flatten(1))


@at_least_float32
def stage_loss(student_map: Tensor, teacher_map: Tensor, p: float) -> Tensor:
    """Mean squared difference of two attention maps; the larger map is pooled to the smaller. Scalar."""
    student_map, teacher_map = same_size(student_map, teacher_map)
    return (attention(student_map, p) - attention(teacher_map, p)).square().mean()


def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, p: float) -> Tensor:
    """Sum over stages of `stage_loss`.

    Args:
        student_maps: one (B, Ch, H, W) per stage, shallow to deep.
        teacher_maps: as many, with any channels and sizes.
        p: exponent of the attention.

    Returns:
        Scalar.
    """
    return summed(partial(stage_loss, p=p), student_maps, teacher_maps)


def distill(student: Output, teacher: Output, *, p: float) -> Tensor:
    """`loss` of every stage after the stem."""
    return loss(*matched(student.stages, teacher.stages), p=p)
