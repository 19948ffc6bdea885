"""The journal of a sweep, which other commands read, and the lock that keeps a second sweep out of the folder."""

import fcntl
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from kdcore.sweep import FOLDER
from kdcore.sweep.schedule import State, Step
from kdcore.system.errors import UserError
from kdcore.system.files import replace_text

FILE, LOCK = Path(FOLDER) / "journal.json", Path(FOLDER) / "lock"
LOGS = Path(FOLDER) / "logs"
UNFINISHED = (State.WAITING, State.RUNNING, State.STOPPED)


@dataclass
class Journal:
    """What one sweep is doing."""

    command: str
    """The command line."""
    pid: int
    host: str
    started: float
    """Unix time."""
    steps: dict[str, Step] = field(default_factory=dict)
    dashboard: str = ""
    """Address of Dask's dashboard."""
    ended: float | None = None
    """Unix time; None while the sweep runs, and after it was killed."""
    recorded_before: list[str] | None = None
    """Stages in dvc.lock before this sweep, kept in case it is interrupted; see `Pipeline.recorded_before`."""

    def write(self) -> None:
        """Replace the file as a whole, if it says something else."""
        text = json.dumps(self, default=vars)
        if not FILE.is_file() or FILE.read_text() != text:
            replace_text(FILE, text)


_JOURNAL = TypeAdapter(Journal)


def read() -> Journal | None:
    """Read the journal of the latest sweep in this folder; None where there was none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return _JOURNAL.validate_json(FILE.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{FILE}: is damaged ({error.errors()[0]['msg']}); delete it") from error


def log(step: str) -> Path:
    """Return the path of a stage's log."""
    return LOGS / f"{step}.log"


@contextmanager
def opened() -> Iterator[Journal]:
    """Take the lock of this folder for a new sweep, and begin its journal.

    Raises:
        UserError: another sweep is at work here; the message says which.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(LOCK, timeout=1):  # `is_running` of another process may hold it for a moment
            command = f"python -m stages.sweep {shlex.join(sys.argv[1:])}".rstrip()
            before = _recorded_before_interruption()
            yield Journal(command, os.getpid(), platform.node(), time.time(), recorded_before=before)
    except Timeout as error:
        raise UserError(f"{LOCK}: {_holder()}; see 'python -m stages.status', wait for it or stop it") from error


def _recorded_before_interruption() -> list[str] | None:
    """Return what dvc.lock held before the last sweep, if that was interrupted."""
    last = read()
    if last is None or not any(step.state in UNFINISHED for step in last.steps.values()):
        return None
    return last.recorded_before


def is_running() -> bool:
    """Say whether a sweep is at work in this folder, on any machine that shares it."""
    try:
        handle = os.open(LOCK, os.O_RDONLY)  # which a user may do who may write nothing here
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def idle() -> Iterator[bool]:
    """Keep sweeps from beginning in this folder; yields whether none is at work."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCK)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _holder() -> str:
    latest = read()
    if latest is None or latest.ended is not None:
        return "another sweep, or a search (python -m stages.tune), has begun here"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(latest.started))
    return f"another sweep is at work here: '{latest.command}', process {latest.pid} on {latest.host} since {since}"
