"""ITRD: Miles et al., Information Theoretic Representation Distillation, BMVC 2022, arXiv:2112.00459.

The first term is the logarithm of how far each channel's correlation with the teacher's is from 1, over the batch. The
second lowers the entropy of the images' similarities in the student while it keeps their joint one with the teacher.
Vectors (B, D) -> scalar, in bits and without unit.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.methods._unit import unit
from kdcore.methods.contract import Setting, Step
from kdcore.numerics import at_least_float32

KIND = "feature"
ACROSS = "batch"
PARAMETERS = {"alpha": "> 0", "correlation_weight": ">= 0", "mutual_weight": ">= 0"}
ROUNDING = 8
"""A channel whose deviation is below this many units of rounding of its largest value counts as constant."""


@at_least_float32
def correlation(embedded: Tensor, teacher: Tensor, *, alpha: float) -> Tensor:
    """Logarithm to base 2 of the sum over channels of (1 - correlation)^(2 alpha).

    A channel that is constant over the batch, in one of the two, counts as uncorrelated and gets no gradient; so do all
    channels of a batch of one.

    Args:
        embedded: (B, D), the student's.
        teacher: (B, D).
        alpha: the order of Renyi's entropy.

    Returns:
        Scalar, in bits.
    """
    correlations = (_standardized(embedded) * _standardized(teacher)).mean(dim=0)
    return torch.logsumexp(2 * alpha * torch.log1p(-correlations), dim=0) / math.log(2)


@at_least_float32
def mutual(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squares of the Gram matrix of the student's unit rows, less that of its product with the teacher's.

    Both matrices are scaled to trace 1 first; one of zeros stays so. The product is taken entry by entry.

    Args:
        student: (B, D).
        teacher: (B, D').

    Returns:
        Scalar.
    """
    student, teacher = unit(student), unit(teacher)
    own = student @ student.mT
    joint = own * (teacher @ teacher.mT)
    return _trace_one(own).square().sum() - _trace_one(joint).square().sum()


def loss(
    student: Tensor, embedded: Tensor, teacher: Tensor, *, alpha: float, correlation_weight: float, mutual_weight: float
) -> Tensor:
    """Add the weighted terms `correlation` and `mutual`.

    Args:
        student: (B, D), pooled features.
        embedded: (B, D'), what a linear layer makes of them. The second term takes it only if D is not D'.
        teacher: (B, D').
        alpha: see `correlation`.
        correlation_weight: of the first term.
        mutual_weight: of the second term.

    Returns:
        Scalar; it can be negative.
    """
    alike = student if student.shape == teacher.shape else embedded
    return correlation_weight * correlation(embedded, teacher, alpha=alpha) + mutual_weight * mutual(alike, teacher)


class Adapter(nn.Module):
    """Embeds the student's pooled features linearly to the teacher's width.

    Args:
        setting: the shapes.
        alpha: see `loss`.
        correlation_weight: see `loss`.
        mutual_weight: see `loss`.
    """

    def __init__(self, setting: Setting, *, alpha: float, correlation_weight: float, mutual_weight: float) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "alpha": alpha,
            "correlation_weight": correlation_weight,
            "mutual_weight": mutual_weight,
        }
        self.embed = nn.Linear(setting.student.pooled.shape[1], setting.teacher.pooled.shape[1])

    def forward(self, step: Step) -> Tensor:
        """`loss` of the pooled features."""
        student = step.student.pooled
        return loss(student, self.embed(student), step.teacher.pooled, **self.options)


def _standardized(features: Tensor) -> Tensor:
    """Per channel of (B, D), mean 0 and unbiased variance 1 over the batch; zeros without gradient if constant."""
    centred = features - features.mean(dim=0)
    variance = centred.square().sum(dim=0) / max(len(features) - 1, 1)
    rounding = ROUNDING * torch.finfo(features.dtype).eps * features.abs().amax(dim=0)
    constant = variance <= rounding.square()
    return (centred / variance.masked_fill(constant, 1.0).sqrt()).masked_fill(constant, 0.0)


def _trace_one(matrix: Tensor) -> Tensor:
    trace = matrix.diagonal().sum()
    return matrix / trace.masked_fill(trace == 0, 1.0)
