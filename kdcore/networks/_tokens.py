"""What the vision transformers share: attention, layers, positions, and how their weights begin."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks.contract import Network

DEVIATION = 0.02
"""Standard deviation of the truncated normal distribution that weights, tokens and positions begin with."""
NORM_EPS = 1e-6
NONE = cast(Tensor, None)
"""The final map of networks that have none: its type is that of the many that have one."""


class DropPath(nn.Module):
    """Stochastic depth: Huang et al., ECCV 2016, arXiv:1603.09382.

    While it trains, all values of an image become 0 with probability `rate`, and those of the others grow by
    1 / (1 - rate). It draws from torch's own generator, as dropout does.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Attention(nn.Module):
    """Self-attention of tokens in several heads."""

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        return self.proj(attended(self.heads, *self.qkv(x).chunk(3, dim=2)))


class Layer(nn.Module):
    """A pre-norm layer: attention and a network of two linear layers with GELU, each added to what it was given."""

    def __init__(self, attention: nn.Module, width: int, ratio: int, drop_path: float, eps: float = NORM_EPS) -> None:
        """Build the layer.

        Args:
            attention: takes (B, N, width) and any further arguments of the layer.
            width: of a token.
            ratio: width of the hidden layer, in widths of a token.
            drop_path: rate of stochastic depth of both parts.
            eps: of both norms.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *further: object) -> Tensor:
        """(B, N, width) -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), *further))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ClassTokenNetwork(Network):
    """A transformer whose head, a linear layer named `head`, reads a class token."""

    head: nn.Linear

    @property
    def classifier(self) -> nn.Linear:
        """The linear head; no map is averaged for it."""
        return self.head

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """There are none, as there are no `preacts`."""
        return ()

    def no_weight_decay(self) -> set[str]:
        """Names of the class token and of the positions, which weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.startswith(("cls_token", "positions"))}


def attended(heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of queries (B, N, D) to keys and values (B, M, D), in heads of D / heads each."""
    split = (tokens.unflatten(2, (heads, -1)).transpose(1, 2) for tokens in (q, k, v))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def drop_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth per stage and layer, which rise linearly from 0 to `rate` over all layers."""
    rising = iter(torch.linspace(0, rate, sum(depths), device="cpu").tolist())
    return [[next(rising) for _ in range(depth)] for depth in depths]


def as_tokens(feature_map: Tensor) -> Tensor:
    """A map (B, D, h, w) as tokens (B, h w, D), row by row."""
    return feature_map.flatten(2).mT


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The last h w tokens of (B, N, D), without a class token before them, as a map (B, D, h, w)."""
    height, width = size
    return tokens[:, -height * width :].mT.unflatten(2, size)


def fitted(positions: Tensor, trained: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Positions for a grid of another size, interpolated bilinearly.

    Args:
        positions: (1, N, D), those of a class token before those of the grid, if there is one.
        trained: height and width of the grid that they are of.
        size: of the grid that is wanted.
    """
    if size == trained:
        return positions
    leading = positions.shape[1] - trained[0] * trained[1]
    grid = F.interpolate(as_map(positions, trained), size=size, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :leading], as_tokens(grid)], dim=1)


def learned(*shape: int) -> nn.Parameter:
    """A token, or positions, of this shape."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=DEVIATION))


def initialise(network: nn.Module) -> None:
    """Give linear layers weights of a truncated normal distribution, and biases of 0. Others begin as PyTorch's."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
