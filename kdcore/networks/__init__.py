"""The network zoo: one file per family, found by `kdcore.catalog`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kdcore import catalog

if TYPE_CHECKING:
    from kdcore.networks.contract import Network

STEMS = ("small", "large")
IMAGENET = "imagenet_"
"""Begins the names of the networks for ImageNet."""


def names() -> list[str]:
    """Canonical names of all networks. Does not import torch."""
    return list(catalog.networks())


def image_size(name: str, *, stem: str = "small") -> int:
    """Height and width, in pixels, of the images that a network with this stem was published for."""
    return 224 if name.startswith(IMAGENET) or stem == "large" else 32


def create(name: str, num_classes: int, *, stem: str = "small") -> Network:
    """A freshly initialised network.

    Args:
        name: one of `names()`.
        num_classes: C, the size of the linear head `network.classifier`.
        stem: "small" is the first layer as published for 32 x 32 images. "large" is SDD's for CUB-200 at 224 x 224, a
            convolution of 7 x 7 and stride 2 (see `kdcore.networks._stem`). The VGGs, which SDD leaves as they are,
            and the imagenet_* networks, which have a stem of their own, are the same with both.

    Returns:
        A module that maps images (B, 3, H, W) to `kdcore.networks.contract.Output`.

    Raises:
        KeyError: unknown name.
        ValueError: unknown stem.
    """
    if name not in catalog.networks():
        raise KeyError(f"unknown network {name!r}; known: {', '.join(names())}")
    catalog.check_known(stem, list(STEMS), "stem")
    entry = catalog.networks()[name]
    return importlib.import_module(entry.module).build(num_classes, stem=stem, **entry.arguments)
