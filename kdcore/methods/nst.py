"""NST: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017,
arXiv:1707.01219.

Each stage adds mean k(t, t) + mean k(s, s) - 2 * mean k(s, t) with k(x, y) = (x . y)^2 over channels as unit
vectors. Maps (B, Ch, H, W) of every stage -> scalar without unit.
"""

from collections.abc import Sequence

from torch import Tensor

from kdcore.methods._stages import matched, same_size, summed
from kdcore.methods._unit import unit
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS: dict[str, str] = {}
NEEDS = ["stages"]


def kernel_mean(first: Tensor, second: Tensor) -> Tensor:
    """Mean of the squared dot products of all channels of one with all channels of the other, over samples too.

    Args:
        first: (B, Ch, H * W), rows normalised.
        second: (B, Ck, H * W), rows normalised.
    """
    return (first @ second.mT).square().mean()


def stage_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels, as unit vectors over positions, with a quadratic kernel.

    The larger map is pooled to the smaller. Scalar.
    """
    student, teacher = (unit(feature_map.flatten(2)) for feature_map in same_size(student_map, teacher_map))
    return kernel_mean(teacher, teacher) + kernel_mean(student, student) - 2 * kernel_mean(student, teacher)


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
    """`loss` of every stage after the stem."""
    return loss(*matched(student.stages, teacher.stages))
