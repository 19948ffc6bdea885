"""MobileNetV2: Sandler et al., CVPR 2018, arXiv:1801.04381, for 32 x 32 images.

As in RepDistiller and mdistiller ("MobileNetV2", "mobile_half"): half the channels, ReLU instead of ReLU6, a stem of
stride 2, and seven groups of blocks that end at 1/16 of the image's size. State-dict keys are those of their
checkpoints.

The blocks end in a batch norm without a ReLU (linear bottlenecks). The published distillers take the stages there,
behind groups 2, 3, 5 and 7, so that each stage but the stem is its own `preact`.

SDD's large stem ends in a max pool of 2, behind which its map is taken. Here the pool comes before the ReLU, where it
gives the same values, so that `preacts` have the shape of the stages.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks.contract import Network, Output

NETWORKS = {"mobilenetv2": {"expansion": 6, "width": 0.5}}
STEM, LAST = 32, 1280
GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Channels at width 1, blocks, stride of the first of them. The first group does not expand."""
STAGES = (1, 2, 4, 6)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, contract; a shortcut where input and output have the same shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), with no ReLU."""
        return self.conv(x) + x if self.has_shortcut else self.conv(x)


class MobileNetV2(Network):
    """Stem, seven groups of blocks, a 1 x 1 convolution, average pool, linear classifier."""

    def __init__(self, num_classes: int, expansion: int, width: float) -> None:
        super().__init__()
        inputs, last = int(STEM * width), int(LAST * max(width, 1.0))
        self.conv1 = nn.Sequential(nn.Conv2d(3, inputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(inputs))
        self.blocks = nn.ModuleList()
        for i, (channels, count, stride) in enumerate(GROUPS):
            outputs, group = int(channels * width), nn.Sequential()
            for j in range(count):
                group.append(InvertedResidual(inputs, outputs, stride if j == 0 else 1, expansion if i > 0 else 1))
                inputs = outputs
            self.blocks.append(group)
        self.conv2 = nn.Sequential(nn.Conv2d(inputs, last, 1, bias=False), nn.BatchNorm2d(last))
        # Published as `classifier.0`, where `classifier` is a property here: set past the attribute of that name.
        self._modules["classifier"] = nn.Sequential(nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return cast(nn.Linear, cast(nn.Sequential, self._modules["classifier"])[0])

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        last_blocks = (cast(InvertedResidual, cast(nn.Sequential, self.blocks[i])[-1]) for i in STAGES)
        return tuple(cast(nn.BatchNorm2d, block.conv[-1]) for block in last_blocks)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        stem = self.conv1(images)
        x = F.relu(stem)
        maps, preacts = [x], [stem]
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in STAGES:
                maps.append(x)
                preacts.append(x)
        final_map = F.relu(self.conv2(x))
        pooled = final_map.mean(dim=(2, 3))
        return Output(
            logits=self.classifier(pooled),
            stages=tuple(maps),
            preacts=tuple(preacts),
            pooled=pooled,
            final_map=final_map,
        )


def build(num_classes: int, *, stem: str, expansion: int, width: float) -> Network:
    """A MobileNetV2 for small images.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        expansion: channels inside a block per channel of its input.
        width: factor of the channels of all stages.
    """
    network = MobileNetV2(num_classes, expansion, width)
    if stem == _stem.LARGE:
        network.conv1.append(nn.MaxPool2d(2))
    return _stem.fit(network, stem, "conv1.0")
