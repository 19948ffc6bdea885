"""WKD-L: Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024,
arXiv:2412.08139; its loss of logits.

The loss is -p_t(y) log p_s(y) of the target y, plus gamma times what it costs to move the student's softmax over the
other classes to the teacher's (entropic optimal transport). Logits (..., C), target (...), cost (C, C) -> (...).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.methods import _class_cost
from kdcore.methods._schedule import factor
from kdcore.methods.contract import Setting
from kdcore.numerics import at_least_float32

KIND = "logit"
PARAMETERS = {
    "temperature": "> 0",
    "gamma": ">= 0",
    "sinkhorn_reg": "> 0",
    "sinkhorn_iterations": "integer >= 1",
    "cost": ["cka_map", "cka_logits", "classifier"],
    "sharpen": "> 0",
    "gamma_decay_from": "[0, 1]",
}
NEEDS_WITH = {"cost": {"cka_map": ["teacher.stages"], "classifier": ["teacher.classifier"]}}
EPSILON = 1e-8


@at_least_float32
def terms(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    cost: Tensor,
    *,
    temperature: float,
    sinkhorn_reg: float,
    sinkhorn_iterations: int,
    eps: float = EPSILON,
) -> tuple[Tensor, Tensor]:
    """The target's cross-entropy, in nats, and the cost of transport over the other classes, each (...).

    Arguments as in `loss`. The target's class stays in all vectors with no mass, which is the same as removing it: its
    scaling factors are 0 in every iteration.
    """
    is_target = F.one_hot(target, student.shape[-1]).bool()
    log_student, log_teacher = (F.log_softmax(logits, dim=-1) for logits in (student, teacher))
    index = target.unsqueeze(-1)
    of_target = -(log_teacher.gather(-1, index).exp() * log_student.gather(-1, index)).squeeze(-1)

    source, goal = (
        (logits / temperature).masked_fill(is_target, -float("inf")).softmax(dim=-1) for logits in (student, teacher)
    )
    cost = cost.to(student).clamp(min=0) + eps
    kernel = torch.exp(-cost / sinkhorn_reg)
    scale_source = (~is_target).to(source) / (student.shape[-1] - 1)
    for _ in range(sinkhorn_iterations):
        scale_goal = goal / (scale_source @ kernel + eps)
        scale_source = source / (scale_goal @ kernel.mT + eps)
    return of_target, ((scale_source @ (kernel * cost)) * scale_goal).sum(dim=-1)


def loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    cost: Tensor,
    *,
    temperature: float,
    gamma: float,
    sinkhorn_reg: float,
    sinkhorn_iterations: int,
    eps: float = EPSILON,
) -> Tensor:
    """The target's cross-entropy plus gamma times the transport cost, per sample.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).
        target: class indices (...).
        cost: (C, C), of moving probability from a class (row) to another (column); negative costs count as 0.
        temperature: of the softmaxes over the other classes, dimensionless; the target's term has temperature 1, and
            nothing is multiplied by its square.
        gamma: weight of the transport cost.
        sinkhorn_reg: weight of the entropy, in the cost's unit.
        sinkhorn_iterations: how often both marginals are matched; gradients run through all iterations.
        eps: added to costs and denominators. It matters where costs are far above `sinkhorn_reg`.

    Returns:
        (...).
    """
    of_target, transport = terms(
        student,
        teacher,
        target,
        cost,
        temperature=temperature,
        sinkhorn_reg=sinkhorn_reg,
        sinkhorn_iterations=sinkhorn_iterations,
        eps=eps,
    )
    return of_target + gamma * transport


class Adapter(nn.Module):
    """The cost that the teacher gives, which is no trained part, and the epoch's gamma.

    Args:
        setting: the teacher, its outputs for the training images, their classes, and the epochs.
        temperature: see `loss`.
        gamma: see `loss`; its value at the beginning.
        sinkhorn_reg: see `loss`.
        sinkhorn_iterations: see `loss`.
        cost: where the cost comes from, see `kdcore.methods._class_cost.of_teacher`.
        sharpen: s of the cost 1 - exp(-s * distance).
        gamma_decay_from: the share of the epochs after which gamma falls to 0 along half a cosine; 1 is never.
    """

    cost: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        temperature: float,
        gamma: float,
        sinkhorn_reg: float,
        sinkhorn_iterations: int,
        cost: str,
        sharpen: float,
        gamma_decay_from: float,
    ) -> None:
        super().__init__()
        self.gamma, self.gamma_decay_from, self.epochs = gamma, gamma_decay_from, setting.epochs
        self.options: dict[str, Any] = {
            "temperature": temperature,
            "sinkhorn_reg": sinkhorn_reg,
            "sinkhorn_iterations": sinkhorn_iterations,
        }
        self.register_buffer("cost", _class_cost.sharpened(_class_cost.of_teacher(setting, cost), sharpen))

    def prepare(self, target: Tensor, *, epoch: int, generator: torch.Generator) -> float:
        """Return the epoch's gamma."""
        return self.gamma * factor("cosine", epoch, self.epochs, decay_from=self.gamma_decay_from)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, *, prepared: float) -> Tensor:
        """Compute the `loss` with the epoch's gamma: (..., C), (..., C), (...) -> (...)."""
        return loss(student, teacher, target, self.cost, gamma=prepared, **self.options)
