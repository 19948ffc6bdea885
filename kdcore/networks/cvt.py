"""Convolutional vision Transformer (CvT-13): Wu et al., ICCV 2021, arXiv:2103.15808.

Three stages of 1, 2 and 10 layers. Every one begins with a strided convolution whose patches overlap, so that its map
is 4, 8 and 16 times smaller than the image. Queries, keys and values of its attention pass a depthwise convolution and
a batch norm each before their linear layers, keys and values with stride 2. The last stage has a class token, which
the convolutions leave out. There are no positions, so that images may have any size.

Its stages are the first convolution's map and what the three stages end in; they are sums of layers, and have no
`preacts`.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from kdcore.networks import _tokens
from kdcore.networks.contract import Network, Output

NETWORKS: dict[str, dict[str, int]] = {"cvt_13": {}}
LACKS = ["preacts", "final_map"]
IMAGE_SIZE = 224
WIDTHS, DEPTHS, HEADS, RATIO = (64, 192, 384), (1, 2, 10), (1, 3, 6), 4
PATCHES = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Kernel, stride and padding of the convolutions that the stages begin with."""
NORM_EPS = 1e-5


class Convolved(nn.Module):
    """Attention whose queries, keys and values come from convolutions of the tokens' map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)
            )
            for stride in (1, 2, 2)
        )
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) -> the same shape; the last tokens form a map of this height and width."""
        before, feature_map = x[:, : x.shape[1] - size[0] * size[1]], _tokens.as_map(x, size)
        q, k, v = (
            linear(torch.cat([before, _tokens.as_tokens(convolution(feature_map))], dim=1))
            for convolution, linear in zip(self.convolutions, self.linears, strict=True)
        )
        return self.proj(_tokens.attended(self.heads, q, k, v))


class Stage(nn.Module):
    """A convolution and layers."""

    def __init__(self, index: int, inputs: int, rates: list[float]) -> None:
        super().__init__()
        width = WIDTHS[index]
        self.embed = nn.Conv2d(inputs, width, *PATCHES[index])
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.layers = nn.ModuleList(
            _tokens.Layer(Convolved(width, HEADS[index]), width, RATIO, rate, NORM_EPS) for rate in rates
        )


class CvT(_tokens.ClassTokenNetwork):
    """Three stages, norm, linear classifier of the class token."""

    def __init__(self, num_classes: int, drop_path: float) -> None:
        super().__init__()
        rates = _tokens.drop_rates(drop_path, DEPTHS)
        self.stages = nn.ModuleList(Stage(i, inputs, rates[i]) for i, (inputs, _) in enumerate(pairwise((3, *WIDTHS))))
        self.cls_token = _tokens.learned(1, 1, WIDTHS[-1])
        self.norm = nn.LayerNorm(WIDTHS[-1], NORM_EPS)
        self.head = nn.Linear(WIDTHS[-1], num_classes)
        _tokens.initialise(self)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        feature_map = images
        maps: list[Tensor] = []
        for stage in cast(Iterable[Stage], self.stages):
            embedded = stage.embed(feature_map)
            size = embedded.shape[-2], embedded.shape[-1]
            x = stage.norm(_tokens.as_tokens(embedded))
            if not maps:
                maps.append(_tokens.as_map(x, size))
            if stage is self.stages[-1]:
                x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            for layer in stage.layers:
                x = layer(x, size)
            feature_map = _tokens.as_map(x, size)
            maps.append(feature_map)
        pooled = self.norm(x[:, 0])
        return Output(logits=self.head(pooled), stages=tuple(maps), preacts=(), pooled=pooled, final_map=_tokens.NONE)


def build(num_classes: int, *, stem: str, drop_path: float = 0.0) -> Network:
    """A CvT-13.

    Args:
        num_classes: C.
        stem: not looked at.
        drop_path: rate of stochastic depth of the last layer, to which it rises linearly; 0.1 as published.
    """
    return CvT(num_classes, drop_path)
