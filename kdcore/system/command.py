"""How a command ends: its arguments are checked, and errors become messages and exit codes."""

import errno
import fcntl
import inspect
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from kdcore.system import signals, workspace
from kdcore.system.errors import FULL_DISK, OUT_OF_MEMORY, RunError, UserError, is_full, is_out_of_memory, shown

UNREAD = 141
"""128 + SIGPIPE: the exit code that shells give a command whose output nobody reads any more."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
LOCKLESS = (errno.ENOSYS, errno.EOPNOTSUPP)
INTERRUPTED = "interrupted; run it again to go on from the last finished epoch"
LESS_MEMORY = (
    "take a smaller train.batch_size, train.precision: bfloat16, or fewer jobs at a time (--jobs, --slots-per-gpu); "
    "the decoded images of the data set lie there too, on a GPU once for each job, unless data.augmentation is "
    "random_resized_crop"
)


def run(main: Callable[..., None]) -> None:
    """Call a command's main with the arguments of the command line, and turn errors into messages and exit codes.

    =============  =======================================================================
    2              bad input, or a folder that may not be written: a message
    1              a run that failed on its own: a message
    OUT_OF_MEMORY  the machine's or a GPU's memory did not suffice: a message
    FULL_DISK      the disk is full: a message
    70             an error that nobody foresaw (EX_SOFTWARE): a traceback
    UNREAD         nobody reads the output any more (`| head`): silence
    128 + signal   Ctrl-C or SIGTERM: a message
    =============  =======================================================================
    """
    signals.raise_interrupts()
    try:
        _check_arguments(main, sys.argv[1:])
        _check_locks()
        main(*sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as interruption:
        print(getattr(interruption, "message", INTERRUPTED), file=sys.stderr)
        _say_what_is_left()
        sys.exit(128 + (interruption.args[0] if interruption.args else signal.SIGINT))
    except Exception as error:
        code = _explain(error, main)
        if code != UNREAD:
            _say_what_is_left()
        sys.exit(code)


def _say_what_is_left() -> None:
    if left := workspace.left_in_params():
        print(left, file=sys.stderr)


def _explain(error: Exception, main: Callable[..., None]) -> int:
    """Print what the error means to the user; returns the exit code."""
    if signals.received:
        print(INTERRUPTED, file=sys.stderr)
        return 128 + signals.received[0]
    if isinstance(error, UserError | RunError):
        print(f"error: {error}", file=sys.stderr)
        return FULL_DISK if is_full(error) else 2 if isinstance(error, UserError) else 1
    if isinstance(error, BrokenPipeError) and _silence_unread():
        return UNREAD
    explained = _explain_machine(error)
    if explained is None:
        traceback.print_exc()
        return os.EX_SOFTWARE
    code, text = explained
    print(f"error: {shlex.join([_module(main), *sys.argv[1:]])}: {text}", file=sys.stderr)
    return code


def _explain_machine(error: Exception) -> tuple[int, str] | None:
    """Return exit code and message for an error of disk, memory or permissions; None for any other."""
    if is_full(error):
        return FULL_DISK, f"the disk is full ({error}); make space, and run it again"
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, f"memory did not suffice ({error}); {LESS_MEMORY}"
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        where = f"{error.filename}: " if error.filename else ""
        return 2, f"{where}{error.strerror}; let this user read and write there, or work in another folder"
    if isinstance(error, OSError) and error.errno in MISPLACED and error.filename:
        return 2, f"{error.filename}: {error.strerror}; something else stands in its place: move that away"
    return None


def _silence_unread() -> bool:
    """Redirect standard streams whose reader has gone to the null device, or Python would fail again at its end.

    Returns:
        Whether there were any; the broken pipe may have been another one.
    """
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    gone = [stream for stream, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for stream in gone:
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


def _check_locks() -> None:
    """Refuse a folder whose file system has no locks that end with their processes. Files would stand for them, which a
    killed process leaves behind, and no other machine can tell from those of one that is at work.
    """
    here = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(here, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKLESS:
            raise UserError(
                f"{Path.cwd()}: its file system has no locks (flock), which keep two processes from writing one file; "
                "have it mounted with them (Lustre: -o flock), or work in a folder of another one"
            ) from error
    finally:
        os.close(here)


def _module(main: Callable[..., None]) -> str:
    own = inspect.unwrap(main).__globals__  # not those of a decorator
    return str(getattr(own["__spec__"], "name", main.__module__))  # a script by its path has no spec


def open_streams() -> None:
    """Replace standard streams that are closed (`>&-`) by the null device.

    Libraries write to them unasked, and the next file that is opened, here or in a process that this one starts, would
    become one of them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
