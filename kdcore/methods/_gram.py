"""How two sets of vectors differ in their mutual dot products: what the batch losses share."""

from typing import Any

import torch
from torch import Tensor


class _GramDifference(torch.autograd.Function):
    """Half as many matrix products as autograd would need, for the same gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        # The symmetric part of (S - T)(S + T)': one product instead of two, and no cancellation.
        product = (student - teacher) @ (student + teacher).mT
        ctx.save_for_backward(student)
        return (product + product.mT).mul_(0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        return (gradient + gradient.mT) @ student, None


def gram_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """S S' - T T' of S and T (..., K, D), K vectors each: (..., K, K). The teacher's T gets no gradient."""
    return _GramDifference.apply(student, teacher)


def safe_root(square: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0."""
    nothing = square == 0
    return square.masked_fill(nothing, 1.0).sqrt().masked_fill(nothing, 0.0)
