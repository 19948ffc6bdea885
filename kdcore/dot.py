"""DOT: Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023, arXiv:2307.08436."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Gradients = Sequence[Tensor | None]


class DOT(torch.optim.Optimizer):
    """SGD with separate momenta for the gradients of the task and of distillation.

    The task's gradient (with weight decay) has momentum - delta, distillation's momentum + delta; a step goes along
    the sum of both buffers. A parameter that only one of the two losses reaches has the plain momentum.

    Args:
        parameters: what is trained.
        lr: learning rate, > 0.
        momentum: with momentum - delta >= 0 and momentum + delta < 1.
        delta: > 0.
        weight_decay: >= 0.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, delta: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        super().__init__(list(parameters), defaults)

    def minimise(self, task: Tensor, distillation: Tensor | None) -> None:
        """One step on two losses, scalars; without the second it is SGD with momentum."""
        for group in self.param_groups:
            parameters: list[nn.Parameter] = [found for found in group["params"] if found.requires_grad]
            of_task = _gradients(task, parameters, keep=distillation is not None)
            of_distillation: Gradients = [None] * len(parameters)
            if distillation is not None:
                of_distillation = _gradients(distillation, parameters, keep=False)
            with torch.no_grad():
                self._update(group, parameters, of_task, of_distillation)

    def _update(
        self, group: dict[str, Any], parameters: list[nn.Parameter], of_task: Gradients, of_distillation: Gradients
    ) -> None:
        momentum, delta = group["momentum"], group["delta"]
        moved: dict[float, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for parameter, task, distillation in zip(parameters, of_task, of_distillation, strict=True):
            first, second = (task, distillation) if task is not None else (distillation, None)
            if first is None:
                continue
            apart = 0.0 if second is None else delta
            decayed = first.add(parameter, alpha=group["weight_decay"])
            for name, gradient, share in (("task", decayed, momentum - apart), ("apart", second, momentum + apart)):
                if gradient is not None:
                    buffer = self.state[parameter].setdefault(name, torch.zeros_like(parameter))
                    moved.setdefault(share, []).append((parameter, buffer, gradient))
        for share, found in moved.items():
            moving, buffers, gradients = (list(values) for values in zip(*found, strict=True))
            torch._foreach_mul_(buffers, share)
            torch._foreach_add_(buffers, gradients)
            torch._foreach_add_(moving, buffers, alpha=-group["lr"])


def _gradients(loss: Tensor, parameters: list[nn.Parameter], *, keep: bool) -> Gradients:
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=keep)
