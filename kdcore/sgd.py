"""Gradient descent with momentum.

Not torch.optim's: the first optimiser that a process makes imports torch's compiler, which took 1.8 s of the 4.4 s
until a cell's first step (2 cores, torch 2.15). The arithmetic is torch's own kernel.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn


class Descent:
    """What optimisers with momentum share: their parameters and what they remember of past gradients.

    Args:
        parameters: what is trained; frozen ones are left out.
        lr: learning rate, > 0; may be changed between steps.
        momentum: in [0, 1).
        weight_decay: >= 0, of every parameter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.buffers: dict[str, dict[int, Tensor]] = {}

    def buffer(self, name: str, position: int) -> Tensor:
        """What is remembered under a name for the parameter at a position; zeros in the beginning."""
        of_name = self.buffers.setdefault(name, {})
        if position not in of_name:
            of_name[position] = torch.zeros_like(self.parameters[position])
        return of_name[position]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` restores."""
        return self.buffers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what another optimiser of the same parameters did."""
        self.buffers = {
            name: {position: value.to(self.parameters[position].device) for position, value in of_name.items()}
            for name, of_name in state.items()
        }


class SGD(Descent):
    """Stochastic gradient descent (see `Descent`).

    Args:
        nesterov: whether a step looks ahead along the momentum (Sutskever et al., ICML 2013).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, nesterov: bool, **options: float) -> None:
        super().__init__(parameters, **options)
        self.nesterov = nesterov

    def minimise(self, loss: Tensor, *, longest: float | None = None) -> None:
        """One step on a loss, a scalar; a gradient (of all parameters) longer than `longest` is shortened to it."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if longest is not None:
            nn.utils.clip_grad_norm_(self.parameters, longest)
        self.step()

    def step(self) -> None:
        """Move the parameters along their gradients; those without one stay as they are."""
        reached = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        with torch.no_grad():
            torch._fused_sgd_(
                [self.parameters[i] for i in reached],
                [cast(Tensor, self.parameters[i].grad) for i in reached],
                [self.buffer("momentum", i) for i in reached if self.momentum],
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=0.0,
                nesterov=self.nesterov,
                maximize=False,
                is_first_step=False,
            )
