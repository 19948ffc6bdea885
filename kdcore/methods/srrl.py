"""SRRL: Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021,
openreview.net/forum?id=ZzwDy_wiWv.

A connector turns the student's last map into one of the teacher's width. The loss is the mean squared difference of the
two pooled maps, plus that of the logits which the teacher's classifier gives to them. Maps (B, D, h, w) -> scalar
without unit.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"variant": ["feature_map", "pooled"], "logit_weight": ">= 0"}
NEEDS = ["final_map", "classifier"]


class Terms(NamedTuple):
    """The two parts of the loss, scalars, and the logits that the second one compares."""

    feature: Tensor
    """Mean squared difference of the pooled features."""
    logit: Tensor
    """Mean squared difference of the logits."""
    logits: Tensor
    """(B, C), what the teacher's classifier says of the student's connected features."""


@at_least_float32
def terms(
    connected_map: Tensor, teacher_map: Tensor, teacher_classifier: nn.Linear, teacher_logits: Tensor, *, variant: str
) -> Terms:
    """Compute the two parts of `loss`, whose arguments these are; the classifier gets no gradient."""
    connected, teacher = connected_map, teacher_map
    if variant == "feature_map":
        connected, teacher = connected_map.mean(dim=(2, 3)), teacher_map.mean(dim=(2, 3))
    weight, bias = teacher_classifier.weight, teacher_classifier.bias
    logits = F.linear(connected, weight.detach().to(connected), None if bias is None else bias.detach().to(connected))
    return Terms(F.mse_loss(connected, teacher), F.mse_loss(logits, teacher_logits), logits)


def loss(
    connected_map: Tensor,
    teacher_map: Tensor,
    teacher_classifier: nn.Linear,
    teacher_logits: Tensor,
    *,
    variant: str,
    logit_weight: float,
) -> Tensor:
    """Add the mean squared differences of pooled features and of logits.

    Args:
        connected_map: what the connector makes of the student's features: (B, D, h, w), or (B, D) if they are pooled.
        teacher_map: the teacher's, (B, D, h', w') or (B, D).
        teacher_classifier: the teacher's linear head, D -> C.
        teacher_logits: (B, C).
        variant: "feature_map" (the authors) compares the spatial means of maps; "pooled" (the SimKD repository)
            compares vectors that were pooled before the connector.
        logit_weight: of the logits' difference.

    Returns:
        Scalar.
    """
    parts = terms(connected_map, teacher_map, teacher_classifier, teacher_logits, variant=variant)
    return parts.feature + logit_weight * parts.logit


class Adapter(nn.Module):
    """Connects the student's last map or pooled features to the teacher's width: 1 x 1 convolution, batch norm, ReLU.

    Args:
        setting: the shapes, and the teacher's classifier.
        variant: see `loss`. It decides what the batch norm sees: all pixels, or one vector per image.
        logit_weight: see `loss`.
    """

    def __init__(self, setting: Setting, *, variant: str, logit_weight: float) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"variant": variant, "logit_weight": logit_weight}
        self.teacher = (setting.classifiers[1],)
        student, outputs = setting.student.final_map.shape[1], setting.teacher.final_map.shape[1]
        convolution = nn.Conv2d(student, outputs, 1, bias=False)
        if variant == "feature_map":
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, step: Step) -> Tensor:
        """`loss` of the last maps or of the pooled features."""
        if self.options["variant"] == "feature_map":
            connected, teacher = self.connector(step.student.final_map), step.teacher.final_map
        else:
            connected, teacher = self.connector(step.student.pooled[:, :, None, None])[:, :, 0, 0], step.teacher.pooled
        return loss(connected, teacher, self.teacher[0], step.teacher.logits, **self.options)
