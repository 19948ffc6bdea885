"""ICKD: Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation, ICCV 2021,
arXiv:2202.03680.

Of each image, the dot products of every two channels of the last map are compared, each channel's products scaled to
length 1. The loss is the squared difference to the teacher's, summed over pairs of channels and averaged over channels
and images. Maps (B, Ch, H, W) -> scalar without unit.
"""

from torch import Tensor, nn

from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS: dict[str, str] = {}
NEEDS = ["stages"]


def correlations(feature_map: Tensor) -> Tensor:
    """Dot products of every two channels, (B, Ch, H, W) -> (B, Ch, Ch), rows of length 1. A dead channel has zeros."""
    flat = feature_map.flatten(2)
    return unit(flat @ flat.mT)


@at_least_float32
def loss(embedded_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of the maps' `correlations`, summed over pairs of channels, over B * Ch.

    Args:
        embedded_map: (B, Ch, h, w), the student's, as wide as the teacher's.
        teacher_map: (B, Ch, h', w').

    Returns:
        Scalar.
    """
    return (correlations(embedded_map) - correlations(teacher_map)).square().sum(dim=2).mean()


class Adapter(nn.Module):
    """Embeds the student's last map to the teacher's width by a 1 x 1 convolution and batch norm.

    Args:
        setting: the shapes.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        student, teacher = setting.student.stages[-1].shape[1], setting.teacher.stages[-1].shape[1]
        self.embed = nn.Sequential(nn.Conv2d(student, teacher, 1, bias=False), nn.BatchNorm2d(teacher))

    def forward(self, step: Step) -> Tensor:
        """`loss` of the last stages, whose sizes may differ."""
        return loss(self.embed(step.student.stages[-1]), step.teacher.stages[-1])
