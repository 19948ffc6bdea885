"""Free the disk of what only saves time, never of what a running cell needs: python -m stages.clean_scratch."""

from kdcore.sweep import cleaning
from stages import run


def main() -> None:
    """Clean scratch/, and print what was removed."""
    for line in cleaning.clean():
        print(line)


if __name__ == "__main__":
    run(main)
