"""Put right what a killed DVC left half-written: python -m stages.mend; 'make repro' and sweeps begin with it."""

from pathlib import Path

from kdcore.sweep import mend
from stages import run


def main() -> None:
    """Print what was mended."""
    for line in mend.mend(Path.cwd()):
        print(line)


if __name__ == "__main__":
    run(main)
