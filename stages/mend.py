"""Repair files that a killed DVC command left half-written, as sweeps do at first: python -m stages.mend."""

from pathlib import Path

from kdcore.sweep import mend
from stages import run


def main() -> None:
    """Print what was repaired."""
    for line in mend.mend(Path.cwd()):
        print(line)


if __name__ == "__main__":
    run(main)
