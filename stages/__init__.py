"""One script per DVC stage: read a card, call kdcore, write outputs."""

import inspect
import os
import select
import sys
import traceback
from collections.abc import Callable

from kdcore.errors import RunError, UserError

UNREAD = 141
"""128 + SIGPIPE, as shells have it."""


def run(main: Callable[..., None]) -> None:
    """Call a stage's main with the command line's arguments.

    Bad input is a message and exit code 2; a run that fails on its own is a message and exit code 1; what nobody
    foresaw is a traceback and exit code 70 (EX_SOFTWARE); output that nobody reads any more (`| head`) ends in silence,
    with `UNREAD`.
    """
    try:
        _check_arguments(main, sys.argv[1:])
        main(*sys.argv[1:])
        sys.stdout.flush()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from the last finished epoch", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _silence_unread():
            sys.exit(UNREAD)
        traceback.print_exc()
        sys.exit(os.EX_SOFTWARE)


def _silence_unread() -> bool:
    """Send what is left of the output to nowhere where its reader has gone; a stage may have other pipes that break."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    gone = [stream for stream, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for stream in gone:  # or Python would write it, and fail, once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return bool(gone)


def _check_arguments(main: Callable[..., None], arguments: list[str]) -> None:
    signature = inspect.signature(main)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        names = " ".join(name.upper() for name in signature.parameters)
        raise UserError(f"usage: python -m {main.__globals__['__spec__'].name} {names}".rstrip()) from error
