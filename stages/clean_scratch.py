"""Remove files that only save time, except those that running cells need: python -m stages.clean_scratch."""

from kdcore.sweep import cleaning
from stages import run


def main() -> None:
    """Clean scratch/, and print what was removed."""
    for line in cleaning.clean():
        print(line)


if __name__ == "__main__":
    run(main)
