"""Optimise by gradient descent with momentum.

These classes are used instead of torch.optim's, because making a torch.optim optimiser imports torch's compiler, which
takes 0.9 to 1.0 s of processor time (torch 2.15) in every process of a serial `dvc repro`. Torch's own kernels do the
arithmetic.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdcore.matrix.train_section import TrainSettings


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


class SGD(Descent):
    """Stochastic gradient descent with momentum; also takes the arguments of `Descent`.

    Args:
        nesterov: whether a step looks ahead along the momentum (Sutskever et al., ICML 2013).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, nesterov: bool, **options: float) -> None:
        super().__init__(parameters, **options)
        self.nesterov = nesterov

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


Gradients = Sequence[Tensor | None]


class DOT(Descent):
    """SGD with separate momenta for the gradients of the task and of distillation (DOT, ICCV 2023, arXiv:2307.08436).

    The task's gradient (with weight decay) has momentum - delta, distillation's has momentum + delta; a step follows
    the sum of both buffers. A parameter that only one of the two losses reaches has the plain momentum.

    Args:
        parameters: what to train; frozen parameters are left out.
        lr: learning rate, > 0.
        momentum: such that momentum - delta >= 0 and momentum + delta < 1.
        delta: half the difference of the two momenta, > 0.
        weight_decay: >= 0, for every parameter.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, delta: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.delta = delta

    def minimise(self, task: Tensor, distillation: Tensor | None) -> None:
        """Take one step on two scalar losses; without a distillation loss this is a step of SGD with momentum."""
        of_task = _gradients(task, self.parameters, keep=distillation is not None)
        of_distillation: Gradients = [None] * len(self.parameters)
        if distillation is not None:
            of_distillation = _gradients(distillation, self.parameters, keep=False)
        with torch.no_grad():
            self._update(of_task, of_distillation)

    def _update(self, of_task: Gradients, of_distillation: Gradients) -> None:
        moved: dict[float, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for i, (task, distillation) in enumerate(zip(of_task, of_distillation, strict=True)):
            parameter = self.parameters[i]
            first, second = (task, distillation) if task is not None else (distillation, None)
            if first is None:
                continue
            apart = 0.0 if second is None else self.delta
            decayed = first.add(parameter, alpha=self.weight_decay)
            for name, gradient, share in (
                ("task", decayed, self.momentum - apart),
                ("apart", second, self.momentum + apart),
            ):
                if gradient is not None:
                    moved.setdefault(share, []).append((parameter, self.buffer(name, i), gradient))
        for share, found in moved.items():
            moving, buffers, gradients = (list(values) for values in zip(*found, strict=True))
            torch._foreach_mul_(buffers, share)
            torch._foreach_add_(buffers, gradients)
            torch._foreach_add_(moving, buffers, alpha=-self.lr)


def _gradients(loss: Tensor, parameters: list[nn.Parameter], *, keep: bool) -> Gradients:
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=keep)


def make_optimizer(settings: TrainSettings, parameters: list[nn.Parameter]) -> SGD | DOT:
    """Make the optimiser that the settings name, with the learning rate of the first epoch."""
    common: dict[str, Any] = {
        "lr": settings.lr,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
    }
    if settings.dot_delta is not None:  # only optimizer dot has one
        return DOT(parameters, delta=settings.dot_delta, **common)
    return SGD(parameters, nesterov=settings.nesterov, **common)


def learning_rate(settings: TrainSettings, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 1.

    With schedule step, the rate is multiplied by lr_decay once the epoch exceeds each milestone. With schedule cosine,
    it falls along half a cosine from lr in epoch 1 to 0 after the last epoch.
    """
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / settings.epochs))
    decays = sum(epoch > milestone for milestone in settings.milestones)
    return settings.lr * (settings.lr_decay**decays if settings.lr_decay is not None else 1.0)
