"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146.

Pre-activation blocks: a stage's map is the raw sum of its last block, as the published distillers use it; what
follows normalises it (`preacts`) and rectifies it.
State-dict keys are those of RepDistiller's and mdistiller's checkpoints.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks.contract import Network, Output

NETWORKS = {
    "wrn_16_1": {"depth": 16, "width": 1},
    "wrn_16_2": {"depth": 16, "width": 2},
    "wrn_16_4": {"depth": 16, "width": 4},
    "wrn_28_2": {"depth": 28, "width": 2},
    "wrn_28_4": {"depth": 28, "width": 4},
    "wrn_40_1": {"depth": 40, "width": 1},
    "wrn_40_2": {"depth": 40, "width": 2},
}


class PreactBlock(nn.Module):
    """Normalise, rectify, convolve, twice; the shortcut of a widening block starts from the rectified input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.widens = inputs != outputs
        if self.widens:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> the sum (B, outputs, H / stride, W / stride), and the normalised input."""
        normalised = self.bn1(x)
        rectified = F.relu(normalised)
        residual = self.conv2(F.relu(self.bn2(self.conv1(rectified))))
        return residual + (self.convShortcut(rectified) if self.widens else x), normalised


class Stage(nn.Module):
    """Blocks of one width, under the published key `layer`."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = PreactBlock(inputs, outputs, stride)
        self.layer = nn.ModuleList([first, *(PreactBlock(outputs, outputs, 1) for _ in range(blocks - 1))])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> the map (B, outputs, H / stride, W / stride), and the first block's normalised input."""
        x, normalised_input = self.layer[0](x)
        for block in self.layer[1:]:
            x, _ = block(x)
        return x, normalised_input


class WideResNet(Network):
    """Stem, three stages of pre-activation blocks, a last batch norm and ReLU, average pool, linear classifier."""

    def __init__(self, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(blocks, 16, 16 * width, stride=1)
        self.block2 = Stage(blocks, 16 * width, 32 * width, stride=2)
        self.block3 = Stage(blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.fc

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that follow the stages."""
        following = (cast(PreactBlock, stage.layer[0]) for stage in (self.block2, self.block3))
        return *(block.bn1 for block in following), self.bn1

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        stem = self.conv1(images)
        first, _ = self.block1(stem)
        second, normalised_first = self.block2(first)
        third, normalised_second = self.block3(second)
        normalised_third = self.bn1(third)
        final_map = F.relu(normalised_third)
        pooled = final_map.mean(dim=(2, 3))
        stages = (stem, first, second, third)
        preacts = (stem, normalised_first, normalised_second, normalised_third)
        return Output(logits=self.fc(pooled), stages=stages, preacts=preacts, pooled=pooled, final_map=final_map)


def build(num_classes: int, *, stem: str, depth: int, width: int) -> Network:
    """WRN-depth-width.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        depth: number of weighted layers, 6 n + 4.
        width: widening factor.
    """
    return _stem.fit(WideResNet(num_classes, depth, width), stem)
