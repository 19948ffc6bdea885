"""Repair files that a killed DVC command left half-written, as sweeps do at first: python -m stages.mend."""

from pathlib import Path

from kdcore.sweep import journal, mend
from stages import run


def main() -> None:
    """Print what was repaired."""
    with journal.idle() as is_idle:
        for line in mend.mend(Path.cwd(), is_idle=is_idle):
            print(line)


if __name__ == "__main__":
    run(main)
