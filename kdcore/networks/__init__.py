"""The network zoo: one file per family, found by `kdcore.catalog`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kdcore import catalog

if TYPE_CHECKING:
    from kdcore.networks.contract import Network


def names() -> list[str]:
    """Canonical names of all networks. Does not import torch."""
    return list(catalog.networks())


def create(name: str, num_classes: int, *, stem: str = "small") -> Network:
    """A freshly initialised network.

    Args:
        name: one of `names()`.
        num_classes: C, the size of the linear head `network.classifier`.

    Returns:
        A module that maps images (B, 3, H, W) to `kdcore.networks.contract.Output`.

    Raises:
        KeyError: unknown name.
    """
    if name not in catalog.networks():
        raise KeyError(f"unknown network {name!r}; known: {', '.join(names())}")
    entry = catalog.networks()[name]
    return importlib.import_module(entry.module).build(num_classes, **entry.arguments)
