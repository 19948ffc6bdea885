"""CIFAR ResNets: He et al., Deep Residual Learning, CVPR 2016, arXiv:1512.03385, section 4.2.

Widths of 16, 32, 64 channels, times four for the "x4" networks of RepDistiller (arXiv:1910.10699). State-dict keys
are those of RepDistiller's and mdistiller's checkpoints.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks._residual import classify
from kdcore.networks.contract import Network, Output

NETWORKS = {
    "resnet8": {"depth": 8},
    "resnet14": {"depth": 14},
    "resnet20": {"depth": 20},
    "resnet32": {"depth": 32},
    "resnet44": {"depth": 44},
    "resnet56": {"depth": 56},
    "resnet110": {"depth": 110},
    "resnet8x4": {"depth": 8, "widths": (32, 64, 128, 256)},
    "resnet32x4": {"depth": 32, "widths": (32, 64, 128, 256)},
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; `forward` returns the sum before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before the ReLU."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return residual + self.downsample(x)


class ResNet(Network):
    """Stem, three stages of basic blocks, average pool, linear classifier."""

    def __init__(self, num_classes: int, depth: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(blocks, widths[0], widths[1], stride=1)
        self.layer2 = self._stage(blocks, widths[1], widths[2], stride=2)
        self.layer3 = self._stage(blocks, widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.ModuleList:
        first = BasicBlock(inputs, outputs, stride)
        return nn.ModuleList([first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))])

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.fc

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        return tuple(cast(BasicBlock, stage[-1]).bn2 for stage in (self.layer1, self.layer2, self.layer3))

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        return classify(self, self.bn1(self.conv1(images)), (self.layer1, self.layer2, self.layer3))


def build(num_classes: int, *, stem: str, depth: int, widths: tuple[int, int, int, int] = (16, 16, 32, 64)) -> Network:
    """A CIFAR ResNet.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        depth: number of weighted layers, 6 n + 2.
        widths: channels of the stem and of the three stages.
    """
    return _stem.fit(ResNet(num_classes, depth, widths), stem)
