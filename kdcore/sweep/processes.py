"""A stage's command, run in a child of a warm process, and watched until it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path

import psutil

from kdcore.sweep import FOLDER, warm
from kdcore.system.errors import OUT_OF_MEMORY, RunError
from kdcore.training import pulse

TAIL = 20
"""Lines of a log that are shown."""
LOOK = 0.5
"""Seconds between two looks at whether a job is to be ended."""
SILENCE = 120.0
"""Seconds in which the process that starts jobs has imported what it needs, and answers."""


class Ending(str, Enum):
    """How a job ended."""

    DONE = "done"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    """Killed from outside, by the system if memory ran out, or with its machine."""
    TIMED_OUT = "timed out"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Job:
    """One stage to be run.

    Args:
        step: the stage's name.
        command: as in dvc.yaml.
        folder: the project's, on the machine where it runs.
        log: the file that its output goes to.
        timeout: seconds without a sign of life, after which it is ended; None waits for ever.
    """

    step: str
    command: str
    folder: str
    log: str
    timeout: float | None = None

    @property
    def name(self) -> str:
        """Of the cell, teacher or pair; empty for stages that there is one of."""
        return self.step.partition("@")[2]


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and where."""

    step: str
    ending: Ending
    code: int | None = None
    seconds: float = 0.0
    worker: str = ""
    tail: list[str] = field(default_factory=list)
    """The last lines of its log."""


class Nursery:
    """The warm process of one project folder on this machine, started when it is first needed.

    Args:
        folder: the project's.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def begin(self, environment: dict[str, str]) -> None:
        """Start the process, without waiting until it is warm.

        Args:
            environment: variables that its libraries read when they are imported, such as OMP_NUM_THREADS.
        """
        with self.lock:
            self._begin(environment)

    def start(self, job: Job, environment: dict[str, str]) -> tuple[int, socket.socket]:
        """Start a job.

        Returns:
            Its process number, which is that of its group; and a socket that brings its exit code, and closes with it.

        Raises:
            RunError: the warm process does not come up.
        """
        ours, theirs = socket.socketpair()
        content = {"command": job.command, "folder": job.folder, "log": job.log, "environment": environment}
        with theirs, self.lock:
            for _ in range(2):  # one that ended meanwhile, without a job, is replaced
                control = self._begin(environment)
                control.settimeout(SILENCE)
                with suppress(ConnectionError, TimeoutError):
                    socket.send_fds(control, [json.dumps(content).encode()], [theirs.fileno()])
                    answer = control.recv(64)
                    if answer:
                        return int(answer), ours
                self.end()
        raise RunError("\n".join(["the process that starts jobs ends at once, or is silent:", *tail(self.log)]))

    @property
    def log(self) -> Path:
        """What the warm process itself has to say."""
        return Path(self.folder) / FOLDER / "warm.log"

    def end(self) -> None:
        """Let the warm process go; its children are not touched."""
        if self.control is not None:
            self.control.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.control = self.process = None

    def _begin(self, environment: dict[str, str]) -> socket.socket:
        if self.control is None:
            self.control, theirs = socket.socketpair()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", warm.__name__, str(theirs.fileno())]
            with theirs, self.log.open("wb") as log:
                self.process = subprocess.Popen(  # noqa: S603
                    command,
                    cwd=self.folder,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        return self.control


@cache
def nursery(folder: str) -> Nursery:
    """The one of a folder in this process."""
    return Nursery(folder)


def run(
    job: Job,
    environment: dict[str, str],
    is_to_end: Callable[[], bool],
    *,
    worker: str = "here",
    beat: Callable[[], None] | None = None,
) -> Outcome:
    """Run a job to its end.

    Args:
        job: to be run; its log is begun anew.
        environment: variables of its slot.
        is_to_end: whether the job is asked to save its state and end, as it is after a timeout; and then made to.
        worker: where this is, for the outcome.
        beat: called every half second meanwhile.
    """
    began, log = time.time(), Path(job.log)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        pid, report = nursery(job.folder).start(job, environment)
    except (RunError, OSError) as error:
        return Outcome(job.step, Ending.FAILED, worker=worker, tail=str(error).splitlines())
    with closing(report):
        code, asked = _watch(pid, report, lambda: _due(job, began, is_to_end), beat)
    return Outcome(job.step, _ending(code, asked), code, time.time() - began, worker, tail(log))


def _watch(
    pid: int, report: socket.socket, due: Callable[[], Ending | None], beat: Callable[[], None] | None
) -> tuple[int | None, Ending | None]:
    """Wait for a job's end; returns its exit code, if it gave one, and why it was asked to end, if it was."""
    asked, deadline, answer = None, 0.0, b""
    report.settimeout(LOOK)
    while (received := _hear(report, pid)) != b"":
        if received is not None:
            answer += received
        elif beat is not None:
            beat()
        if asked is None:
            reason = due()
            if reason is not None and _end(pid, signal.SIGTERM):
                asked, deadline = reason, time.time() + warm.GRACE
        elif time.time() > deadline:
            _end(pid, signal.SIGKILL)
    return (int(answer) if answer else None), asked


def _hear(report: socket.socket, pid: int) -> bytes | None:
    """What a job says; nothing after its end, None while it is silent."""
    try:
        return report.recv(64)
    except TimeoutError:
        if psutil.pid_exists(pid):
            return None
        _end(pid, signal.SIGKILL)  # what it has started, and what keeps the socket open
        with suppress(BlockingIOError):
            return report.recv(64, socket.MSG_DONTWAIT)
        return b""


def _due(job: Job, began: float, is_to_end: Callable[[], bool]) -> Ending | None:
    """Whether a job is to be ended now, and why."""
    if is_to_end():
        return Ending.STOPPED
    if job.timeout is None:
        return None
    signs = [began]
    for path in (Path(job.log), Path(job.folder) / pulse.pulse_file(job.name)):
        with suppress(FileNotFoundError):
            signs.append(path.stat().st_mtime)
    return Ending.TIMED_OUT if time.time() - max(signs) > job.timeout else None


def _end(group: int, how: signal.Signals) -> bool:
    """Whether it could be told: not when it has just ended, or has only just begun."""
    try:
        os.killpg(group, how)
    except ProcessLookupError:
        return False
    return True


def _ending(code: int | None, asked: Ending | None) -> Ending:
    if code == 0:
        return Ending.DONE
    if asked is not None:
        return asked
    if code is None:
        return Ending.LOST
    return Ending.OUT_OF_MEMORY if code == OUT_OF_MEMORY else Ending.FAILED


def tail(log: Path, lines: int = TAIL) -> list[str]:
    """The last lines of a log; none of one that is not there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 500 * lines))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
