"""Average a network's weights over the steps of training, as timm's `ModelEma` does."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Average(Generic[Module]):
    """An exponential moving average of the weights and buffers of a network.

    Args:
        network: whose present state the average begins with; it must be on its device.
        decay: the share of the old average in the new one, in (0, 1).
    """

    def __init__(self, network: Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        """The network with the averaged weights."""
        self.decay = decay
        self.copied = {
            name for name, value in _tensors(self.network).items() if not (value.is_floating_point() and _finite(value))
        }
        """Whole numbers, such as counts of batches, and what holds infinities by design, such as attention masks."""

    def update(self, network: Module) -> None:
        """Take in the network's weights after a step."""
        new = _tensors(network)
        averaged = {name: old for name, old in _tensors(self.network).items() if name not in self.copied}
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.values()), [new[name] for name in averaged], 1 - self.decay)
            for name, old in _tensors(self.network).items():
                if name in self.copied:
                    old.copy_(new[name])


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict by their names, each once: several names of one weight are left out but the first."""
    named = network.state_dict(keep_vars=True)
    found = {id(value): (name, value.detach()) for name, value in reversed(named.items())}
    return dict(reversed(found.values()))


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
