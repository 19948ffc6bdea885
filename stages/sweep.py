"""Run stale stages in parallel: python -m stages.sweep [--jobs N] [TARGET ...]; leaves what 'dvc repro' leaves."""

import sys

from stages import run


def main(*arguments: str) -> None:
    """Run the stages, or say what would be run."""
    from kdcore.sweep import cli  # not above: multiprocessing runs this file again in every process that it starts

    sys.exit(cli.sweep(cli.parse(arguments, __doc__)))


if __name__ == "__main__":
    run(main)
