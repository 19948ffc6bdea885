"""One script per DVC stage: read a card, call kdcore, write outputs."""

import errno
import inspect
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from kdcore.system.errors import FULL_DISK, OUT_OF_MEMORY, RunError, UserError, is_full, is_out_of_memory, shown

UNREAD = 141
"""128 + SIGPIPE, as shells have it."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
INTERRUPTED = "interrupted; run it again to go on from the last finished epoch"
LESS_MEMORY = (
    "take a smaller train.batch_size, train.precision: bfloat16, or fewer jobs at a time (--jobs, --slots-per-gpu)"
)

_received: list[int] = []
"""Signals that asked this process to end; a library in C may make another error of the exception that says so."""


def run(main: Callable[..., None]) -> None:
    """Call a stage's main with the command line's arguments.

    Bad input is a message and exit code 2, and so is a folder that may not be written; a run that fails on its own is a
    message and exit code 1; so is one that the machine fails, with exit code `OUT_OF_MEMORY` or `FULL_DISK`; what
    nobody foresaw is a traceback and exit code 70 (EX_SOFTWARE); output that nobody reads any more (`| head`) ends in
    silence, with `UNREAD`. Ctrl-C and SIGTERM end it with a message, and 128 and the signal's number.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) in (_leave, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    _received.clear()
    try:
        _check_arguments(main, sys.argv[1:])
        main(*sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as interruption:
        print(getattr(interruption, "message", INTERRUPTED), file=sys.stderr)
        sys.exit(128 + (interruption.args[0] if interruption.args else signal.SIGINT))
    except Exception as error:
        if _received:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(128 + _received[0])
        if isinstance(error, UserError | RunError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(FULL_DISK if is_full(error) else 2 if isinstance(error, UserError) else 1)
        if isinstance(error, BrokenPipeError) and _silence_unread():
            sys.exit(UNREAD)
        sys.exit(_explain(error, _command(main)))


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt(number)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has been begun."""
    os.write(2, b"interrupted; run it again\n")
    os._exit(128 + number)


def _explain(error: Exception, command: str) -> int:
    """Print what nobody could foresee; returns the exit code."""
    if is_full(error):
        code, text = FULL_DISK, f"the disk is full ({error}); make space, and run it again"
    elif is_out_of_memory(error):
        code, text = OUT_OF_MEMORY, f"memory did not suffice ({error}); {LESS_MEMORY}"
    elif isinstance(error, OSError) and error.errno in FORBIDDEN:
        where = f"{error.filename}: " if error.filename else ""
        code, text = 2, f"{where}{error.strerror}; let this user read and write there, or work in another folder"
    elif isinstance(error, OSError) and error.errno in MISPLACED and error.filename:
        code, text = 2, f"{error.filename}: {error.strerror}; something else stands in its place: move that away"
    else:
        traceback.print_exc()
        return os.EX_SOFTWARE
    print(f"error: {command}: {text}", file=sys.stderr)
    return code


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
        usage = f"usage: python -m {_module(main)} {names}".rstrip()
        raise UserError(f"{usage}; given: {shown(shlex.join(arguments))}") from error


def _command(main: Callable[..., None]) -> str:
    """As it was typed, but for "python -m": names the cell."""
    return shlex.join([_module(main), *sys.argv[1:]])


def _module(main: Callable[..., None]) -> str:
    return str(getattr(main.__globals__["__spec__"], "name", main.__module__))  # a script by its path has no spec


def _open_streams() -> None:
    """Put nowhere in the place of standard streams that are closed (`>&-`): libraries write to them unasked, and the
    next file that is opened would become one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


_open_streams()
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)  # a stage that still imports: Ctrl-C would show where, for pages
