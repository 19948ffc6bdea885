"""Add a grid of variants to params.yaml: python -m stages.vary kd.temperature=2,4,8 kd.kd_weight=0.5,0.9."""

import argparse

from kdcore.matrix import grid
from kdcore.system import yamlfile
from stages import run


def main(*arguments: str) -> None:
    """Say how many cells the grid adds, then write it."""
    parser = argparse.ArgumentParser("python -m stages.vary", description=__doc__)
    parser.add_argument("axes", nargs="+", metavar="KEY=VALUES", help=f"{grid.USAGE}; all combinations are made")
    parser.add_argument("--only", default="{}", help="cells that they are for: '{methods: [kd], scales: [1]}'")
    parser.add_argument("--params", default="params.yaml", help="the file that is changed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be added, and write nothing")
    options = parser.parse_args(arguments)
    made = grid.grid(grid.axes(options.axes), yamlfile.parse(options.only, "--only"))
    addition = grid.Addition.of(options.params, made, published_recipes=yamlfile.read("data/recipes.yaml"))
    print(addition.text())
    if not options.dry_run:
        addition.write()


if __name__ == "__main__":
    run(main)
