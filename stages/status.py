"""How far the matrix is, from another terminal and offline: python -m stages.status [--json]."""

import argparse
import json

from kdcore.sweep import display, status
from stages import run


def main(*arguments: str) -> None:
    """Print what is done, runs, waits, failed and is blocked."""
    parser = argparse.ArgumentParser("python -m stages.status", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs: the same and every stage, as one object")
    options = parser.parse_args(arguments)
    found = status.collect()
    if options.json:
        print(json.dumps(found.record(), indent=1))
    else:
        found.show(display.console())


if __name__ == "__main__":
    run(main)
