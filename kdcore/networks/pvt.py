"""Pyramid Vision Transformer (PVT-Tiny): Wang et al., ICCV 2021, arXiv:2102.12122.

Four stages of two layers each. Every one begins with patches that do not overlap, which make the map 4, 8, 16 and 32
times smaller than the image, and learned positions. Keys and values of its attention come from maps that a strided
convolution has made 8, 4 and 2 times smaller; the last stage keeps all, and has a class token.

Learned positions are interpolated for images of another size. Its stages are the first patches and what the four
stages end in; they are sums of layers, and have no `preacts`.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from kdcore.networks import _tokens
from kdcore.networks.contract import Network, Output
from kdcore.system.errors import UserError

NETWORKS: dict[str, dict[str, int]] = {"pvt_ti": {}}
LACKS = ["preacts", "final_map"]
IMAGE_SIZE = 224
WIDTHS, DEPTHS, HEADS, RATIOS = (64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8), (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
PATCHES = (4, 2, 2, 2)
SMALLEST = 32
"""Height and width of the smallest image, whose maps have as many cells as the reductions make one of."""


class Reduced(nn.Module):
    """Attention whose keys and values come from a smaller map."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width, _tokens.NORM_EPS) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) -> the same shape; the last tokens form a map of this height and width."""
        source = x
        if self.reduce is not None and self.norm is not None:
            source = self.norm(_tokens.as_tokens(self.reduce(_tokens.as_map(x, size))))
        return self.proj(_tokens.attended(self.heads, self.q(x), *self.kv(source).chunk(2, dim=2)))


class Stage(nn.Module):
    """Patches, their positions, and layers."""

    def __init__(self, index: int, inputs: int, side: int, rates: list[float]) -> None:
        """Build one of the four stages.

        Args:
            index: from 0.
            inputs: channels of the map that it takes.
            side: height and width of its own map.
            rates: of stochastic depth, one per layer.
        """
        super().__init__()
        width, self.side = WIDTHS[index], side
        self.patches = nn.Conv2d(inputs, width, PATCHES[index], stride=PATCHES[index])
        self.norm = nn.LayerNorm(width, _tokens.NORM_EPS)
        self.layers = nn.ModuleList(
            _tokens.Layer(Reduced(width, HEADS[index], REDUCTIONS[index]), width, RATIOS[index], rate) for rate in rates
        )


class PVT(_tokens.ClassTokenNetwork):
    """Four stages, norm, linear classifier of the class token."""

    def __init__(self, num_classes: int, drop_path: float) -> None:
        super().__init__()
        rates = _tokens.drop_rates(drop_path, DEPTHS)
        self.stages, side = nn.ModuleList(), IMAGE_SIZE
        self.positions = nn.ParameterList()
        for i, (inputs, width) in enumerate(pairwise((3, *WIDTHS))):
            side //= PATCHES[i]
            self.stages.append(Stage(i, inputs, side, rates[i]))
            self.positions.append(_tokens.learned(1, side * side + (i == len(WIDTHS) - 1), width))
        self.cls_token = _tokens.learned(1, 1, WIDTHS[-1])
        self.norm = nn.LayerNorm(WIDTHS[-1], _tokens.NORM_EPS)
        self.head = nn.Linear(WIDTHS[-1], num_classes)
        _tokens.initialise(self)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output.

        Raises:
            UserError: the images are smaller than 32 x 32 pixels.
        """
        if min(images.shape[2:]) < SMALLEST:
            given = " x ".join(map(str, images.shape[2:]))
            raise UserError(f"pvt_ti takes images of at least {SMALLEST} x {SMALLEST} pixels, and was given {given}")
        feature_map = images
        maps: list[Tensor] = []
        for stage, positions in zip(cast(Iterable[Stage], self.stages), self.positions, strict=True):
            patches = stage.patches(feature_map)
            size = patches.shape[-2], patches.shape[-1]
            x = stage.norm(_tokens.as_tokens(patches))
            if stage is self.stages[-1]:
                x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            x = x + _tokens.fitted(positions, (stage.side, stage.side), size)
            if not maps:
                maps.append(_tokens.as_map(x, size))
            for layer in stage.layers:
                x = layer(x, size)
            feature_map = _tokens.as_map(x, size)
            maps.append(feature_map)
        pooled = self.norm(x[:, 0])
        return Output(logits=self.head(pooled), stages=tuple(maps), preacts=(), pooled=pooled, final_map=_tokens.NONE)


def build(num_classes: int, *, stem: str, drop_path: float = 0.0) -> Network:
    """A PVT-Tiny.

    Args:
        num_classes: C.
        stem: not looked at.
        drop_path: rate of stochastic depth of the last layer, to which it rises linearly; 0.1 as published.
    """
    return PVT(num_classes, drop_path)
