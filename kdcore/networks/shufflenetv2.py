"""ShuffleNetV2: Ma et al., ECCV 2018, arXiv:1807.11164, of widths 1 and 1.5, for 32 x 32 images.

As in RepDistiller and mdistiller ("ShuffleV2") and, of width 1.5, in SimKD ("ShuffleV2_1_5"): a 1 x 1 stem without
stride and pooling, and layers as PyTorch initialises them. State-dict keys are those of their checkpoints.

All blocks but a stage's first pass half of their channels on as they are, rectified by an earlier block. `preacts` are
those channels and the other half before its ReLU, as the published distillers take them, but shuffled as the stage is.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _stem
from kdcore.networks.contract import Network, Output

NETWORKS = {
    "shufflenetv2": {"widths": (116, 232, 464), "blocks": (4, 8, 4), "last": 1024},
    "shufflenetv2_x1_5": {"widths": (176, 352, 704), "blocks": (4, 8, 4), "last": 1024},
}
STEM = 24
HALVES = 2


class HalvingBlock(nn.Module):
    """Two branches, both of stride 2; `forward` returns what precedes their ReLUs, shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2), before the ReLU."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return F.channel_shuffle(torch.cat([left, right], dim=1), HALVES)


class BasicBlock(nn.Module):
    """Changes the second half of the channels; `forward` returns what precedes their ReLU, shuffled with the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), rectified -> the same shape, its odd channels before the ReLU."""
        kept, changed = x.chunk(2, dim=1)
        changed = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(changed)))))
        changed = self.bn3(self.conv3(changed))
        return F.channel_shuffle(torch.cat([kept, changed], dim=1), HALVES)

    def norm(self) -> nn.BatchNorm2d:
        """A batch norm with weight and bias of the last one at the odd channels, and 0 at the even, which are kept."""
        own = self.bn3
        norm = nn.BatchNorm2d(2 * own.num_features, device=own.weight.device, dtype=own.weight.dtype)
        with torch.no_grad():
            norm.weight[0::2] = 0
            norm.weight[1::2] = own.weight
            norm.bias[1::2] = own.bias
        return norm


class ShuffleNetV2(Network):
    """Stem, three stages whose first block halves the map, a 1 x 1 convolution, average pool, linear classifier."""

    def __init__(self, num_classes: int, widths: tuple[int, ...], blocks: tuple[int, ...], last: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.ModuleList([HalvingBlock(inputs, width), *(BasicBlock(width) for _ in range(count - 1))])
            self.add_module(f"layer{i + 1}", stage)
            inputs = width
        self.conv2 = nn.Conv2d(inputs, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head."""
        return self.linear

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Copies of those of the last blocks, made as wide as the stage; the channels that a block keeps, which are
        never negative, have weight and bias 0 in them.
        """
        return tuple(cast(BasicBlock, stage[-1]).norm() for stage in self._stages())

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        preact = self.bn1(self.conv1(images))
        x = F.relu(preact)
        maps, preacts = [x], [preact]
        for stage in self._stages():
            for block in stage:
                preact = block(x)
                x = F.relu(preact)
            maps.append(x)
            preacts.append(preact)
        final_map = F.relu(self.bn2(self.conv2(x)))
        pooled = final_map.mean(dim=(2, 3))
        return Output(
            logits=self.linear(pooled), stages=tuple(maps), preacts=tuple(preacts), pooled=pooled, final_map=final_map
        )

    def _stages(self) -> list[nn.ModuleList]:
        return [cast(nn.ModuleList, self.get_submodule(f"layer{number}")) for number in range(1, 4)]


def build(
    num_classes: int, *, stem: str, widths: tuple[int, int, int], blocks: tuple[int, int, int], last: int
) -> Network:
    """A ShuffleNetV2 for small images.

    Args:
        num_classes: C.
        stem: see `kdcore.networks.create`.
        widths: channels per stage.
        blocks: per stage, the first one included, two or more.
        last: channels of the map that is averaged.
    """
    return _stem.fit(ShuffleNetV2(num_classes, widths, blocks, last), stem)
