"""Search the hyper-parameters that section tune of params.yaml names, on validation images; run again, it goes on."""

import sys

from stages import run


def main(*arguments: str) -> None:
    """Run trials, then write tuning/<name>.json and the variant with the best values."""
    from kdcore.tuning import search  # not above: multiprocessing runs this file again in every process that it starts

    sys.exit(search.tune(search.parse(arguments, __doc__)))


if __name__ == "__main__":
    run(main)
