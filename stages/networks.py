"""List the networks with their cost, stages and paper: python -m stages.networks [NAME...]."""

import argparse

from rich.console import Console

from kdcore import networks
from kdcore.matrix import networks_section, params
from stages import run

SMALLEST = 16


def _image_size(text: str) -> int:
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no size. Allowed: whole pixels, {SMALLEST} or more")
    return int(text)


def main(*arguments: str) -> None:
    """Print the networks that the arguments name, or all."""
    parser = argparse.ArgumentParser(prog="python -m stages.networks", description="The networks and what they cost.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to show; all without one")
    parser.add_argument("--image-size", type=_image_size, help="height and width in pixels; as published without it")
    parser.add_argument("--stem", choices=networks.STEMS, default=networks.STEMS[0], help="see kdcore.networks.create")
    parser.add_argument("--params", help="a params file, whose section networks counts too; alone, only that")
    chosen = parser.parse_args(arguments)
    matrix = None if chosen.params is None else params.load(chosen.params)
    names, described = networks_section.to_list(chosen.names, matrix, chosen.params)
    from kdcore.networks import listing  # torch takes seconds to import, for which a wrong name need not wait

    console = Console(width=None if Console().is_terminal else 160)
    console.print(listing.table(names, chosen.stem, chosen.image_size, described))
    console.print(listing.FOOTER, highlight=False)


if __name__ == "__main__":
    run(main)
