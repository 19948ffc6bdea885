"""The network zoo: one file per family, found by `kdcore.catalog`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    known = catalog.networks().get(name)
    if known is not None and known.image_size is not None:
        return known.image_size
    return 224 if name.startswith(IMAGENET) or stem == "large" else 32


def create(
    name: str,
    num_classes: int,
    *,
    stem: str = "small",
    described: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    drop_path: float | None = None,
) -> Network:
    """A freshly initialised network.

    Args:
        name: one of `names()`, or of those that are described.
        num_classes: C, the size of the linear head `network.classifier`.
        stem: "small" is the first layer as published for 32 x 32 images. "large" is SDD's for CUB-200 at 224 x 224, a
            convolution of 7 x 7 and stride 2 (see `kdcore.networks._stem`). The VGGs, which SDD leaves as they are,
            and the imagenet_* networks and transformers, which have a stem of their own, are the same with both.
        described: name -> description (`kdcore.networks.describing`) of networks that section `networks` of a params
            file names, as cards hold them under `networks`.
        pretrained: whether to load the published weights that a description asks for.
        drop_path: rate of stochastic depth; None takes what the network or its description has.

    Returns:
        A module that maps images (B, 3, H, W) to `kdcore.networks.contract.Output`.

    Raises:
        KeyError: unknown name.
        ValueError: unknown stem, or a rate for a network without stochastic depth.
        UserError: a described network cannot be made here.
    """
    if described and name in described:
        one = dict(described[name]) | ({} if drop_path is None else {"drop_path": drop_path})
        foreign = importlib.import_module("kdcore.networks.foreign")  # which has a fingerprint of its own
        return foreign.build(num_classes, stem=stem, described=one, pretrained=pretrained)
    if name not in catalog.networks():
        raise KeyError(f"unknown network {name!r}; known: {', '.join(names())}")
    catalog.check_known(stem, list(STEMS), "stem")
    entry = catalog.networks()[name]
    build = importlib.import_module(entry.module).build
    options = {} if drop_path is None else {"drop_path": drop_path}
    if options and "drop_path" not in inspect.signature(build).parameters:
        raise ValueError(f"drop_path: {name} has no stochastic depth; remove it")
    return build(num_classes, stem=stem, **entry.arguments, **options)
