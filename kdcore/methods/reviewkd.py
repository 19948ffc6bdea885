"""ReviewKD: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021, arXiv:2104.09044.

Each stage adds the mean squared differences of the student's fused map and the teacher's, at full size and pooled
to 4 x 4, 2 x 2 and 1 x 1. Maps (B, Ch, H, W) of every stage and the pooled features -> scalar without unit.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import matched, summed
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Output
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"mid_channels": "integer >= 1", "student_preact": [False, True]}
NEEDS = ["stages", "preacts"]
LEVELS = (4, 2, 1)


def stage_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Hierarchical context loss: mean squared differences of the maps and of the maps pooled to 4 x 4, 2 x 2 and 1 x 1
    where that is smaller, weighted 1, 1/2, 1/4, 1/8 and divided by the sum of the weights. Both (B, Ch, H, W). Scalar.
    """
    total, weight, weights = F.mse_loss(student_map, teacher_map), 1.0, 1.0
    for level in LEVELS:
        if level < student_map.shape[-2]:
            weight /= 2
            weights += weight
            student_pooled, teacher_pooled = (F.adaptive_avg_pool2d(x, level) for x in (student_map, teacher_map))
            total = total + weight * F.mse_loss(student_pooled, teacher_pooled)
    return total / weights


@at_least_float32
def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over stages of `stage_loss`.

    Args:
        student_maps: fused maps, one (B, Ch, H, W) per stage.
        teacher_maps: as many of the same shapes.

    Returns:
        Scalar.
    """
    return summed(stage_loss, student_maps, teacher_maps)


class Fusion(nn.Module):
    """Attention-based fusion: joins a stage's map with what came from deeper ones, and fits it to the teacher's shape.

    Args:
        inputs: channels of the student's stage.
        middle: channels of what passes to shallower stages.
        outputs: channels of the teacher's stage.
        joins: False for the deepest stage.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, joins: bool) -> None:
        super().__init__()
        narrow, wide = nn.Conv2d(inputs, middle, 1, bias=False), nn.Conv2d(middle, outputs, 3, padding=1, bias=False)
        for convolution in (narrow, wide):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.reduce = nn.Sequential(narrow, nn.BatchNorm2d(middle))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if joins else None
        self.expand = nn.Sequential(wide, nn.BatchNorm2d(outputs))

    def forward(self, stage: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The map (B, outputs, *size) for the loss, and (B, middle, *size) for the next shallower stage."""
        fused = self.reduce(stage)
        if self.attend is not None and deeper is not None:
            deeper = _resize(deeper, (fused.shape[2], fused.shape[3]))
            attention = self.attend(torch.cat([fused, deeper], dim=1))
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        fused = _resize(fused, size)
        return self.expand(fused), fused


class Adapter(nn.Module):
    """One `Fusion` per stage and one for the pooled features, passed from deep to shallow.

    Args:
        setting: the shapes.
        mid_channels: upper bound of the channels that pass between stages; the last stage's where that is less.
        student_preact: take the student's maps before their last ReLU; the teacher's always are.
    """

    def __init__(self, setting: Setting, *, mid_channels: int, student_preact: bool) -> None:
        super().__init__()
        self.student_preact = student_preact
        student, teacher = self._maps(setting.student, setting.teacher)
        middle = min(mid_channels, student[-1].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(own.shape[1], middle, other.shape[1], joins=own is not student[-1])
            for own, other in zip(student, teacher, strict=True)
        )

    def forward(self, step: Step) -> Tensor:
        """`loss` of every fused map."""
        student, teacher = self._maps(step.student, step.teacher)
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for own, other, fusion in reversed(list(zip(student, teacher, self.fusions, strict=True))):
            found, deeper = fusion(own, deeper, (other.shape[2], other.shape[3]))
            fused.insert(0, found)
        return loss(fused, teacher)

    def _maps(self, student: Output, teacher: Output) -> tuple[list[Tensor], list[Tensor]]:
        """The stages after the stem and the pooled features as maps of one pixel."""
        own, other = matched(student.preacts if self.student_preact else student.stages, teacher.preacts)
        return [*own, student.pooled[:, :, None, None]], [*other, teacher.pooled[:, :, None, None]]


def _resize(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    return feature_map if feature_map.shape[-2:] == size else F.interpolate(feature_map, size, mode="nearest")
