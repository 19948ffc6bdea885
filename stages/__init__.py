"""One script per DVC stage: read a card, call kdcore, write outputs."""

import sys
from collections.abc import Callable

from kdcore.errors import UserError


def run(main: Callable[..., None]) -> None:
    """Call a stage's main with the command line's arguments; bad input is a message and exit code 2."""
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
