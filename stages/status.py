"""Say how far the matrix is, from files alone: python -m stages.status [--json]."""

import argparse
import json

from kdcore.sweep import display, status
from stages import run


def main(*arguments: str) -> None:
    """Print which stages are done, run, wait, failed or are blocked."""
    parser = argparse.ArgumentParser("python -m stages.status", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs: the same and every stage, as one object")
    options = parser.parse_args(arguments)
    present = status.collect()
    if options.json:
        print(json.dumps(present.record(), indent=1))
    else:
        present.show(display.console())


if __name__ == "__main__":
    run(main)
