"""Two revisions side by side: python -m stages.compare A [B]; A and B may be experiments, workspace or published."""

import argparse
import json
import sys

from kdcore.results import compare, revisions
from kdcore.system.errors import UserError
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.compare", description=__doc__)
    parser.add_argument("old", metavar="A", help="a git revision, DVC experiment, workspace (files here) or published")
    parser.add_argument("new", metavar="B", nargs="?", default=revisions.WORKSPACE, help="(default: workspace)")
    parser.add_argument("--json", action="store_true", help="a list of records instead of a table")
    parser.add_argument("--accuracy", choices=("top1", "top1_best"), default="top1", help="last epoch, or best epoch")
    parser.add_argument("--fail-on-regression", action="store_true", help="exit code 1 where B is worse beyond noise")
    parser.add_argument("--tolerance", type=float, metavar="POINTS", help="what a line of unknown noise may lose")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print what B changed."""
    options = _options(arguments)
    if options.tolerance is not None and not (options.fail_on_regression and options.tolerance >= 0):
        raise UserError("--tolerance POINTS: belongs to --fail-on-regression, and must be 0 or more percentage points")
    found = compare.compare(*revisions.load(options.old, options.new, options.accuracy))
    records = json.dumps([line.as_record() for line in found.lines], indent=1)
    print(*([records] if options.json else [found.markdown(), "", *found.doubts]), sep="\n")
    # flushed, for a reader that has gone is to be noticed before the check decides on the exit code
    said = sys.stderr if options.json else sys.stdout
    print(*filter(None, (found.summary, found.differs)), sep="\n", file=said, flush=True)
    if options.fail_on_regression:
        print(compare.check_regressions(found.lines, options.tolerance), file=sys.stderr)


if __name__ == "__main__":
    run(main)
