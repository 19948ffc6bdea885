"""Tokens-to-Token ViT: Yuan et al., ICCV 2021, arXiv:2101.11986, with performer layers (arXiv:2009.14794).

Patches that overlap become tokens, which twice pass a performer layer of width 64 and are put together again from
overlapping patches of the map that they form. The 14 x 14 tokens of an image of 224 pixels, a class token and fixed
sinusoidal positions then go through layers of plain attention, whose q, k and v have no biases.

Random features of the performers and positions are fixed, buffers that are no parameters. For images of another size
the positions are interpolated. Stages are the tokens that enter the layers, and those behind the first, the middle and
the last layer, where locality guidance (arXiv:2207.10026) takes them; they are sums of layers, and have no `preacts`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks import _tokens
from kdcore.networks.contract import Network, Output
from kdcore.numerics import at_least_float32

NETWORKS = {
    "t2t_vit_7": {"width": 256, "depth": 7, "heads": 4, "ratio": 2},
    "t2t_vit_14": {"width": 384, "depth": 14, "heads": 6, "ratio": 3},
}
LACKS = ["preacts", "final_map"]
IMAGE_SIZE = 224
GRID = (14, 14)
"""Tokens of an image of 224 x 224 pixels."""
INNER, FEATURES = 64, 32
"""Width of the performer layers, and how many random features they have."""
DROPOUT = 0.1
"""In the performer layers."""
FIRST, SECOND = (7, 4, 2), (3, 2, 1)
"""Kernel, stride and padding of the patches."""
TINY = 1e-8


class Performer(nn.Module):
    """A layer whose attention is linear in the number of tokens: one head, hidden width as its own."""

    random: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs, _tokens.NORM_EPS)
        self.kqv = nn.Linear(inputs, 3 * INNER)
        self.proj = nn.Linear(INNER, INNER)
        self.norm2 = nn.LayerNorm(INNER, _tokens.NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(INNER, INNER), nn.GELU(), nn.Linear(INNER, INNER))
        self.dropout = nn.Dropout(DROPOUT)
        rows = nn.init.orthogonal_(torch.empty(FEATURES, INNER))
        self.register_buffer("random", rows * math.sqrt(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, inputs) -> (B, N, 64). The values stand for the tokens beside the attention, which are wider."""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=2)
        attended = linearly_attended(q, k, v, self.random).to(v.dtype)  # a frozen teacher may be of bfloat16 throughout
        x = v + self.dropout(self.proj(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))


@at_least_float32
def linearly_attended(q: Tensor, k: Tensor, v: Tensor, random: Tensor) -> Tensor:
    """Attention of weights exp(q k), each as the expectation of a product of positive features of q and of k.

    It takes time linear in the number of tokens N.

    Args:
        q: queries (B, N, D).
        k: keys (B, N, D).
        v: values (B, N, D).
        random: (m, D), of which each of the m features takes a row.
    """

    def positive(x: Tensor) -> Tensor:
        return (x @ random.mT - x.square().sum(dim=2, keepdim=True) / 2).exp() / math.sqrt(len(random))

    queries, keys = positive(q), positive(k)
    return queries @ (keys.mT @ v) / (queries @ keys.sum(dim=1).unsqueeze(2) + TINY)


class T2TViT(_tokens.ClassTokenNetwork):
    """Two performer layers, layers of plain attention, norm, linear classifier of the class token."""

    fixed_positions: Tensor

    def __init__(self, num_classes: int, *, width: int, depth: int, heads: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.performer1 = Performer(3 * FIRST[0] ** 2)
        self.performer2 = Performer(INNER * SECOND[0] ** 2)
        self.project = nn.Linear(INNER * SECOND[0] ** 2, width)
        self.cls_token = _tokens.learned(1, 1, width)
        [rates] = _tokens.drop_rates(drop_path, [depth])
        self.layers = nn.ModuleList(
            _tokens.Layer(_tokens.Attention(width, heads, bias=False), width, ratio, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width, _tokens.NORM_EPS)
        self.head = nn.Linear(width, num_classes)
        self.register_buffer("fixed_positions", sinusoids(1 + GRID[0] * GRID[1], width))
        _tokens.initialise(self)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        x, size = _patches(images, FIRST)
        for performer in (self.performer1, self.performer2):
            x, size = _patches(_tokens.as_map(performer(x), size), SECOND)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.project(x)], dim=1)
        x = x + _tokens.fitted(self.fixed_positions, GRID, size)
        last = len(self.layers) - 1
        maps = [_tokens.as_map(x, size)]
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in (0, len(self.layers) // 2, last):
                maps.append(_tokens.as_map(x, size))
        pooled = self.norm(x[:, 0])
        return Output(logits=self.head(pooled), stages=tuple(maps), preacts=(), pooled=pooled, final_map=_tokens.NONE)


def sinusoids(count: int, width: int) -> Tensor:
    """Positions (1, count, width) of Vaswani et al., arXiv:1706.03762: sines in the even places, cosines in the odd."""
    place = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    angles = place / 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float().unsqueeze(0)


def _patches(feature_map: Tensor, patch: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """A map (B, Ch, H, W) as the tokens of its patches (B, h w, Ch kernel^2), and the height and width h, w."""
    kernel, stride, padding = patch
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in feature_map.shape[2:])
    return F.unfold(feature_map, kernel, stride=stride, padding=padding).mT, (height, width)


def build(
    num_classes: int, *, stem: str, width: int, depth: int, heads: int, ratio: int, drop_path: float = 0.0
) -> Network:
    """A Tokens-to-Token ViT.

    Args:
        num_classes: C.
        stem: not looked at.
        width: of a token.
        depth: number of layers after the performers.
        heads: of their attention.
        ratio: width of their hidden layers, in widths of a token.
        drop_path: rate of stochastic depth of the last layer, to which it rises linearly; 0.1 as published.
    """
    return T2TViT(num_classes, width=width, depth=depth, heads=heads, ratio=ratio, drop_path=drop_path)
