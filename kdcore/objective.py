"""What a cell minimises: cross-entropy plus the method's loss, composed of three independent parts.

For logit methods: the per-sample loss, of standardised or plain logits (LSKD), over the regions of a pyramid (SDD).
Every method takes every combination; M=[1] without standardisation is the plain method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import methods
from kdcore.networks.output import Output
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
    """

    def __init__(
        self,
        method: str | None,
        recipe: Mapping[str, Any],
        *,
        levels: tuple[int, ...] = PLAIN,
        stand: bool = False,
    ) -> None:
        self.method = methods.get(method) if method else None
        self.recipe = recipe
        self.parameters = {key: value for key, value in recipe.items() if key not in COMMON}
        self.levels = levels
        self.stand = stand

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher has to look at the images."""
        return self.method is not None

    def kd_weight(self, epoch: int) -> float:
        """Weight of the method's loss in an epoch, counted from 1."""
        warmup = self.recipe["warmup"]
        return self.recipe["kd_weight"] * (min(epoch / warmup, 1.0) if warmup else 1.0)

    def __call__(
        self,
        student: Output,
        teacher: Output | None,
        target: Tensor,
        *,
        epoch: int,
        classifiers: tuple[nn.Module, nn.Module | None],
    ) -> Parts:
        """The loss of a batch.

        Args:
            student: its outputs for B images.
            teacher: the same, without gradients; None where `needs_teacher` is false.
            target: class indices (B,).
            epoch: counted from 1, for the warm-up.
            classifiers: the linear heads of student and teacher, for logits of regions.
        """
        ce = F.cross_entropy(student.logits.float(), target)
        if self.method is None or teacher is None:
            return Parts(self.recipe["ce_weight"] * ce, ce, ce.new_zeros(()))
        if self.method.KIND == "feature":
            kd = self.method.distill(student, teacher, **self.parameters)
        else:
            kd = self._logit_loss(student, teacher, target, classifiers)
        return Parts(self.recipe["ce_weight"] * ce + self.kd_weight(epoch) * kd, ce, kd)

    def _logit_loss(
        self,
        student: Output,
        teacher: Output,
        target: Tensor,
        classifiers: tuple[nn.Module, nn.Module | None],
    ) -> Tensor:
        assert self.method is not None
        logits_student, logits_teacher = (
            self._regions(output, head) for output, head in zip((student, teacher), classifiers, strict=True)
        )
        regions = target[:, None].expand(logits_teacher.shape[:2])
        predictions = logits_teacher
        if self.stand:
            logits_student, logits_teacher = standardize(logits_student), standardize(logits_teacher)
        per_region = self.method.loss(logits_student, logits_teacher, regions, **self.parameters)
        if self.levels == PLAIN:
            return per_region.mean()
        return decouple(
            per_region,
            predictions,
            target,
            complementary_weight=self.recipe["complementary_weight"],
            teacher_global=None if self.levels[0] == 1 else teacher.logits,
        )

    def _regions(self, output: Output, classifier: nn.Module | None) -> Tensor:
        """Logits (B, N, C) of the regions that the levels name."""
        if self.levels == PLAIN:
            return output.logits[:, None]
        assert classifier is not None
        return pyramid_logits(output.final_map, classifier, self.levels)
