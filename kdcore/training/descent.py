"""Base classes of optimisers: the parameters, what is remembered of past gradients, and a step on a scalar loss.

These classes are used instead of torch.optim's, because making a torch.optim optimiser imports torch's compiler, which
takes 0.9 to 1.0 s of processor time (torch 2.15) in every process of a serial `dvc repro`. Torch's own kernels do the
arithmetic.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Descent:
    """Base class of optimisers with momentum: it holds the parameters, and buffers that remember past gradients.

    Args:
        parameters: what to train; frozen parameters are left out.
        lr: learning rate, > 0; may be changed between steps.
        momentum: in [0, 1).
        weight_decay: >= 0, for every parameter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.buffers: dict[str, dict[int, Tensor]] = {}

    def buffer(self, name: str, position: int) -> Tensor:
        """Return the buffer of this name for the parameter at this position: a tensor of its shape, zeros at first."""
        of_name = self.buffers.setdefault(name, {})
        if position not in of_name:
            of_name[position] = torch.zeros_like(self.parameters[position])
        return of_name[position]

    def state_dict(self) -> dict[str, Any]:
        """Return the buffers, name -> position of the parameter -> tensor, for `load_state_dict`."""
        return self.buffers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the buffers of another optimiser of the same parameters, from its `state_dict`."""
        self.buffers = {
            name: {position: value.to(self.parameters[position].device) for position, value in of_name.items()}
            for name, of_name in state.items()
        }


class Stepping(Descent):
    """Base class of optimisers that follow the gradient of one loss; also takes the arguments of `Descent`."""

    def minimise(
        self,
        loss: Tensor,
        *,
        longest: float | None = None,
        average: Callable[[Sequence[nn.Parameter]], None] | None = None,
    ) -> None:
        """Compute the gradients of a loss, and take one step.

        Args:
            loss: scalar.
            longest: the largest allowed norm of the gradient of all parameters together, to which a longer one is
                scaled down; None sets no limit.
            average: is called with the parameters once they have gradients, to average these over several processes.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if average is not None:
            average(self.parameters)
        if longest is not None:
            nn.utils.clip_grad_norm_(self.parameters, longest)
        self.step()

    def step(self) -> None:
        """Move the parameters along their gradients; those without one stay as they are."""
        raise NotImplementedError

    def reached(self) -> list[int]:
        """List the positions of the parameters that have a gradient."""
        return [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]

    def gradients(self, positions: Sequence[int]) -> list[Tensor]:
        """Return the gradients of the parameters at these positions, which have one."""
        return [cast(Tensor, self.parameters[i].grad) for i in positions]
