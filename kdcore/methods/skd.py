"""SKD, streamlined knowledge distillation: KD and a Mahalanobis term between the samples of a batch (StreamLined).

The loss is KD times the share of unsure samples + the Mahalanobis length of the difference of the cosine
similarities times the share of unsure classes. Logits (..., B, C) -> (...), the first term in nats.
"""

from typing import Any

import torch
from torch import Tensor

from kdcore.methods import kd
from kdcore.methods._confidence import unsure
from kdcore.methods._gram import gram_difference, safe_root
from kdcore.methods._unit import unit
from kdcore.numerics import at_least_float32

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"temperature": "> 0", "tikhonov": "> 0"}


class _QuadraticForms(torch.autograd.Function):
    """x' A^-1 x of every row x (..., K, D) and a positive definite A (..., D, D): (..., K).

    Its gradient needs products alone; autograd's would solve twice more. In float64, for A may be near to singular.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor) -> Tensor:
        root, _ = torch.linalg.cholesky_ex(matrix.double())
        solved = torch.cholesky_solve(rows.mT.double(), root).mT.to(rows.dtype)
        ctx.save_for_backward(solved)
        return (rows * solved).sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (solved,) = ctx.saved_tensors
        weighted = gradient[..., None] * solved
        return 2 * weighted, -weighted.mT @ solved


def mahalanobis(student: Tensor, teacher: Tensor, *, tikhonov: float) -> Tensor:
    """Mean length of the rows of D, the difference of the two B x B cosine similarities divided by C, measured by
    the covariance of those rows plus tikhonov * identity: (..., B, C), (..., B, C) -> (...).

    Its gradient is finite where student and teacher point the same way, and with a batch of one.
    """
    samples, classes = student.shape[-2:]
    rows = gram_difference(unit(student), unit(teacher)) / classes
    centred = rows - rows.mean(dim=-2, keepdim=True)
    identity = torch.eye(samples, dtype=rows.dtype, device=rows.device)
    covariance = centred.mT @ centred / max(samples - 1, 1) + tikhonov * identity
    return safe_root(_QuadraticForms.apply(rows, covariance)).mean(dim=-1)


@at_least_float32
def terms(student: Tensor, teacher: Tensor, *, temperature: float, tikhonov: float) -> tuple[Tensor, Tensor]:
    """KD and `mahalanobis`, each (...), without masks. Arguments as in `loss`."""
    return kd.loss(student, teacher, temperature=temperature).mean(dim=-1), mahalanobis(
        student, teacher, tikhonov=tikhonov
    )


@at_least_float32
def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float,
    tikhonov: float,
    kd_weight: float = 1.0,
) -> Tensor:
    """KD times the share of unsure samples, plus the Mahalanobis term times the share of unsure classes, per batch.

    The published code reduces each term before it masks it, so that a mask acts as its mean.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: not used; accepted so that all logit losses are called alike.
        temperature: T of KD, dimensionless.
        tikhonov: added to the covariance's diagonal.
        kd_weight: weight of the sum.

    Returns:
        (...), a scalar for one batch.
    """
    divergence, distance = terms(student, teacher, temperature=temperature, tikhonov=tikhonov)
    samples, classes = unsure(teacher)
    share = samples.to(student.dtype).mean(dim=-1), classes.to(student.dtype).mean(dim=-1)
    return kd_weight * (divergence * share[0] + distance * share[1])
