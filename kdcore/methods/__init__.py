"""Distillation methods: one file per method, found by `kdcore.catalog`. `python -m kdcore.methods` lists them."""

import importlib
from types import ModuleType

from kdcore import catalog


def names() -> dict[str, list[str]]:
    """Method names by kind, "logit" and "feature". Does not import torch."""
    return {kind: [name for name, entry in catalog.methods().items() if entry.kind == kind] for kind in catalog.KINDS}


def get(name: str) -> ModuleType:
    """The module of a method: its `loss`, and what `kdcore.methods.contract` says of a method.

    Raises:
        KeyError: unknown name.
    """
    if name not in catalog.methods():
        raise KeyError(f"unknown method {name!r}; known: {', '.join(catalog.methods())}")
    return importlib.import_module(catalog.methods()[name].module)


def __getattr__(name: str) -> ModuleType:
    """`kdcore.methods.kd`, without importing it by name first."""
    if name in catalog.methods():
        return get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
