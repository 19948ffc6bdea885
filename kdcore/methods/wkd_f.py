"""WKD-F: Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024,
arXiv:2412.08139.

Within each cell of a grid, a channel of the last map is described by a normal distribution. The loss is the squared
Wasserstein distance of the student's and the teacher's: squared differences of means and of standard deviations, summed
over channels and averaged over cells and images. Maps (B, Ch, H, W) -> scalar without unit.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcore.methods._regressor import Regressor
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
PARAMETERS = {"mean_weight": ">= 0", "grid": "integer >= 1"}
NEEDS = ["stages"]
EPSILON = 1e-5


class Terms(NamedTuple):
    """The two parts of the loss, scalars."""

    mean: Tensor
    """Squared differences of means."""
    std: Tensor
    """Squared differences of standard deviations; 0 between maps of which one has a single pixel."""


@at_least_float32
def terms(projected_map: Tensor, teacher_map: Tensor, *, grid: int) -> Terms:
    """Compute the two parts of `loss`, whose arguments these are."""
    sizes = projected_map.shape[-2:], teacher_map.shape[-2:]
    cells = max(min(grid, *(side - 1 for size in sizes for side in size)), 1)
    (own_mean, own_std), (mean, std) = _moments(projected_map, cells), _moments(teacher_map, cells)
    count = len(projected_map) * cells**2
    of_means = (own_mean - mean).square().sum() / count
    of_stds = (own_std - std).square().sum() / count
    single = any(size.numel() == 1 for size in sizes)
    return Terms(of_means, torch.zeros_like(of_stds) if single else of_stds)


def loss(projected_map: Tensor, teacher_map: Tensor, *, mean_weight: float, grid: int) -> Tensor:
    """Add the squared differences of means, weighted, and of standard deviations.

    Args:
        projected_map: (B, Ch, H, W), the student's.
        teacher_map: (B, Ch, H', W').
        mean_weight: of the means' part.
        grid: cells along each side of the map, where adaptive pooling has them; on a map whose shorter side has no more
            pixels than that, one less than it has, since a cell of a single pixel has no standard deviation.

    Returns:
        Scalar.
    """
    parts = terms(projected_map, teacher_map, grid=grid)
    return mean_weight * parts.mean + parts.std


class Adapter(nn.Module):
    """Projects the student's last map to the shape of the teacher's (see `Regressor`).

    Args:
        setting: the shapes.
        mean_weight: see `loss`.
        grid: see `loss`.
    """

    def __init__(self, setting: Setting, *, mean_weight: float, grid: int) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"mean_weight": mean_weight, "grid": grid}
        self.projector = Regressor(setting.student.stages[-1], setting.teacher.stages[-1])

    def forward(self, step: Step) -> Tensor:
        """`loss` of the last stages."""
        return loss(*self.projector.regressed(step.student.stages[-1], step.teacher.stages[-1]), **self.options)


def _moments(feature_map: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of a map's cells, (B, Ch, cells, cells); EPSILON is added to variances."""
    height, width = feature_map.shape[-2:]
    if height % cells == 0 and width % cells == 0:
        by_cell = feature_map.unflatten(3, (cells, -1)).unflatten(2, (cells, -1))
        pixels = height * width // cells**2
        variance, mean = torch.var_mean(by_cell, dim=(3, 5), correction=min(pixels - 1, 1))
    else:
        rows, columns = _spans(height, cells), _spans(width, cells)
        each = [torch.var_mean(feature_map[..., row, column], dim=(2, 3)) for row in rows for column in columns]
        variance, mean = (torch.stack(moment, dim=2).unflatten(2, (cells, cells)) for moment in zip(*each, strict=True))
    return mean, (variance + EPSILON).sqrt()


def _spans(side: int, cells: int) -> list[slice]:
    """Where the cells of adaptive pooling lie along a side; they overlap if it cannot be divided."""
    return [slice(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
