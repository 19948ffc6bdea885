"""How the maps of two networks are compared that have other numbers of stages or other sizes."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def matched(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The maps after the stem that belong together, as many of each network.

    Publications compare stage by stage; networks with unequal numbers of stages match from the deep end.

    Args:
        student: maps (B, Ch, H, W), stem first.
        teacher: maps (B, Ch, H, W), stem first.
    """
    count = min(len(student), len(teacher)) - 1
    return list(student[-count:]), list(teacher[-count:])


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, Ch, H, W) with the larger one pooled (adaptively) to the height and width of the smaller."""
    size = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    return pooled_to(first, size), pooled_to(second, size)


def summed(stage_loss: Callable[..., Tensor], *of_stages: Sequence[Tensor]) -> Tensor:
    """The sum over stages of a loss; each further argument holds one tensor per stage. Scalar."""
    return torch.stack([stage_loss(*of_stage) for of_stage in zip(*of_stages, strict=True)]).sum()


def pooled_to(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, Ch, H, W) averaged adaptively to a height and width."""
    return feature_map if feature_map.shape[-2:] == size else F.adaptive_avg_pool2d(feature_map, size)
