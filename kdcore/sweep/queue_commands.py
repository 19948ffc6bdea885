"""The commands of a cluster's queue: how it is asked for the states of jobs, what it says, and where their logs are."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

LOOK = 0.5
"""Seconds between two looks whether a command has ended."""
ANSWER = 120.0
"""Seconds that a command of the queue has to answer."""
FAREWELL = 15.0
"""Seconds that a command which is at work may take on when the sweep ends."""
WORDS = 400
"""The most characters of what a command says that a message holds."""


@dataclass(frozen=True)
class Question:
    """How a queue is asked for the states of a user's jobs: a line for each, the first word of which is its number."""

    command: str
    column: int
    """Which word of a line is the state, counted from 0."""
    over: tuple[str, ...] = ()
    """States of jobs that have ended and are still listed."""
    nothing: str = ""
    """What the command complains of where there are no jobs; empty where it does not complain."""
    names: dict[str, str] = field(default_factory=dict)
    """State -> the word for it."""
    has_reason: bool = False
    """Whether the rest of the line says why the job is in this state."""


QUESTIONS = {
    "slurm": Question(
        f"squeue --all --noheader --user={os.getuid()} --format='%i %T %r'",
        1,
        over=("CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"),
        has_reason=True,
    ),
    "pbs": Question("qstat", 4, over=("C", "F", "X")),
    "sge": Question("qstat", 4),
    "lsf": Question("bjobs -w", 2, over=("DONE", "EXIT"), nothing="No unfinished job found"),
    "htcondor": Question(
        "condor_q -af:j JobStatus",
        1,
        over=("3", "4"),
        names={"1": "idle", "2": "running", "5": "held", "6": "sending output", "7": "suspended"},
    ),
}
"""dask-jobqueue's name of a queue -> how it is asked. OAR and Moab are not: only a worker shows that its job runs."""


NUMBERS = {
    "slurm": r"Submitted batch job (\d+)",
    "lsf": r"Job <(\d+)>",
    "sge": r"Your job (\d+)",
    "pbs": r"(?m)^(\d+)\.\S*$",
    "moab": r"(?m)^(?:[A-Za-z]\w*\.)?(\d+)(?:\.\S*)?$",
    "oar": r"OAR_JOB_ID=(\d+)",
    "htcondor": r"submitted to cluster \d+",
}
"""What a queue says of a job that it has taken; dask-jobqueue would take the first number of a greeting for it, and
adds to HTCondor's number that of the process.
"""


DROPPED = re.compile(
    r"SQUEUE_\w+|SCANCEL_\w+|LSB_BJOBS_FORMAT|SBATCH_ARRAY_INX|SBATCH_WAIT|BSUB_BLOCK|BSUB_QUIET|PBS_DPREFIX"
    r"|(CUDA|HIP|ROCR)_VISIBLE_DEVICES"
)
"""Variables by which squeue hides jobs, which would be taken for gone, or bjobs their numbers, by which sbatch submits
arrays, or waits for the end of a job, as bsub does, by which bsub says no number, by which scancel leaves jobs in the
queue, by which qsub reads no directives, and which choose GPUs of this machine, not of a job's.
"""


def environment() -> dict[str, str]:
    """Return the environment of a command of a queue: that of this process without variables that `DROPPED` matches."""
    return {name: value for name, value in os.environ.items() if not DROPPED.fullmatch(name)}


class QueueError(Exception):
    """A command of the queue failed; in its own words.

    Args:
        words: what is shown.
        output: what it has printed before it failed.
    """

    def __init__(self, words: str, output: str = "") -> None:
        super().__init__(words)
        self.output = output


def call(command: Sequence[str], closing: threading.Event) -> str:
    """Run a command of a queue.

    Args:
        command: and its arguments.
        closing: once it is set, the command has `FAREWELL` seconds left.

    Returns:
        What it prints.

    Raises:
        QueueError: there is no such command, it fails, or it does not answer; the message holds its own words.
    """
    try:
        with TemporaryFile() as printed, TemporaryFile() as complaints:  # not pipes: a child may keep those open
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=complaints,
                start_new_session=True,
                env=environment(),
            )
            code = _wait(process, closing)
            output, words = (_contents(file) for file in (printed, complaints))
    except OSError as error:
        raise QueueError(f"{command[0]}: {error.strerror}") from error
    if code == 0:
        return output
    words = " ".join((words.strip() or output.strip()).split())[-WORDS:]
    waited = FAREWELL if closing.is_set() else ANSWER
    reason = f"no answer in {waited:g} seconds" if code is None else f"exit code {code}"
    raise QueueError(f"{command[0]}: {words or reason}", output)


def _wait(process: "subprocess.Popen[bytes]", closing: threading.Event) -> int | None:
    """Wait for a command; returns its exit code, or None where it gave no answer and was killed."""
    deadline = time.monotonic() + ANSWER
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK)
        if closing.is_set():
            deadline = min(deadline, time.monotonic() + FAREWELL)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _contents(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def states(said: str, numbers: Sequence[str], question: Question) -> dict[str, str]:
    """Read the states of jobs that have not ended from what a queue has said.

    Args:
        said: what its command has printed.
        numbers: the jobs.
        question: what it was asked.
    """
    found = {}
    for line in said.splitlines():
        words = line.split()
        number = next((number for number in numbers if words and number in (words[0], words[0].partition(".")[0])), "")
        if not number or len(words) <= question.column or words[question.column] in question.over:
            continue
        state = question.names.get(words[question.column], words[question.column])
        reason = " ".join(words[question.column + 1 :]).strip("()") if question.has_reason else ""
        found[number] = f"{state} ({reason})" if reason not in ("", "None") else state
    return found


def logs(number: str, folder: Path, since: float) -> list[Path]:
    """List the logs of a job that hold something: files whose name holds its number.

    Args:
        number: the job's.
        folder: where they are.
        since: Unix time; files that were not written to since then are no logs of it.
    """
    named = re.compile(rf"(?<!\d){re.escape(number.partition('.')[0])}(?!\d)")
    files = [path for path in folder.glob("*") if named.search(path.name) and path.is_file()]
    return [path for path in files if path.stat().st_size and path.stat().st_mtime >= since]
