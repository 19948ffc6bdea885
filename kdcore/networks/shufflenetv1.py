"""ShuffleNet: Zhang et al., CVPR 2018, arXiv:1707.01083, of three groups, for 32 x 32 images.

As in RepDistiller and mdistiller ("ShuffleV1"): a 1 x 1 stem without stride and pooling, a ReLU behind the depthwise
convolution too, and layers as PyTorch initialises them. State-dict keys are those of their checkpoints.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks._residual import classify
from kdcore.networks.contract import Network, Output

NETWORKS = {"shufflenetv1": {"groups": 3, "widths": (240, 480, 960), "blocks": (4, 8, 4)}}
STEM = 24


class Bottleneck(nn.Module):
    """Contract, shuffle, convolve each channel, expand; `forward` returns what precedes the last ReLU.

    The input is added, or, where the map is halved, pooled and put behind the new channels.
    """

    def __init__(self, inputs: int, outputs: int, *, halves: bool, groups: int) -> None:
        super().__init__()
        self.halves = halves
        new = outputs - inputs if halves else outputs
        middle = new // 4
        self.groups = 1 if inputs == STEM else groups
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        stride = 2 if halves else 1
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before the ReLU."""
        new = F.relu(self.bn1(self.conv1(x)))
        new = F.relu(self.bn2(self.conv2(F.channel_shuffle(new, self.groups))))
        new = self.bn3(self.conv3(new))
        if self.halves:
            return torch.cat([new, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return new + x


class ShuffleNetV1(Network):
    """Stem, three stages whose first block halves the map, average pool, linear classifier."""

    def __init__(self, num_classes: int, groups: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.ModuleList([Bottleneck(inputs, width, halves=True, groups=groups)])
            stage.extend(Bottleneck(width, width, halves=False, groups=groups) for _ in range(count - 1))
            self.add_module(f"layer{i + 1}", stage)
            inputs = width
        self.linear = nn.Linear(inputs, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.linear

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        return tuple(cast(Bottleneck, stage[-1]).bn3 for stage in self._stages())

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        return classify(self, self.bn1(self.conv1(images)), self._stages())

    def _stages(self) -> list[nn.ModuleList]:
        return [cast(nn.ModuleList, self.get_submodule(f"layer{number}")) for number in range(1, 4)]


def build(
    num_classes: int, *, stem: str, groups: int, widths: tuple[int, int, int], blocks: tuple[int, int, int]
) -> Network:
    """A ShuffleNet for small images.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        groups: into which the 1 x 1 convolutions part the channels.
        widths: channels per stage.
        blocks: per stage.
    """
    return _stem.fit(ShuffleNetV1(num_classes, groups, widths, blocks), stem)
