"""CLKD: Zhang et al., Class-aware Information for Logit-based Knowledge Distillation, 2022, arXiv:2211.14773; the form
that StreamLined compares with.

The loss is mu * (instance + beta * class) + nu * class correlation. Logits (..., B, C) -> (...), without unit.
"""

from torch import Tensor

from kdcore.methods._gram import gram_difference, safe_root
from kdcore.methods._unit import unit
from kdcore.numerics import at_least_float32

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"mu": ">= 0", "nu": ">= 0", "beta": ">= 0"}


@at_least_float32
def terms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Instance, class and class-correlation terms, each (...).

    The first two are mean squared differences of the logits with every row (instance), or every column (class),
    L2-normalised. The third is the Frobenius norm of the difference of the C x C correlations of the classes,
    divided by C^2.
    """
    classes = student.shape[-1]
    by_instance, by_class = (
        (unit(student, axis) - unit(teacher, axis)).square().mean(dim=(-2, -1)) for axis in (-1, -2)
    )
    student, teacher = ((logits - logits.mean(dim=-2, keepdim=True)).mT for logits in (student, teacher))
    square = gram_difference(student, teacher).square().sum(dim=(-2, -1))
    return by_instance, by_class, safe_root(square) / ((classes - 1) * classes**2)


def loss(
    student: Tensor, teacher: Tensor, target: Tensor | None = None, *, mu: float, nu: float, beta: float
) -> Tensor:
    """mu * (instance + beta * class) + nu * class correlation, per batch.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: not used; accepted so that all logit losses are called alike.
        mu: weight of the instance and class terms.
        nu: weight of the class-correlation term.
        beta: weight of the class term within mu.

    Returns:
        (...), a scalar for one batch.
    """
    by_instance, by_class, by_correlation = terms(student, teacher)
    return mu * (by_instance + beta * by_class) + nu * by_correlation
