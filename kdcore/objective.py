"""What a cell minimises: cross-entropy plus the method's loss, composed of three independent parts.

For logit methods: the per-sample loss, of standardised or plain logits (LSKD), over the regions of a pyramid (SDD).
Every method takes every combination; M=[1] without standardisation is the plain method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import methods
from kdcore.networks.contract import Output
from kdcore.precision import at_least_float32
from kdcore.scales import decouple, pyramid_logits
from kdcore.standardize import standardize

COMMON = ("ce_weight", "kd_weight", "warmup", "complementary_weight")
PLAIN = (1,)


@dataclass(frozen=True)
class Parts:
    """The terms of a loss, scalars."""

    loss: Tensor
    """What is minimised."""
    ce: Tensor
    """Cross-entropy, unweighted."""
    kd: Tensor
    """The method's loss, unweighted; 0 for the student trained alone."""


class Objective:
    """The loss of one cell.

    Args:
        method: name of a method, or None for the student trained alone.
        recipe: the method's parameters with ce_weight, kd_weight (times min(epoch / warmup, 1)), warmup (epochs),
            and complementary_weight where regions are decoupled.
        levels: pyramid levels of a logit method; (1,) is the network's own logits.
        stand: whether logits are standardised.
        heads: the linear classifiers of student and teacher, for the logits of regions.
    """

    def __init__(
        self,
        method: str | None,
        recipe: Mapping[str, Any],
        *,
        levels: tuple[int, ...] = PLAIN,
        stand: bool = False,
        heads: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        if levels != PLAIN and heads is None:
            raise ValueError(f"levels {levels} need the classifiers of student and teacher")
        self.method = methods.get(method) if method else None
        self.recipe = recipe
        self.parameters = {key: value for key, value in recipe.items() if key not in COMMON}
        self.levels = levels
        self.stand = stand
        self.heads = heads

    def kd_weight(self, epoch: int) -> float:
        """Weight of the method's loss in an epoch, counted from 1."""
        warmup = self.recipe["warmup"]
        return self.recipe["kd_weight"] * (min(epoch / warmup, 1.0) if warmup else 1.0)

    def __call__(self, student: Output, teacher: Output | None, target: Tensor, *, epoch: int) -> Parts:
        """The loss of a batch.

        Args:
            student: its outputs for B images.
            teacher: the same, without gradients; None for the student trained alone.
            target: class indices (B,).
            epoch: counted from 1, for the warm-up.
        """
        (logits,) = at_least_float32(student.logits)
        ce = F.cross_entropy(logits, target)
        if self.method is None or teacher is None:
            return Parts(self.recipe["ce_weight"] * ce, ce, ce.new_zeros(()))
        if self.method.KIND == "feature":
            kd = self.method.distill(student, teacher, **self.parameters)
        else:
            kd = self._logit_loss(self.method.loss, student, teacher, target)
        return Parts(self.recipe["ce_weight"] * ce + self.kd_weight(epoch) * kd, ce, kd)

    def _logit_loss(
        self, per_sample_loss: Callable[..., Tensor], student: Output, teacher: Output, target: Tensor
    ) -> Tensor:
        logits_student, logits_teacher = self._regions(student, 0), self._regions(teacher, 1)
        predictions = logits_teacher
        if self.stand:
            logits_student, logits_teacher = standardize(logits_student), standardize(logits_teacher)
        regions = target[:, None].expand(predictions.shape[:2])
        per_region = per_sample_loss(logits_student, logits_teacher, regions, **self.parameters)
        if self.levels == PLAIN:
            return per_region.mean()
        return decouple(
            per_region,
            predictions,
            target,
            complementary_weight=self.recipe["complementary_weight"],
            teacher_global=None if self.levels[0] == 1 else teacher.logits,
        )

    def _regions(self, output: Output, role: int) -> Tensor:
        """Logits (B, N, C) of the regions that the levels name; role 0 is the student, 1 the teacher."""
        if self.heads is None or self.levels == PLAIN:
            return output.logits[:, None]
        return pyramid_logits(output.final_map, self.heads[role], self.levels)
