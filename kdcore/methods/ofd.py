"""OFD: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, arXiv:1904.01866.

Stage i of n adds sum((s - max(t, margin))^2) / 2^(n - 1 - i), averaged over B, wherever s is above max(t, margin)
or that is positive; s and t are activations before the ReLU. Maps (B, Ch, H, W) -> scalar without unit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcore.methods._stages import matched, same_size
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"variant": ["frozen", "as_published"]}
NEEDS = ["preacts"]
RARE = 0.001
"""Below this probability of a negative value, the margin is three deviations below zero."""


def margin(bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    """Expected value of the negative responses of each channel behind a batch norm.

    That is E[x | x < 0] of x ~ N(bias, weight^2); -3 |weight| where x < 0 is rare. Computed in float64.

    Args:
        bn_weight: (Ch,); 0 is a channel that is constantly its bias.
        bn_bias: (Ch,).

    Returns:
        (Ch,), of the weight's dtype.
    """
    deviation, mean = bn_weight.double().abs(), bn_bias.double()
    score = -mean / deviation.clamp(min=torch.finfo(torch.float64).tiny)
    negative = torch.special.ndtr(score)
    density = torch.exp(-score.square() / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / negative.clamp(min=RARE)
    return torch.where(negative > RARE, expected, -3 * deviation).to(bn_weight.dtype)


@at_least_float32
def stage_loss(student_map: Tensor, teacher_map: Tensor, margins: Tensor) -> Tensor:
    """Squared difference to the teacher's pre-activations, margins replacing what is below them; no penalty where both
    are negative and the student is below. Sum over Ch, H, W, mean over B.

    Args:
        student_map: (B, Ch, H, W), behind the connector.
        teacher_map: (B, Ch, H', W'), before its ReLU; the larger of the two is pooled to the smaller.
        margins: (Ch,).
    """
    student, teacher = same_size(student_map, teacher_map)
    wanted = torch.maximum(teacher, margins[:, None, None])
    counts = (student > wanted) | (wanted > 0)
    return ((student - wanted).square() * counts).sum(dim=(1, 2, 3)).mean()


def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Sum over the n stages of `stage_loss`, stage i divided by 2^(n - 1 - i). Arguments per stage. Scalar."""
    losses = [stage_loss(*stage) for stage in zip(student_maps, teacher_maps, margins, strict=True)]
    return torch.stack([found / 2 ** (len(losses) - 1 - i) for i, found in enumerate(losses)]).sum()


class Adapter(nn.Module):
    """Per stage a connector, 1 x 1 convolution and batch norm, from the student's to the teacher's pre-activations.

    Args:
        setting: the shapes, and the teacher's batch norms, which give the margins.
        variant: "frozen" is a teacher as it was trained. "as_published" leaves its batch norms in training mode, as
            mdistiller does, so that they normalise by each batch.
    """

    def __init__(self, setting: Setting, *, variant: str) -> None:
        super().__init__()
        self.teacher_in_training_mode = variant == "as_published"
        pairs = list(zip(*matched(setting.student.preacts, setting.teacher.preacts), strict=True))
        self.connectors = nn.ModuleList(_connector(student.shape[1], teacher.shape[1]) for student, teacher in pairs)
        for i, norm in enumerate(setting.teacher_norms[-len(pairs) :]):
            self.register_buffer(f"margin_{i}", margin(norm.weight.detach(), norm.bias.detach()))

    def forward(self, step: Step) -> Tensor:
        """`loss` of every stage after the stem."""
        student, teacher = matched(step.student.preacts, step.teacher.preacts)
        connected = [connector(found) for connector, found in zip(self.connectors, student, strict=True)]
        return loss(connected, teacher, [self.get_buffer(f"margin_{i}") for i in range(len(student))])


def _connector(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / outputs))
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
