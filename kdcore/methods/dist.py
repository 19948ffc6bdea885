"""DIST: Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv:2205.10536.

The loss is beta * (1 - correlation of a sample's predictions) + gamma * (1 - correlation of a class's predictions
over the batch), times T^2. Logits (..., B, C) -> (...), without unit.
"""

import torch
from torch import Tensor

from kdcore.numerics import at_least_float32

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"beta": ">= 0", "gamma": ">= 0", "temperature": "> 0"}
EPSILON = 1e-8


def constant(probabilities: Tensor, dim: int) -> Tensor:
    """Whether probabilities are equal along an axis, up to rounding; the axis is reduced."""
    low, high = probabilities.detach().aminmax(dim=dim)
    return high - low <= 16 * torch.finfo(high.dtype).eps * high


def correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Pearson correlation of probabilities along an axis; 0, without gradient, where one side is constant.

    What rounding leaves of the deviations there is far below `EPSILON` and would get a gradient of its inverse.
    """
    undefined = constant(student, dim) | constant(teacher, dim)
    student, teacher = (values - values.mean(dim=dim, keepdim=True) for values in (student, teacher))
    lengths = student.norm(dim=dim) * teacher.norm(dim=dim)
    return ((student * teacher).sum(dim=dim) / (lengths + EPSILON)).masked_fill(undefined, 0.0)


@at_least_float32
def terms(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The inter-class and the intra-class term, each (...), T^2 included.

    The first is 1 - the mean over samples of the correlation of student and teacher along the classes, the second 1 -
    the mean over classes of the correlation along the batch. In a batch of one the second is T^2, without gradient.
    Arguments as in `loss`.
    """
    student, teacher = ((logits / temperature).softmax(dim=-1) for logits in (student, teacher))
    inter, intra = (1 - correlation(student, teacher, dim).mean(dim=-1) for dim in (-1, -2))
    return temperature**2 * inter, temperature**2 * intra


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    *,
    beta: float,
    gamma: float,
    temperature: float,
) -> Tensor:
    """beta * inter-class term + gamma * intra-class term, per batch.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: not used; accepted so that all logit losses are called alike.
        beta: weight of the inter-class term.
        gamma: weight of the intra-class term.
        temperature: T, dimensionless; both terms are multiplied by its square.

    Returns:
        (...), a scalar for one batch; from 0 to 2 T^2 (beta + gamma).
    """
    inter, intra = terms(student, teacher, temperature=temperature)
    return beta * inter + gamma * intra
