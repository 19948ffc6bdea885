"""What is installed here: its licences, its pins, and what is known to be wrong with it: make audit."""

import sys

from kdcore.system import audit
from stages import run

FOUND, UNCHECKED = 1, 3
"""Exit codes: something is wrong; nothing that could be checked is, but not all could."""


def main() -> None:
    """Check all of it, and say what was found."""
    code = 0
    for name, check in audit.CHECKS.items():
        found = check()
        verdict = [*found.problems, *([f"NOT CHECKED: {found.unchecked}"] if found.unchecked else [])]
        print("\n  ".join([f"{name}:", *(verdict or ["no problem found"])]))
        code = FOUND if found.problems or code == FOUND else UNCHECKED if found.unchecked else code
    sys.exit(code)


if __name__ == "__main__":
    run(main)
