"""Compare two revisions: python -m stages.compare A [B]; A and B may be experiments, workspace or published."""

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
    parser.add_argument(
        "--tolerance", type=float, metavar="POINTS", help="how much a line may lose whose noise is unknown"
    )
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Print what B changed."""
    options = _options(arguments)
    if options.tolerance is not None and not (options.fail_on_regression and options.tolerance >= 0):
        raise UserError("--tolerance POINTS: belongs to --fail-on-regression, and must be 0 or more percentage points")
    compared = compare.compare(*revisions.load(options.old, options.new, options.accuracy))
    records = json.dumps([line.as_record() for line in compared.lines], indent=1)
    print(records if options.json else "\n".join((compared.markdown(), "", *compared.doubts)))
    notes = filter(None, (compared.summary, compared.differs))  # flushed: a closed pipe ends it before the check
    print(*notes, sep="\n", file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.fail_on_regression:
        print(compare.check_regressions(compared.lines, options.tolerance), file=sys.stderr)


if __name__ == "__main__":
    run(main)
