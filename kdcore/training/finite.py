"""Refuse losses, weights and logits that are not finite, and say in which epoch and step of which run they began."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from kdcore.system.errors import RunError

LARGEST = 1e6
"""The largest weight or bias of a sound network: beyond it a gradient has exploded. Weights of trained networks,
published ones included, stay below 100.
"""
ADVICE = "Lower train.lr or the method's weights, or set train.grad_clip_norm"


class NotFiniteError(RunError):
    """A loss is NaN or infinite, or a weight is, or is absurdly large; the message names the run, epoch, step and the
    last finite values.
    """


@dataclass(frozen=True)
class Losses:
    """The losses of an epoch's steps."""

    run: str
    """Name of the cell or teacher."""
    epoch: int
    """Counted from 1."""
    names: Sequence[str]
    values: Tensor
    """(losses, steps) on the CPU; the first is what is minimised."""

    def check(self) -> None:
        """Refuse losses that are not finite."""
        broken = ~torch.isfinite(self.values).all(dim=0)
        if broken.any():
            step = int(broken.nonzero()[0, 0])
            before = self._of_step(step - 1) if step else "none in this epoch"
            raise NotFiniteError(
                f"{self.run}: epoch {self.epoch}, step {step + 1} of {self.values.shape[1]}: {self._of_step(step)}; "
                f"the last finite ones: {before}. {ADVICE}"
            )

    def check_weights(self, parts: Iterable[nn.Module], by_design: Iterable[str] = ()) -> None:
        """Refuse weights of a run that have exploded in the epoch.

        A loss shows an explosion in the step after it, so that of the last step shows here alone; and batch norm hides
        weights that are finite, but so large that no gradient moves them any more.

        Args:
            parts: the student first, of which buffers are checked too, then its objective.
            by_design: names of buffers that `infinite_buffers` found before training.
        """
        student, *others = parts
        weights = {name: value for part in (student, *others) for name, value in part.named_parameters()}
        buffers = {name: value for name, value in student.named_buffers() if name not in by_design}
        if fault := _beyond(weights, LARGEST) or _beyond(buffers, sys.float_info.max):
            self.refuse(fault)

    def refuse(self, fault: str) -> NoReturn:
        """Raise the error for a fault that showed after the epoch, whose losses are finite."""
        worst, steps = int(self.values[0].argmax()), self.values.shape[1]
        raise NotFiniteError(
            f"{self.run}: epoch {self.epoch}, after step {steps} of {steps}: {fault}; the losses are finite: "
            f"{self._of_step(-1)}; where the loss was largest, in step {worst + 1}: {self._of_step(worst)}. {ADVICE}"
        )

    def _of_step(self, step: int) -> str:
        values = self.values[:, step].tolist()
        return ", ".join(f"{name} {value:.6g}" for name, value in zip(self.names, values, strict=True))


def infinite_buffers(network: nn.Module) -> set[str]:
    """Name the buffers with infinities by design, such as attention masks."""
    return {name for name, value in network.named_buffers() if _beyond({name: value}, sys.float_info.max)}


def _beyond(tensors: Mapping[str, Tensor], limit: float) -> str | None:
    """The first tensor that holds a value which is no number, or larger than the limit, for a message."""
    for name, value in tensors.items():
        if not value.is_floating_point() or not value.numel():
            continue
        if not (largest := value.detach().abs().max().item()) <= limit:
            return f"{name} holds {largest:.3g}"
    return None
