"""MobileNet for ImageNet: Howard et al., 2017, arXiv:1704.04861, of width 1.

State-dict keys are those of mdistiller ("MobileNetV1"), and so is the initialisation, PyTorch's. The stages are where
mdistiller takes them, behind the last block of each size from 1/4 to 1/32 of the image's, and before them the first
convolution's map, which it leaves out: this one has five stages, as the ResNets have. The map is averaged whatever its
size, not 7 x 7 pixels alone.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks.contract import Network, Output

NETWORKS: dict[str, dict[str, int]] = {"imagenet_mobilenetv1": {}}
STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride."""
STAGES = (0, 3, 5, 11, 13)
"""Which layers end a stage; the first is the stem."""


class MobileNetV1(Network):
    """Stem, depthwise separable convolutions, average pool, linear classifier.

    Args:
        num_classes: C.
        blocks: how many of the 13 convolutions there are; the later ones are left out.
    """

    def __init__(self, num_classes: int, blocks: int = len(BLOCKS)) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(STEM))
        )
        inputs = STEM
        for outputs, stride in BLOCKS[:blocks]:
            self.model.append(_separable(inputs, outputs, stride))
            inputs = outputs
        self.ends = tuple(stage for stage in STAGES if stage <= blocks)
        self.fc = nn.Linear(inputs, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.fc

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the stages."""
        return tuple(cast(nn.BatchNorm2d, cast(nn.Sequential, self.model[i])[-1]) for i in self.ends[1:])

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        x = images
        maps, preacts = [], []
        for i, block in enumerate(self.model):
            preact = block(x)
            x = F.relu(preact)
            if i in self.ends:
                maps.append(x)
                preacts.append(preact)
        pooled = x.mean(dim=(2, 3))
        return Output(logits=self.fc(pooled), stages=tuple(maps), preacts=tuple(preacts), pooled=pooled, final_map=x)


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A convolution of each channel and one of 1 x 1, each with a batch norm; the last ReLU is left to the caller."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def build(num_classes: int, *, stem: str) -> Network:
    """A MobileNet for ImageNet.

    Args:
        num_classes: C.
        stem: not looked at.
    """
    return MobileNetV1(num_classes)
