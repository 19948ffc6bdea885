"""MLKD: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.

The loss is KL of the weak view + KL of the strong view + class correlation + batch correlation, each summed over
five temperatures. Logits (..., B, C) of both views -> (...), the first two terms in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcore.methods import kd
from kdcore.methods._confidence import unsure
from kdcore.methods._gram import gram_difference
from kdcore.numerics import at_least_float32
from kdcore.standardize import standardize as standardized

KIND = "logit"
ACROSS = "batch"
VIEWS = ["weak", "strong"]
PARAMETERS = {"temperature": "> 0", "variant": ["as_published", "as_written"]}
FIXED_TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
WEAK_IN_PUBLISHED_STRONG_TERM = (2.0, 6.0)


class Terms(NamedTuple):
    """The parts of the loss, each (...)."""

    kd_weak: Tensor
    """Per sample: KL divergence of the weak view's predictions."""
    kd_strong: Tensor
    """Per sample: KL divergence of the strong view's predictions."""
    cc: Tensor
    """Classes: squared difference of the C x C correlations of the predictions, divided by C."""
    bc: Tensor
    """Batch: squared difference of the B x B correlations of the predictions, divided by B."""


@at_least_float32
def terms(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    *,
    temperature: float,
    standardize: bool = False,
    variant: str = "as_published",
    fixed_temperatures: tuple[float, ...] = FIXED_TEMPERATURES,
) -> Terms:
    """The four terms, each summed over the temperatures. Arguments as in `loss`, and the temperatures but the first."""
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    samples, classes = (mask.to(student_weak.dtype) for mask in unsure(teacher_weak))
    if variant == "as_published":
        samples, classes = (mask.mean(dim=-1, keepdim=True).expand_as(mask) for mask in (samples, classes))
    kl_weak, kl_strong = (tuple(map(standardized, view)) if standardize else view for view in (weak, strong))
    temperatures = (temperature, *fixed_temperatures)
    found = []
    for t in dict.fromkeys(temperatures):
        times = temperatures.count(t)
        mixed_up = 1 if variant == "as_published" and t in WEAK_IN_PUBLISHED_STRONG_TERM else 0
        predictions = [(logits / t).log_softmax(dim=-1) for logits in weak]
        divergence = kd.loss(*kl_weak, temperature=t) if standardize else t**2 * kd.divergence(*predictions)
        of_strong = mixed_up * divergence
        if times > mixed_up:
            of_strong = of_strong + (times - mixed_up) * kd.loss(*kl_strong, temperature=t)
        student, teacher = (prediction.exp() for prediction in predictions)
        by_class = _weighted_square(gram_difference(student.mT, teacher.mT), times * classes) / student.shape[-1]
        by_sample = _weighted_square(gram_difference(student, teacher), times * samples) / student.shape[-2]
        of_weak = (divergence * times * samples).mean(dim=-1)
        found.append(Terms(of_weak, of_strong.mean(dim=-1), by_class, by_sample))
    return Terms(*(torch.stack(parts).sum(dim=0) for parts in zip(*found, strict=True)))


def loss(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float,
    kd_weight: float = 1.0,
    standardize: bool = False,
    variant: str = "as_published",
) -> Tensor:
    """Sum of the four terms of `terms`, per batch.

    Args:
        student_weak: logits (..., B, C) of the weakly augmented images.
        student_strong: logits (..., B, C) of the strongly augmented images.
        teacher_weak: the teacher's logits (..., B, C) of the weakly augmented images.
        teacher_strong: the teacher's logits (..., B, C) of the strongly augmented images.
        target: not used; accepted so that all logit losses are called alike.
        temperature: the first of five, the others are fixed.
        kd_weight: weight of the sum.
        standardize: z-score the logits of the KL terms; the correlations take them as they are, as in LSKD.
        variant: "as_written" keeps the samples (for KL and the batch's correlation, rows) and the classes (rows)
            of which the teacher is unsure. "as_published" reduces before it masks, so that each mask acts as its mean,
            and takes the weak view in the strong term at the fixed temperatures 2 and 6.

    Returns:
        (...), a scalar for one batch.
    """
    views = student_weak, student_strong, teacher_weak, teacher_strong
    found = terms(*views, temperature=temperature, standardize=standardize, variant=variant)
    return kd_weight * (found.kd_weak + found.kd_strong + found.cc + found.bc)


def _weighted_square(difference: Tensor, weights: Tensor) -> Tensor:
    """Sum of the squares of (..., K, K), rows weighted by (..., K)."""
    return (difference.square().sum(dim=-1) * weights).sum(dim=-1)
