"""OFA's stages: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
NeurIPS 2023, arXiv:2310.19444; the loss of the auxiliary heads of a convolutional student.

Each stage of the student after the stem has a head of its own that predicts the classes, and the loss is the sum of
OFA's losses of the heads' logits against the teacher's. Logits (B, C) of every head -> scalar, in nats.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from kdcore.methods import ofa
from kdcore.methods._stages import summed
from kdcore.methods.contract import Setting, Step
from kdcore.system.errors import UserError

KIND = "feature"
PARAMETERS = {"gamma": "> 0", "temperature": "> 0"}
NEEDS = ["student.stages"]


def loss(heads: Sequence[Tensor], teacher: Tensor, target: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """Sum over the heads of the mean of `kdcore.methods.ofa.loss`.

    Args:
        heads: the logits (B, C) of every head.
        teacher: logits (B, C).
        target: class indices (B,).
        gamma: exponent of the weights; above 1 it enhances the target against the other classes.
        temperature: of both softmaxes, dimensionless.

    Returns:
        Scalar, in nats.
    """
    return summed(lambda logits: ofa.loss(logits, teacher, target, gamma=gamma, temperature=temperature).mean(), heads)


class Block(nn.Sequential):
    """Two separable convolutions, each with batch norm and ReLU: the first halves the map, the second widens it.

    Args:
        inputs: channels before.
        outputs: channels behind.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_separable(inputs, inputs, stride=2), *_separable(inputs, outputs, stride=1))


class Head(nn.Sequential):
    """Predicts the classes from a stage's map (B, Ch, H, W): logits (B, C).

    Each block doubles the channels, except that the last one makes them `width`. Without blocks, which is the last
    stage's head, a 1 x 1 convolution makes them so.

    Args:
        channels: of the stage's map.
        width: channels that the linear layer sees.
        classes: C.
        blocks: how often the map is halved.
    """

    def __init__(self, channels: int, width: int, classes: int, *, blocks: int) -> None:
        widths = [*(channels * 2**i for i in range(blocks)), width]
        layers: list[nn.Module] = [Block(widths[i], widths[i + 1]) for i in range(blocks)]
        if not blocks:
            layers = [nn.Conv2d(channels, width, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)


class Adapter(nn.Module):
    """One head per stage of the student after the stem. Stage i of n has a head of n - i blocks.

    The linear layers see as many channels as the wider of the two networks' classifiers.

    Args:
        setting: the shapes.
        gamma: see `loss`.
        temperature: see `loss`.

    Raises:
        UserError: the student has no feature maps of stages.
    """

    def __init__(self, setting: Setting, *, gamma: float, temperature: float) -> None:
        super().__init__()
        self.options = {"gamma": gamma, "temperature": temperature}
        stages = (setting.student.stages or ())[1:]
        if not stages:
            raise UserError("ofa_stages needs feature maps of the student's stages, which it does not have; take ofa")
        width = max(setting.student.pooled.shape[1], setting.teacher.pooled.shape[1])
        self.heads = nn.ModuleList(
            Head(stage.shape[1], width, setting.num_classes, blocks=blocks)
            for blocks, stage in zip(reversed(range(len(stages))), stages, strict=True)
        )

    def forward(self, step: Step) -> Tensor:
        """`loss` of the heads' logits."""
        logits = [head(stage) for head, stage in zip(self.heads, step.student.stages[1:], strict=True)]
        return loss(logits, step.teacher.logits, step.target, **self.options)


def _separable(inputs: int, outputs: int, *, stride: int) -> tuple[nn.Module, ...]:
    depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return depthwise, pointwise, nn.BatchNorm2d(outputs), nn.ReLU()
