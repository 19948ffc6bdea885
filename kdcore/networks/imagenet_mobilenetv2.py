"""MobileNetV2 for ImageNet: Sandler et al., CVPR 2018, arXiv:1801.04381, of width 1, as torchvision has it.

Layers, initialisation and state-dict keys are torchvision's, so that its published weights fit. No published distiller
takes maps of it; its stages are those of `kdcore.networks.mobilenetv2`, the stem and what the groups 2, 3, 5 and 7 end
in, one per size from 1/2 to 1/32 of the image's. They are linear bottlenecks, without a ReLU, so that each stage but
the stem is its own `preact`; the stem ends in a ReLU6.

While it trains, a dropout stands between `pooled` and the classifier: only in evaluation mode are the logits the
classifier's of `pooled`. What else applies the classifier (SDD's regions) does so without a dropout.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenetv2

from kdcore.networks.contract import Network, Output

NETWORKS: dict[str, dict[str, int]] = {"imagenet_mobilenetv2": {}}
STAGES = (3, 6, 13, 17)
"""Blocks that end a group, among the layers of `features`."""


class ImageNetMobileNetV2(mobilenetv2.MobileNetV2, Network):
    """Stem, seven groups of blocks, a 1 x 1 convolution, average pool, dropout, linear classifier."""

    features: nn.Sequential

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head, without the dropout before it."""
        return cast(nn.Linear, self._head()[-1])

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        blocks = (cast(mobilenetv2.InvertedResidual, self.features[i]) for i in STAGES)
        return tuple(cast(nn.BatchNorm2d, block.conv[-1]) for block in blocks)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        first, *blocks, last = self.features
        convolution, norm, _ = cast(nn.Sequential, first)
        stem = norm(convolution(images))
        x = F.relu6(stem)
        maps, preacts = [x], [stem]
        for i, block in enumerate(blocks, start=1):
            x = block(x)
            if i in STAGES:
                maps.append(x)
                preacts.append(x)
        final_map = last(x)
        pooled = final_map.mean(dim=(2, 3))
        return Output(
            logits=self._head()(pooled), stages=tuple(maps), preacts=tuple(preacts), pooled=pooled, final_map=final_map
        )

    def _head(self) -> nn.Sequential:
        # torchvision's `classifier`, a name that is a property here.
        return cast(nn.Sequential, self._modules["classifier"])


def build(num_classes: int, *, stem: str) -> Network:
    """A MobileNetV2 for ImageNet.

    Args:
        num_classes: C.
        stem: not looked at.
    """
    return ImageNetMobileNetV2(num_classes)
