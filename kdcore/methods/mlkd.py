"""MLKD: Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcore.methods import kd
from kdcore.methods._confidence import unsure
from kdcore.precision import at_least_float32
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
    """The same of the strong view."""
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
) -> Terms:
    """The four terms, each summed over five temperatures. Arguments as in `loss`."""
    samples, classes = (mask.to(student_weak.dtype) for mask in unsure(teacher_weak))
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    kl_weak, kl_strong = ((standardized(s), standardized(t)) if standardize else (s, t) for s, t in (weak, strong))
    found = []
    for i, t in enumerate((temperature, *FIXED_TEMPERATURES)):
        divergence = kd.loss(*kl_weak, temperature=t)
        mixed_up = variant == "as_published" and i > 0 and t in WEAK_IN_PUBLISHED_STRONG_TERM
        kd_strong = (divergence if mixed_up else kd.loss(*kl_strong, temperature=t)).mean(dim=-1)
        cc, bc = _correlations(*weak, t)
        if variant == "as_published":
            share = samples.mean(dim=-1)
            kd_weak = divergence.mean(dim=-1) * share
            cc, bc = cc.sum(dim=(-2, -1)) * classes.mean(dim=-1), bc.sum(dim=(-2, -1)) * share
        else:
            kd_weak = (divergence * samples).mean(dim=-1)
            cc, bc = (cc.sum(dim=-1) * classes).sum(dim=-1), (bc.sum(dim=-1) * samples).sum(dim=-1)
        found.append(Terms(kd_weak, kd_strong, cc / student_weak.shape[-1], bc / student_weak.shape[-2]))
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
        student_strong: of the strongly augmented ones.
        teacher_weak: the teacher's.
        teacher_strong: the teacher's.
        target: not used; accepted so that all logit losses are called alike.
        temperature: the first of five, the others are fixed.
        kd_weight: of the whole.
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


def _correlations(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Squared differences of the predictions' correlations between classes (..., C, C) and samples (..., B, B)."""
    student, teacher = (student / temperature).softmax(dim=-1), (teacher / temperature).softmax(dim=-1)
    difference, total = student - teacher, student + teacher
    between_classes, between_samples = difference.mT @ total, difference @ total.mT  # as in kdcore.methods.clkd
    return ((between_classes + between_classes.mT) / 2).square(), ((between_samples + between_samples.mT) / 2).square()
