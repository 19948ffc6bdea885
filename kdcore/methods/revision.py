"""REVISION: Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, IEEE TCDS 2025,
arXiv:2404.03693; the form that RLD compares with, there called LR, without the selection of data.

The loss is cross-entropy + lambda1 * squared error of the logits, where the teacher is right, + lambda2 * squared error
of the probabilities from revised ones, where it is wrong. Logits (..., B, C) and target (..., B) -> (...).
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from kdcore.numerics import at_least_float32

KIND = "logit"
ACROSS = "batch"
PARAMETERS = {"lambda1": ">= 0", "lambda2": ">= 0", "eta": "[0, 1)"}
TARGET = "refused"
CROSS_ENTROPY = "inside"


class Terms(NamedTuple):
    """The parts of the loss, each (...): means over those samples of the batch that it concerns, 0 without any."""

    right_ce: Tensor
    """Cross-entropy of the samples that the teacher has right, in nats."""
    mse_right: Tensor
    """Mean over classes of their logits' squared differences."""
    mse_wrong: Tensor
    """The same of the probabilities of all other samples, from the teacher's revised ones."""


def right(teacher: Tensor, target: Tensor) -> Tensor:
    """Whether the teacher's largest logit is the target's: (..., B, C), (..., B) -> (..., B)."""
    return teacher.argmax(dim=-1) == target


def revised(teacher: Tensor, target: Tensor, *, eta: float) -> Tensor:
    """The teacher's probabilities (..., C), mixed with as much of the label as makes the target's the largest."""
    probabilities = teacher.softmax(dim=-1)
    of_target = probabilities.gather(-1, target.unsqueeze(-1))
    share = eta / (probabilities.amax(dim=-1, keepdim=True) - of_target + 1)
    return share * probabilities + (1 - share) * F.one_hot(target, teacher.shape[-1])


@at_least_float32
def terms(student: Tensor, teacher: Tensor, target: Tensor, *, eta: float) -> Terms:
    """The three terms, unweighted. Arguments as in `loss`."""
    log_student = F.log_softmax(student, dim=-1)
    cross_entropy = -log_student.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    of_logits = (student - teacher).square().mean(dim=-1)
    of_probabilities = (log_student.exp() - revised(teacher, target, eta=eta)).square().mean(dim=-1)
    kept = right(teacher, target)
    return Terms(_mean(cross_entropy, kept), _mean(of_logits, kept), _mean(of_probabilities, ~kept))


def loss(student: Tensor, teacher: Tensor, target: Tensor, *, lambda1: float, lambda2: float, eta: float) -> Tensor:
    """right_ce + lambda1 * mse_right + lambda2 * mse_wrong of `terms`, per batch.

    It is the whole training loss: samples that the teacher has wrong get no cross-entropy.

    Args:
        student: logits (..., B, C).
        teacher: logits (..., B, C).
        target: class indices (..., B).
        lambda1: weight of the squared error of the logits.
        lambda2: weight of the squared error of the probabilities.
        eta: share of the teacher in the revised probabilities, for a target whose probability is the largest.

    Returns:
        (...), a scalar for one batch.
    """
    found = terms(student, teacher, target, eta=eta)
    return found.right_ce + lambda1 * found.mse_right + lambda2 * found.mse_wrong


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean over the samples kept, (..., B), (..., B) -> (...); 0 without any."""
    return (values * kept).sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)
