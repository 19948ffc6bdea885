"""NORM: Liu et al., NORM: Knowledge Distillation via N-to-One Representation Matching, ICLR 2023, arXiv:2305.13803.

The student's last map is expanded to N times the teacher's channels, and each of the N parts is compared with the
teacher's last map by the mean squared difference. What a second convolution makes of the expanded map is added to the
last map, with which the student is trained and evaluated. Maps (B, Ch, h, w) -> scalar without unit.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods._stages import pooled_to
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Network
from kdcore.networks.other_end import End, OtherEnd
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"copies": "integer >= 1", "logit_scale": "> 0"}
NEEDS = ["teacher.stages", "student.final_map", "student.classifier"]
EPSILON = 1e-7


@at_least_float32
def loss(expanded: Tensor, teacher_map: Tensor, *, copies: int) -> Tensor:
    """Sum over the copies of the mean squared difference to the teacher's map, which is max-pooled where it is larger.

    Args:
        expanded: (B, copies * Ch, h, w), one part after the other.
        teacher_map: (B, Ch, H, W).
        copies: N.

    Returns:
        Scalar.
    """
    size = min(expanded.shape[-2], teacher_map.shape[-2]), min(expanded.shape[-1], teacher_map.shape[-1])
    if teacher_map.shape[-2:] != size:
        teacher_map = F.adaptive_max_pool2d(teacher_map, size)
    parts = pooled_to(expanded, size).unflatten(1, (copies, -1))
    return copies * (parts - teacher_map[:, None]).square().mean()


@at_least_float32
def task_logits(logits: Tensor, *, logit_scale: float) -> Tensor:
    """The logits (B, C) that cross-entropy sees: layer-normalised over the classes, then scaled."""
    return logit_scale * F.layer_norm(logits, logits.shape[-1:], eps=EPSILON)


class Transform(End):
    """Expands the last map by a 1 x 1 convolution and batch norm, and adds what another such pair makes of that.

    Args:
        channels: of the student's last map.
        expanded: channels in the middle.
    """

    def __init__(self, channels: int, expanded: int) -> None:
        super().__init__()
        self.expand = _linear(channels, expanded)
        self.contract = _linear(expanded, channels)

    def forward(self, final_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> the transformed map of the same shape, and the expanded one (B, expanded, h, w)."""
        expanded = self.expand(final_map)
        return final_map + self.contract(expanded), expanded


def other_end(network: Network, *, expanded: int) -> OtherEnd:
    """Give a network the transform of its last map; it keeps its classifier.

    Args:
        network: the student.
        expanded: channels of the expanded map.
    """
    classifier = network.classifier
    end = Transform(classifier.in_features, expanded)
    return OtherEnd(network, end, classifier, method="norm", arguments={"expanded": expanded})


class Adapter(nn.Module):
    """Gives the student the transform, and cross-entropy its normalised logits.

    Args:
        setting: the shapes.
        copies: N, how often the teacher's map is matched.
        logit_scale: of the logits that cross-entropy sees.
    """

    def __init__(self, setting: Setting, *, copies: int, logit_scale: float) -> None:
        super().__init__()
        self.copies, self.logit_scale = copies, logit_scale
        self.expanded = copies * setting.teacher.stages[-1].shape[1]

    def as_student(self, student: Network) -> OtherEnd:
        """The student with the transform of its last map."""
        return other_end(student, expanded=self.expanded)

    def task_logits(self, logits: Tensor) -> Tensor:
        """What cross-entropy sees in training; evaluation takes the logits as they are."""
        return task_logits(logits, logit_scale=self.logit_scale)

    def forward(self, step: Step) -> Tensor:
        """`loss` of the expanded map and the teacher's last stage."""
        return loss(cast(Tensor, step.student.extra), step.teacher.stages[-1], copies=self.copies)


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
