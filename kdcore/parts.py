"""What an objective is given of a batch, and the terms of the loss that it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdcore.networks.contract import Output


class TeacherLogits(NamedTuple):
    """What a table holds of a teacher's outputs for B images: all that logit methods ask for."""

    logits: Tensor
    """(B, C), of the whole image."""
    grid: Tensor | None
    """(B, 16, C), of the cells of the 4 x 4 grid; None where no regions are asked for."""


TeacherOutput = Output | TeacherLogits
"""What an objective may know of a teacher's view of a batch."""


@dataclass(frozen=True)
class BatchContext:
    """When a batch is seen, and which images it holds; methods that remember or draw need it."""

    index: Tensor
    """(B,) int64, positions of the images in the training set."""
    epoch: int
    """Counted from 1."""
    generator: torch.Generator
    """On the device, for what methods draw; determined by seed and epoch."""


class Lesson(NamedTuple):
    """What the losses of a batch of B images are computed from, beside the student's outputs."""

    teacher: Sequence[TeacherOutput]
    """The teacher's outputs, one per view, without gradients; empty for a network trained alone."""
    target: Tensor
    """(B,) int64, class indices."""
    context: BatchContext | None
    """Which images these are, and when; None only where no method asks for it."""
    soft: Tensor | None
    """(B, C), the shares of the classes in mixed images, which cross-entropy sees instead of `target`."""
    prepared: Mapping[str, Any]
    """What each method has drawn for the batch, or takes from the epoch, by its name (see
    `kdcore.methods.contract`)."""


@dataclass(frozen=True)
class Parts:
    """The terms of a loss, scalars."""

    task: Tensor
    """Cross-entropy, weighted."""
    distillation: Tensor | None
    """The weighted sum of the methods' losses; None for the student trained alone."""
    ce: Tensor
    """Cross-entropy, unweighted; the sum over views."""
    losses: dict[str, Tensor]
    """Each method's loss by its name, unweighted."""

    @property
    def loss(self) -> Tensor:
        """What is minimised."""
        return self.task if self.distillation is None else self.task + self.distillation
