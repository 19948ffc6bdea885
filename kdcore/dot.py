"""DOT: Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023, arXiv:2307.08436."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kdcore.sgd import Descent

Gradients = Sequence[Tensor | None]


class DOT(Descent):
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
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.delta = delta

    def minimise(self, task: Tensor, distillation: Tensor | None) -> None:
        """One step on two losses, scalars; without the second it is SGD with momentum."""
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
