"""Trace a network with torch.export, for batches of any size.

Two habits of our networks are unknown to it, and their code, which counts for fingerprints, stays as it is: a property
with the name of a submodule (the heads of the MobileNetV2s), and `len(batch)`, which it takes for a constant (the
transformers). Both are replaced while it traces, by what computes the same.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.networks.contract import Network


class Logits(nn.Module):
    """A network that gives its logits alone, which is what is exported.

    Args:
        network: the student.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S) to logits (B, C)."""
        logits: Tensor = self.network(images).logits
        return logits


def traced(network: Network, image_size: int) -> torch.export.ExportedProgram:
    """Trace a network.

    Args:
        network: in evaluation mode, on the CPU; it is as it was afterwards.
        image_size: S.

    Returns:
        A program that maps images (B, 3, S, S) to logits (B, C), for any B.
    """
    batch = torch.export.Dim("batch", min=1)
    images = torch.zeros(2, 3, image_size, image_size)
    with _visible_submodules(network), _lengths_of_tensors(network):
        return torch.export.export(Logits(network), (images,), dynamic_shapes=({0: batch},), strict=False)


@contextmanager
def _visible_submodules(network: nn.Module) -> Iterator[None]:
    """Have an attribute with the name of a submodule be that submodule, where a property hides it."""
    before = [(module, type(module)) for module in network.modules()]
    try:
        for module, kind in before:
            hidden = [name for name in module._modules if isinstance(getattr(kind, name, None), property)]
            if hidden:
                shown = {name: property(_submodule(name)) for name in hidden}
                module.__class__ = type(kind.__name__, (kind,), shown)
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


def _submodule(name: str) -> Callable[[nn.Module], Any]:
    return lambda module: module._modules[name]


@contextmanager
def _lengths_of_tensors(network: nn.Module) -> Iterator[None]:
    """Have `len` of a tensor be the first number of its shape in the files that define the network's modules."""

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) else len(value)

    names = {type(module).__module__ for module in network.modules()}
    files = [sys.modules[name] for name in names if name.startswith("kdcore.networks.")]
    try:
        for file in files:
            vars(file)["len"] = length
        yield
    finally:
        for file in files:
            vars(file).pop("len", None)
