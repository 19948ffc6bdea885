"""Optimise with a step for every weight that its past gradients scale: AdamW and LAMB, as timm's recipes use them."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdcore.training.descent import Stepping


class Adaptive(Stepping):
    """Base class of optimisers that remember the first two moments of every gradient.

    Args:
        parameters: what to train; frozen parameters are left out.
        lr: learning rate, > 0; may be changed between steps.
        betas: the shares of the old moments, first and second, in the new ones, in [0, 1).
        weight_decay: >= 0, for the parameters that are not `undecayed`.
        undecayed: parameters without weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        undecayed: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=0.0, weight_decay=weight_decay)
        self.betas = betas
        self.undecayed = {id(parameter) for parameter in undecayed}

    def groups(self) -> Iterator[tuple[float, list[int]]]:
        """Yield the weight decay of the parameters that have gradients, and their positions, decayed ones first."""
        reached = self.reached()
        for weight_decay, kept in ((self.weight_decay, False), (0.0, True)):
            if found := [i for i in reached if (id(self.parameters[i]) in self.undecayed) == kept]:
                yield weight_decay, found


class AdamW(Adaptive):
    """AdamW: Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101; the arguments are those of `Adaptive`."""

    EPSILON = 1e-8

    def step(self) -> None:
        """Move the parameters; every one counts its own steps, for its moments begin at zero."""
        with torch.no_grad():
            for weight_decay, positions in self.groups():
                steps = [self._steps(i) for i in positions]
                torch._foreach_add_(steps, 1)
                torch._fused_adamw_(
                    [self.parameters[i] for i in positions],
                    self.gradients(positions),
                    [self.buffer("first", i) for i in positions],
                    [self.buffer("second", i) for i in positions],
                    [],
                    steps,
                    lr=self.lr,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    weight_decay=weight_decay,
                    eps=self.EPSILON,
                    amsgrad=False,
                    maximize=False,
                )

    def _steps(self, position: int) -> Tensor:
        """Return the number of steps of a parameter, a float32 scalar on its device."""
        counts = self.buffers.setdefault("steps", {})
        if position not in counts:
            counts[position] = torch.zeros((), dtype=torch.float32, device=self.parameters[position].device)
        return counts[position]


class LAMB(Adaptive):
    """LAMB: You et al., ICLR 2020, arXiv:1904.00962; the arguments are those of `Adaptive`.

    As timm's `Lamb` by default: the gradient of all parameters together is scaled down to the length 1 where it is
    longer; the step of a parameter with weight decay has the length of the parameter times the learning rate.
    """

    EPSILON = 1e-6
    LONGEST = 1.0

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        super().__init__(parameters, **options)
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the buffers and the number of steps, for `load_state_dict`."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another optimiser of the same parameters returned from its `state_dict`."""
        super().load_state_dict({name: value for name, value in state.items() if name != "steps"})
        self.steps = state["steps"]

    def step(self) -> None:
        """Move the parameters. All count their steps together."""
        with torch.no_grad():
            self.steps += 1
            norms = torch._foreach_norm(self.gradients(self.reached()))
            too_long = (torch.linalg.vector_norm(torch.stack(norms)) / self.LONGEST).clamp(min=1.0)
            for weight_decay, positions in self.groups():
                self._move(positions, weight_decay, too_long)

    def _move(self, positions: list[int], weight_decay: float, too_long: Tensor) -> None:
        """Move the parameters at these positions along their gradients, which are divided by `too_long`, a scalar."""
        beta1, beta2 = self.betas
        parameters: list[Tensor] = [self.parameters[i] for i in positions]
        gradients = torch._foreach_div(self.gradients(positions), too_long)
        first, second = ([self.buffer(name, i) for i in positions] for name in ("first", "second"))
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, (1 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(denominators, self.EPSILON)
        updates = torch._foreach_div(first, 1 - beta1**self.steps)
        torch._foreach_div_(updates, denominators)
        if weight_decay:
            torch._foreach_add_(updates, parameters, alpha=weight_decay)
            length, of_update = (torch.stack(torch._foreach_norm(values)) for values in (parameters, updates))
            ratio = torch.where((length > 0) & (of_update > 0), length / of_update, 1.0)
            torch._foreach_mul_(updates, list(ratio.unbind()))
        torch._foreach_add_(parameters, updates, alpha=-self.lr)


def undecayed(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a module that weight decay leaves out in the recipes of transformers: biases, all other
    vectors and scalars (of norms, for example), and those whose names a part of the module returns from a function
    `no_weight_decay`, such as positions and tokens.
    """
    named: set[str] = set()
    for prefix, part in module.named_modules():
        if hasattr(part, "no_weight_decay"):
            listed = cast(Any, part).no_weight_decay()
            named |= {f"{prefix}.{name}".removeprefix(".") for name in listed}
    for name, parameter in module.named_parameters():
        if parameter.ndim <= 1 or name.endswith(".bias") or name in named:
            yield parameter
