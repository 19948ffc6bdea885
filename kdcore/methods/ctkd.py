"""CTKD: Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv:2211.16231.

The loss is T^2 * KL(softmax(teacher / T) || softmax(student / T)) with T = t_start + t_range * sigmoid(theta),
whose gradient is reversed. Logits (..., C) -> (...), in nats.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.methods import kd
from kdcore.methods.contract import Setting
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {
    "t_start": "> 0",
    "t_range": ">= 0",
    "curriculum": "integer >= 1",
    "variant": ["global", "instance"],
}
HIDDEN = 64


@at_least_float32
def loss(student: Tensor, teacher: Tensor, target: Tensor | None = None, *, temperature: Tensor) -> Tensor:
    """KD with a temperature that may be trained, and may differ between samples.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: not used; accepted so that all logit losses are called alike.
        temperature: T, scalar or (...); gets a gradient, through T^2 too.

    Returns:
        (...).
    """
    scale = temperature.unsqueeze(-1)
    return temperature**2 * kd.loss(student / scale, teacher / scale, temperature=1.0)


def reversal(epoch: int, curriculum: int) -> float:
    """Factor of the temperature's gradient: from 0 (before epoch 1) to -1 along half a cosine."""
    return -(1 - math.cos(math.pi * min(epoch / curriculum, 1))) / 2


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


class Adapter(nn.Module):
    """The temperature t_start + t_range * sigmoid(theta), trained to make distillation harder.

    Args:
        setting: the number of classes.
        t_start: lower bound of the temperature.
        t_range: how far it may rise.
        curriculum: epochs over which the reversal of theta's gradient grows to its full strength.
        variant: "global" trains one theta, from 1. "instance" trains a network of one hidden layer that gives a theta
            for each sample (and region) from both networks' logits, which get no gradient from it.
    """

    def __init__(self, setting: Setting, *, t_start: float, t_range: float, curriculum: int, variant: str) -> None:
        super().__init__()
        self.t_start, self.t_range, self.curriculum = t_start, t_range, curriculum
        self.theta: nn.Parameter | nn.Module
        if variant == "global":
            self.theta = nn.Parameter(torch.ones(()))
        else:
            inputs = 2 * setting.student.logits.shape[-1]
            self.theta = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Flatten(-2))

    def prepare(self, target: Tensor, *, epoch: int, generator: torch.Generator) -> float:
        """Return the factor of theta's gradient in an epoch."""
        return reversal(epoch, self.curriculum)

    def temperature(self, student: Tensor, teacher: Tensor, factor: float) -> Tensor:
        """Compute T: a scalar, or (...) for logits (..., C); theta's gradient is multiplied by the factor."""
        theta = self.theta
        if isinstance(theta, nn.Module):
            theta = theta(torch.cat([student.detach(), teacher], dim=-1))
        reversed_theta = _Reverse.apply(theta, factor)
        return self.t_start + self.t_range * torch.sigmoid(reversed_theta)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, *, prepared: float) -> Tensor:
        """Compute the `loss` at the current temperature: (..., C), (..., C), (...) -> (...)."""
        return loss(student, teacher, target, temperature=self.temperature(student, teacher, prepared))
