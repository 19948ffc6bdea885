"""ResNet-18 and ResNet-50 with a 3 x 3 stem for 32 x 32 images: He et al., CVPR 2016, arXiv:1512.03385.

Four stages, as on ImageNet, without the stem's stride and pooling. State-dict keys are those of RepDistiller's and
mdistiller's checkpoints ("ResNet50"). SDD's code for CUB-200 gives the large stem to ResNet-50 alone; here ResNet-18
takes it too.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks._residual import classify
from kdcore.networks.contract import Network, Output

NETWORKS = {
    "resnet18": {"blocks": (2, 2, 2, 2), "bottleneck": False},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
}


class Block(nn.Module):
    """A residual block of two (basic) or three (bottleneck) convolutions; returns the sum before the last ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        channels = (inputs, *[width] * (len(kernels) - 1), outputs)
        self.count = len(kernels)
        for i, (kernel, step) in enumerate(zip(kernels, strides, strict=True)):
            convolution = nn.Conv2d(channels[i], channels[i + 1], kernel, stride=step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", convolution)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before the ReLU."""
        residual = x
        for i in range(1, self.count + 1):
            residual = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(residual))
            if i < self.count:
                residual = F.relu(residual)
        return residual + self.shortcut(x)


class ImageNetStyleResNet(Network):
    """Stem, four stages, average pool, linear classifier."""

    def __init__(self, num_classes: int, blocks: tuple[int, int, int, int], bottleneck: bool) -> None:
        super().__init__()
        expansion = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for i, count in enumerate(blocks):
            width = 64 * 2**i
            stage = nn.ModuleList()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(Block(inputs, width, width * expansion, stride, bottleneck))
                inputs = width * expansion
            self.add_module(f"layer{i + 1}", stage)
        self.linear = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.linear

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that end the last blocks of the stages, before their shortcuts are added."""
        blocks = (list(self.get_submodule(f"layer{number}").children())[-1] for number in range(1, 5))
        return tuple(cast(nn.BatchNorm2d, block.get_submodule(f"bn{block.count}")) for block in blocks)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        stages = (self.get_submodule(f"layer{number}").children() for number in range(1, 5))
        return classify(self, self.bn1(self.conv1(images)), stages)


def build(num_classes: int, *, stem: str, blocks: tuple[int, int, int, int], bottleneck: bool) -> Network:
    """A four-stage ResNet for small images.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        blocks: residual blocks per stage.
        bottleneck: three convolutions per block and four times the channels, instead of two.
    """
    return _stem.fit(ImageNetStyleResNet(num_classes, blocks, bottleneck), stem)
