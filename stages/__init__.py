"""One script per DVC stage: read a card, call kdcore, write outputs."""

import inspect
import sys
from collections.abc import Callable

from kdcore.errors import RunError, UserError


def run(main: Callable[..., None]) -> None:
    """Call a stage's main with the command line's arguments.

    Bad input is a message and exit code 2; a run that fails on its own is a message and exit code 1.
    """
    try:
        _check_arguments(main, sys.argv[1:])
        main(*sys.argv[1:])
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from the last finished epoch", file=sys.stderr)
        sys.exit(130)


def _check_arguments(main: Callable[..., None], arguments: list[str]) -> None:
    signature = inspect.signature(main)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        names = " ".join(name.upper() for name in signature.parameters)
        raise UserError(f"usage: python -m {main.__globals__['__spec__'].name} {names}".rstrip()) from error
