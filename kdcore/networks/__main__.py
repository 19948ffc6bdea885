"""`python -m kdcore.networks [NAME...]`: networks with their cost, stages and paper; all without a name."""

import argparse
import sys

import torch
from rich.console import Console
from rich.table import Table

from kdcore import catalog, networks
from kdcore.networks import cost
from kdcore.networks.contract import Network, Output

CLASSES, IMAGENET_CLASSES = 100, 1000
SMALLEST = 16
FOOTER = f"""Parameters with {CLASSES} classes, imagenet_* with {IMAGENET_CLASSES}. Multiply-adds of convolutions and
matrix products, for one image of the input size: the published one, unless --image-size says otherwise. Stages are
channels × height, the stem first."""


def image_size(text: str) -> int:
    """A side in pixels, as argparse wants it."""
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no size. Allowed: whole pixels, {SMALLEST} or more")
    return int(text)


def build(name: str, stem: str, size: int) -> tuple[Network, Output]:
    """A network and its output for one image, both without values: on the device "meta"."""
    classes = IMAGENET_CLASSES if name.startswith(networks.IMAGENET) else CLASSES
    with torch.device("meta"), torch.no_grad():
        network = networks.create(name, classes, stem=stem).eval()
        return network, network(torch.empty(1, 3, size, size))


def table(names: list[str], stem: str, image_size: int | None) -> Table:
    """One row per network."""
    shown = Table(show_lines=True)
    for heading in ("name", "parameters", "multiply-adds", "input", "stages", "paper"):
        number = heading in ("parameters", "multiply-adds", "input")
        shown.add_column(heading, overflow="fold", justify="right" if number else "left", no_wrap=heading == "name")
    for name in names:
        size = image_size or networks.image_size(name, stem=stem)
        network, out = build(name, stem, size)
        counts = [f"{count / 1e6:,.2f} M" for count in (cost.parameters(network), cost.multiply_adds(network, size))]
        stages = ", ".join(f"{stage.shape[1]}×{stage.shape[2]}" for stage in out.stages)
        paper = (sys.modules[type(network).__module__].__doc__ or "").split("\n\n")[0]
        shown.add_row(name, *counts, str(size), stages, " ".join(paper.split()))
    return shown


def main(*arguments: str) -> None:
    """Print the networks that the arguments name, or all."""
    parser = argparse.ArgumentParser(prog="python -m kdcore.networks", description="The networks and what they cost.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to show; all without one")
    parser.add_argument("--image-size", type=image_size, help="height and width in pixels; as published without it")
    parser.add_argument("--stem", choices=networks.STEMS, default=networks.STEMS[0], help="see kdcore.networks.create")
    chosen = parser.parse_args(arguments)
    for name in chosen.names:
        catalog.check_known(name, networks.names(), "network")
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(chosen.names or networks.names(), chosen.stem, chosen.image_size))
    console.print(FOOTER.replace("\n", " "), highlight=False)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
