"""The table of networks that `python -m stages.networks` prints."""

import sys

import torch
from rich.table import Table

from kdcore import networks
from kdcore.networks import cost
from kdcore.networks.contract import Network, Output

CLASSES, IMAGENET_CLASSES = 100, 1000
FOOTER = (
    f"Parameters with {CLASSES} classes, imagenet_* with {IMAGENET_CLASSES}. Multiply-adds of convolutions and matrix "
    "products, for one image of the input size: the published one, unless --image-size says otherwise. Stages are "
    "channels × height, the stem first."
)


def table(names: list[str], stem: str, image_size: int | None) -> Table:
    """Build a table with one row per network; without an `image_size`, each is shown at its published one."""
    shown = Table(show_lines=True)
    for heading in ("name", "parameters", "multiply-adds", "input", "stages", "paper"):
        number = heading in ("parameters", "multiply-adds", "input")
        shown.add_column(heading, overflow="fold", justify="right" if number else "left", no_wrap=heading == "name")
    for name in names:
        size = image_size or networks.image_size(name, stem=stem)
        network, out = _build(name, stem, size)
        counts = [f"{count / 1e6:,.2f} M" for count in (cost.parameters(network), cost.multiply_adds(network, size))]
        stages = ", ".join(f"{stage.shape[1]}×{stage.shape[2]}" for stage in out.stages)
        paper = (sys.modules[type(network).__module__].__doc__ or "").split("\n\n")[0]
        shown.add_row(name, *counts, str(size), stages, " ".join(paper.split()))
    return shown


def _build(name: str, stem: str, size: int) -> tuple[Network, Output]:
    """Create a network and its output for one image, both on the device "meta", which holds shapes and no values."""
    classes = IMAGENET_CLASSES if name.startswith(networks.IMAGENET) else CLASSES
    with torch.device("meta"), torch.no_grad():
        network = networks.create(name, classes, stem=stem).eval()
        return network, network(torch.empty(1, 3, size, size))
