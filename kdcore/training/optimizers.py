"""Optimise by gradient descent with momentum, and choose the optimiser and the learning rate of every epoch."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.matrix.train_section import TrainSettings
from kdcore.training.adaptive import LAMB, AdamW, undecayed
from kdcore.training.descent import Descent, Stepping


class SGD(Stepping):
    """Stochastic gradient descent with momentum; also takes the arguments of `Descent`.

    Args:
        nesterov: whether a step looks ahead along the momentum (Sutskever et al., ICML 2013).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, nesterov: bool, **options: float) -> None:
        super().__init__(parameters, **options)
        self.nesterov = nesterov

    def step(self) -> None:
        """Move the parameters along their gradients; those without one stay as they are."""
        reached = self.reached()
        with torch.no_grad():
            torch._fused_sgd_(
                [self.parameters[i] for i in reached],
                self.gradients(reached),
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


def make_optimizer(settings: TrainSettings, *trained: nn.Module) -> Stepping | DOT:
    """Make the optimiser that the settings name, with the learning rate of the first epoch.

    Args:
        settings: name the optimiser and its constants.
        trained: the student, and what else is trained beside it.
    """
    parameters = [parameter for module in trained for parameter in module.parameters()]
    if settings.optimizer in ("adamw", "lamb"):
        kept = [parameter for module in trained for parameter in undecayed(module)]
        adaptive = {"adamw": AdamW, "lamb": LAMB}[settings.optimizer]
        return adaptive(
            parameters, lr=settings.lr, betas=settings.moments, weight_decay=settings.weight_decay, undecayed=kept
        )
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

    Over the first `warmup_epochs` it rises along a line from warmup_lr, which it has in epoch 1, towards lr, which the
    line would reach in the epoch after them; that has what the schedule says. With schedule step, the rate is
    multiplied by lr_decay once the epoch exceeds each milestone. With schedule cosine, it falls along half a cosine
    from lr in epoch 1 to 0, or `min_lr`, after the last epoch; a warm-up replaces the cosine's beginning and does not
    shift it, as in timm's `CosineLRScheduler`.
    """
    if settings.warmup_epochs is not None and epoch <= settings.warmup_epochs:
        start = settings.warmup_lr or 0.0
        return start + (epoch - 1) * ((settings.lr - start) / settings.warmup_epochs)
    if settings.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * (epoch - 1) / settings.epochs))
        if settings.min_lr is not None:
            return settings.min_lr + (settings.lr - settings.min_lr) * share
        return settings.lr * share
    decays = sum(epoch > milestone for milestone in settings.milestones)
    return settings.lr * (settings.lr_decay**decays if settings.lr_decay is not None else 1.0)
