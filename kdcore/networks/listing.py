"""The table of networks that `python -m stages.networks` prints."""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from rich.table import Table

from kdcore import networks
from kdcore.networks import cost
from kdcore.networks.contract import Network, Output
from kdcore.networks.making import KINDS
from kdcore.networks.wrapped import Resized

CLASSES, IMAGENET_CLASSES = 100, 1000
FOOTER = (
    f"Parameters with {CLASSES} classes, imagenet_* with {IMAGENET_CLASSES}. Multiply-adds of convolutions and matrix "
    "products, for one image of the input size: the published one, or what the params file or --image-size says. "
    "Stages are channels × height, the stem first."
)


def table(
    names: list[str], stem: str, image_size: int | None, described: Mapping[str, Any] = MappingProxyType({})
) -> Table:
    """Build a table with one row per network; without an `image_size`, each is shown at its published one, and those of
    a params file, which are `described`, at the size that they resize to, or else at that of the data set.
    """
    shown = Table(show_lines=True)
    for heading in ("name", "parameters", "multiply-adds", "input", "stages", "paper"):
        number = heading in ("parameters", "multiply-adds", "input")
        shown.add_column(heading, overflow="fold", justify="right" if number else "left", no_wrap=heading == "name")
    for name in names:
        size = image_size or networks.image_size(name, stem=stem)
        one = described.get(name, {})
        size = one.get("image_size", size)
        network, out = _build(name, stem, size, described)
        counts = [f"{count / 1e6:,.2f} M" for count in (cost.parameters(network), cost.multiply_adds(network, size))]
        stages = ", ".join(f"{stage.shape[1]}×{stage.shape[2]}" for stage in out.stages)
        paper = (
            next((f"{one['package']}: {one[kind]}" for kind in KINDS if kind in one), None)
            or (sys.modules[type(_inner(network)).__module__].__doc__ or "").split("\n\n")[0]
        )
        shown.add_row(name, *counts, str(size), stages, " ".join(paper.split()))
    return shown


def _inner(network: Network) -> Network:
    """The network of the zoo in one that resizes its images; another one itself."""
    return network.module if isinstance(network, Resized) else network


def _build(name: str, stem: str, size: int, described: Mapping[str, Any]) -> tuple[Network, Output]:
    """Create a network and its output for one image; those of the zoo on the device "meta", which holds shapes and no
    values, the code of others may ask for values.
    """
    classes = IMAGENET_CLASSES if name.startswith(networks.IMAGENET) else CLASSES
    with torch.device("cpu" if name in described else "meta"), torch.no_grad():
        network = networks.create(name, classes, stem=stem, described=described).eval()
        return network, network(torch.empty(1, 3, size, size))
