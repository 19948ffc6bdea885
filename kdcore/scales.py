"""SDD: Wei et al., Scale Decoupled Distillation, CVPR 2024, arXiv:2403.13512.

A network whose head is linear gives logits for any region of its last feature map: the classifier applied to that
region's average. A *scale* of the matrix names the pyramid levels in use; level m cuts the map into m x m regions.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.catalog import levels

__all__ = ["decouple", "decoupling_weights", "grid_logits", "levels", "pyramid_logits", "region_logits"]

GRID = 4


def pyramid_logits(final_map: Tensor, classifier: nn.Module, levels: tuple[int, ...]) -> Tensor:
    """Logits of every region of the pyramid, coarse to fine, row-major inside a level.

    The map is first pooled (adaptively) to 4 x 4, as the authors do; each level averages that grid. The classifier
    is linear, so it runs on the finest level alone and coarser levels average its logits.

    Args:
        final_map: (B, D, h, w), what the network pools before its classifier.
        classifier: a linear head, (..., D) -> (..., C).
        levels: rising subset of (1, 2, 4).

    Returns:
        (B, N, C), N the sum of the squared levels.
    """
    finest = max(levels)
    grid = F.adaptive_avg_pool2d(final_map, GRID)
    if finest < GRID:
        grid = F.adaptive_avg_pool2d(grid, finest)
    cells = classifier(grid.flatten(2).mT)
    return _averages(levels, cells.dtype, cells.device, finest) @ cells


def grid_logits(final_map: Tensor, classifier: nn.Module) -> Tensor:
    """Logits of the 16 cells of the 4 x 4 grid, from which `region_logits` has those of any levels.

    Args:
        final_map: (B, D, h, w), what the network pools before its classifier.
        classifier: a linear head, (..., D) -> (..., C).

    Returns:
        (B, 16, C), row-major.
    """
    return classifier(F.adaptive_avg_pool2d(final_map, GRID).flatten(2).mT)


def region_logits(grid: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Average the cells of `grid_logits` to the regions of `pyramid_logits`: (B, 16, C) -> (B, N, C)."""
    return _averages(levels, grid.dtype, grid.device, GRID) @ grid


@cache
def _averages(levels: tuple[int, ...], dtype: torch.dtype, device: torch.device, finest: int) -> Tensor:
    """Make the matrix (N, finest^2) that averages cells of the finest level to regions; its rows add up to 1."""
    cells = torch.eye(finest**2, dtype=dtype, device=device).view(-1, finest, finest)
    return torch.cat([F.adaptive_avg_pool2d(cells, level).flatten(1) for level in levels], dim=1).T.contiguous()


def decouple(
    per_region_loss: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    complementary_weight: float = 2.0,
    consistent_weight: float = 1.0,
    teacher_global: Tensor | None = None,
) -> Tensor:
    """Mean over samples and regions, with more weight where a region disagrees with the whole image.

    A region is complementary when exactly one of the teacher's two predictions, for the image and for the region,
    is right; the others are consistent. The sum is divided by B * N, not by the sum of the weights.

    Args:
        per_region_loss: (B, N).
        teacher_logits: (B, N, C), regions coarse to fine.
        target: (B,), class indices.
        complementary_weight: weight of complementary regions.
        consistent_weight: weight of the others, which is 1 in all publications.
        teacher_global: (B, C), the teacher's logits for the whole image. By default region 0, which is the average of
            the 4 x 4 grid whenever the levels begin with 1 (the network's own logits only where the map's side is a
            multiple of 4: on 7 x 7 maps the cells overlap); pass it for levels that do not.

    Returns:
        Scalar.
    """
    weights = decoupling_weights(
        teacher_logits,
        target,
        complementary_weight=complementary_weight,
        consistent_weight=consistent_weight,
        teacher_global=teacher_global,
    )
    return (weights * per_region_loss).mean()


def decoupling_weights(
    teacher_logits: Tensor,
    target: Tensor,
    *,
    complementary_weight: float = 2.0,
    consistent_weight: float = 1.0,
    teacher_global: Tensor | None = None,
) -> Tensor:
    """The weights (B, N) of `decouple`: those of consistent and of complementary regions."""
    whole_image = teacher_logits[:, 0] if teacher_global is None else teacher_global
    global_right = (whole_image.argmax(dim=-1) == target)[:, None]
    region_right = teacher_logits.argmax(dim=-1) == target[:, None]
    weights = torch.where(global_right != region_right, complementary_weight, consistent_weight)
    return weights.to(teacher_logits.dtype)


def decouple_as_fusion_published(per_region_loss: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """Decouple as the published fusion of SDD and LSKD does for KD (SDD-LSKD-Fusion, SDD_KD_LSKD.py), mistakes too.

    Its rows are ordered region by region, but it reads them as if sample by sample: row r is compared with the global
    prediction for sample r // N. The loss is the mean over the rows that agree plus the mean over those that do not,
    and changes when the samples of a batch are permuted. It knows no weights. For comparisons; `decouple`
    is the right one.

    Args:
        per_region_loss: (B, N).
        teacher_logits: (B, N, C), regions coarse to fine, the whole image first.
        target: (B,), class indices.

    Returns:
        Scalar.
    """
    right = (teacher_logits.argmax(dim=-1) == target[:, None]).T.reshape(-1)
    rows = per_region_loss.T.reshape(-1)
    batch, regions = per_region_loss.shape
    agrees = right == right[:batch].repeat_interleave(regions)
    return sum(((rows * of).sum() / of.sum().clamp(min=1) for of in (agrees, ~agrees)), start=rows.new_zeros(()))
