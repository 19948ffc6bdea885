"""Run stale stages in parallel: python -m stages.sweep [--jobs N] [TARGET ...]; leaves what 'dvc repro' leaves."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages import run

if TYPE_CHECKING:
    from kdcore.sweep import cli

TARGETS = "stages, as for 'dvc repro', with what they need (default: all)"
CHANGES = "change params.yaml, as for 'dvc exp run'"
SCHEDULER = "a running Dask scheduler, tcp://host:port"
TIMEOUT = "minutes without a sign of life after which a stage is ended; 0 waits for ever (default: 60)"


def _options(arguments: tuple[str, ...]) -> "cli.Options":
    from kdcore.sweep import cli  # not above: multiprocessing runs this file again in every process that it starts

    parser = argparse.ArgumentParser("python -m stages.sweep", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=TARGETS)
    parser.add_argument("--glob", action="store_true", help="targets are patterns: 'train@resnet20-*'")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=CHANGES)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done, and why")
    parser.add_argument("--failed", action="store_true", help="only what failed in the last sweep")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-j", "--jobs", type=int, metavar="N", help="at a time (default: by GPUs, or cores and memory)")
    where.add_argument("--scheduler", metavar="ADDRESS", help=SCHEDULER)
    where.add_argument("--cluster", type=Path, metavar="FILE", help="a cluster's queue, see docs/cluster.md")
    parser.add_argument("--slots-per-gpu", type=int, default=1, metavar="N", help="jobs on one GPU (default: 1)")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="for lost workers and memory (default: 2)")
    parser.add_argument("--timeout", type=float, default=60, metavar="MINUTES", help=TIMEOUT)
    return cli.Options(**vars(parser.parse_args(arguments)))


def main(*arguments: str) -> None:
    """Run the stages, or say what would be run."""
    from kdcore.sweep import cli

    sys.exit(cli.sweep(_options(arguments)))


if __name__ == "__main__":
    run(main)
