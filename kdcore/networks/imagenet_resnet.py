"""ResNets for ImageNet: He et al., CVPR 2016, arXiv:1512.03385, as torchvision has them.

Layers, initialisation and state-dict keys are torchvision's, so that its published weights fit. The stages are where
mdistiller takes them: the stem's map before its max pool, then the four stages; of 112, 56, 28, 14 and 7 pixels for
images of 224.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from kdcore.networks._residual import classify
from kdcore.networks.contract import Network, Output

NETWORKS = {
    "imagenet_resnet18": {"blocks": (2, 2, 2, 2), "bottleneck": False},
    "imagenet_resnet34": {"blocks": (3, 4, 6, 3), "bottleneck": False},
    "imagenet_resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
    "imagenet_resnet101": {"blocks": (3, 4, 23, 3), "bottleneck": True},
    "imagenet_resnet152": {"blocks": (3, 8, 36, 3), "bottleneck": True},
}


class BasicBlock(resnet.BasicBlock):
    """torchvision's, but `forward` returns the sum before the last ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before the ReLU."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return residual + (x if self.downsample is None else self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The one before the shortcut is added."""
        return self.bn2


class Bottleneck(resnet.Bottleneck):
    """torchvision's, but `forward` returns the sum before the last ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before the ReLU."""
        residual = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        residual = self.bn3(self.conv3(residual))
        return residual + (x if self.downsample is None else self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The one before the shortcut is added."""
        return self.bn3


class ImageNetResNet(resnet.ResNet, Network):
    """Stem, max pool, four stages, average pool, linear classifier."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    maxpool: nn.MaxPool2d
    fc: nn.Linear

    def __init__(self, num_classes: int, blocks: tuple[int, int, int, int], bottleneck: bool) -> None:
        super().__init__(Bottleneck if bottleneck else BasicBlock, list(blocks), num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.fc

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        return tuple(cast(BasicBlock | Bottleneck, stage[-1]).last_norm for stage in self._stages())

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        return classify(self, self.bn1(self.conv1(images)), self._stages(), self.maxpool)

    def _stages(self) -> list[nn.Sequential]:
        return [cast(nn.Sequential, self.get_submodule(f"layer{number}")) for number in range(1, 5)]


def build(num_classes: int, *, stem: str, blocks: tuple[int, int, int, int], bottleneck: bool) -> Network:
    """A ResNet for ImageNet.

    Args:
        num_classes: C.
        stem: not looked at.
        blocks: residual blocks per stage.
        bottleneck: three convolutions per block and four times the channels, instead of two.
    """
    return ImageNetResNet(num_classes, blocks, bottleneck)
