"""Keep results whose numbers a change of code leaves alone: python -m stages.accept [CELL ...] --reason "..."."""

import argparse

from kdcore.system.errors import UserError
from kdcore.training import accept
from stages import run


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m stages.accept", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CELL", help="cells or teachers (default: all that can be)")
    parser.add_argument("--reason", help="why the change leaves numbers alone; without it, only show the cells")
    return parser.parse_args(arguments)


def main(*arguments: str) -> None:
    """Show, or accept, results whose cards differ in fingerprints alone."""
    options = _options(arguments)
    if options.reason is not None and not options.reason.strip():
        raise UserError("--reason: is empty; say why the change of code leaves numbers alone")
    candidates = accept.survey()
    chosen = accept.choose(candidates, options.names)
    for candidate in candidates:
        obstacles = "; ".join(candidate.obstacles)
        changed = ", ".join(candidate.changed_code) or "none; accepted before, and not yet recorded by DVC"
        what = f"will be made again: {obstacles}" if obstacles else f"fingerprints alone: {changed}"
        print(f"{candidate.stage}: {what}")
    if options.reason is None or not chosen:
        print(f"{len(chosen)} can be accepted" + ("; say why with --reason" if chosen else ""))
        return
    accept.accept(chosen, options.reason.strip())
    print(f"{len(chosen)} accepted, and recorded in dvc.lock; 'dvc repro' trains none of them")


if __name__ == "__main__":
    run(main)
