"""The processes in which a machine runs stages: how many at a time, how each is started, watched and ended.

Stages are forked by the standard library's fork server, which has imported torch already: 12 to 14 ms for each, where a
fresh interpreter needs 1.4 to 1.8 s.
"""

import importlib
import multiprocessing
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing import connection, forkserver, resource_tracker, util
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import psutil

from kdcore.sweep.gpus import DEVICE, VISIBLE, Environment, accelerator, gpus
from kdcore.system.errors import OUT_OF_MEMORY, UserError
from kdcore.training import loggers, pulse

PRELOADED = ("kdcore.sweep.processes", "torch", "stages.train", "stages.teacher", "stages.evaluate", "stages.transfer",
             "kdcore.training.experiment", "kdcore.results.evaluation", "kdcore.results.transfer")  # fmt: skip
"""Modules whose imports take seconds, those that stages import late too: the fork server imports them once for all."""
GRACE = 30.0
"""Seconds that a stage has to save its state after SIGTERM, before it is killed."""
LOOK = 0.5
"""Seconds between two checks whether a stage has to be ended."""
TAIL = 20
"""Lines of a log that are shown."""
SHIELDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal sends to all processes of a sweep. The sweep alone answers them; it then tells the stages."""
SERVER_GONE = 255
"""The exit code that multiprocessing gives to a process whose fork server was killed before it could tell the code."""
THREADS, BESIDE, TOGETHER = "OMP_NUM_THREADS", "KDCORE_BESIDE", "KDCORE_PROCESSES"
ALLOTTED = (("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE"), ("PBS_JOBID", "NCPUS"), ("PBS_JOBID", "PBS_NUM_PPN"),
            ("LSB_JOBID", "LSB_DJOB_NUMPROC"), ("JOB_ID", "NSLOTS"))  # fmt: skip
"""Pairs of variables by which a queue tells a job that it is one, and how many cores of the machine it has."""
CELL_MEMORY = 1.5e9
"""Bytes that a cell of CIFAR-100 needs on the CPU, see benchmarks/memory.py."""


# How many stages a machine runs at a time


def cores() -> int:
    """Count the cores that this process may use: in a job those that its queue tells it of."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = [os.environ.get(name, "") for job, name in ALLOTTED if job in os.environ]
    return min([seen, *(int(number) for number in told if number.isdecimal() and int(number) > 0)])


def default_jobs(slots_per_gpu: int) -> int:
    """Say how many stages run at a time: one per slot of a GPU; without GPUs as many as cores and memory allow."""
    names = gpus()
    if names or accelerator():
        return max(1, len(names)) * slots_per_gpu
    return max(1, min(cores(), int(psutil.virtual_memory().available / CELL_MEMORY)))


def every_slot(jobs: int, slots_per_gpu: int, threads: int | None) -> list[Environment]:
    """Divide this machine's GPUs and cores into slots.

    Args:
        jobs: the most stages at a time.
        slots_per_gpu: the most stages on one GPU.
        threads: per stage; None shares the cores evenly.

    Returns:
        The environment of each slot. Without GPUs there are as many as jobs, else all slots of the GPUs: first one on
        every GPU, then the second ones. KDCORE_DEVICE=xpu or mps is a single GPU.
    """
    names = gpus()
    slots: list[Environment] = [{} for _ in range(jobs)]
    if names:  # the GPU's name decides which one it is; without a device the CPU would stand in for one that is broken
        slots = [{VISIBLE: gpu, DEVICE: "cuda"} for _ in range(slots_per_gpu) for gpu in names]
    elif device := accelerator():
        slots = [{DEVICE: device} for _ in range(slots_per_gpu)]
    share = threads or max(1, cores() // min(jobs, len(slots)))
    return [{**slot, THREADS: str(share)} for slot in slots]


def alone(threads: int | None) -> Environment:
    """Return the environment of a stage beside which this machine runs no other; None gives it all cores."""
    return {THREADS: str(threads or cores())}


def threads_wanted() -> int | None:
    """Read the threads per stage from OMP_NUM_THREADS; None where it is not set.

    Raises:
        UserError: it is no number.
    """
    value = os.environ.get(THREADS)
    if value is not None and not (value.isdecimal() and int(value) > 0):
        raise UserError(f"{THREADS}={value}: must be the number of threads of each job, 1 or more")
    return None if value is None else int(value)


def refuse_together() -> None:
    """Refuse to let several processes train each cell of a sweep.

    Raises:
        UserError: KDCORE_PROCESSES asks for it, or torchrun's WORLD_SIZE, by which cells would wait for each other.
    """
    for name in (TOGETHER, "WORLD_SIZE"):
        if os.environ.get(name, "1") != "1":
            raise UserError(
                f"{name}={os.environ[name]}: a sweep gives each cell one GPU, or its share of the cores; unset it, or "
                "train with 'dvc repro'"
            )


def end_at_once(code: int) -> NoReturn:
    """End this process without waiting for anything; only the folder in which multiprocessing has sockets is removed.

    Args:
        code: its exit code.
    """
    shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
    os._exit(code)


class Slots:
    """Hands out the slots of one worker, one by one."""

    def __init__(self, environments: list[Environment]) -> None:
        self.count = 0
        self.free: queue.SimpleQueue[Environment] = queue.SimpleQueue()
        self.add(environments)

    def add(self, environments: list[Environment]) -> None:
        """Hand out more slots."""
        self.count += len(environments)
        for environment in environments:
            self.free.put(environment)


# One stage


class Ending(str, Enum):
    """How a stage's process ended."""

    DONE = "done"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    """Killed from outside, by the system if memory ran out, or with its machine."""
    TIMED_OUT = "timed out"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Job:
    """One stage to run.

    Args:
        step: the stage's name.
        command: from dvc.yaml.
        folder: of the project, on the machine where the stage runs.
        log: the file that its output goes to.
        timeout: seconds without a sign of life after which it is ended; None waits for ever.
        beside: names of other cells to train side by side with the stage's (see `kdcore.training.lockstep`).
    """

    step: str
    command: str
    folder: str
    log: str
    timeout: float | None = None
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell, teacher or pair that the stage is of; empty where there is one stage of its kind."""
        return self.step.partition("@")[2]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended, and where."""

    step: str
    ending: Ending
    code: int | None = None
    """Exit code; None where a signal ended the process, or none was started."""
    seconds: float = 0.0
    worker: str = ""
    tail: list[str] = field(default_factory=list)
    """The last lines of its log."""


_IN_TURN = threading.Lock()
"""multiprocessing is not made for threads: to start a process it reads the exit codes of those that have ended."""
_IMPORTED: list[tuple[str, str]] = []
"""The number of threads and the code with which this process's fork server was started."""


def prepare(environment: Environment, code: str) -> str:
    """Have the fork server of this process import what stages need, without waiting for it.

    Libraries read OMP_NUM_THREADS once, when they are imported, so it is set here for the server too.

    Args:
        environment: of the slots.
        code: a digest of the project's code.

    Returns:
        The start method for `run`: "spawn", a fresh interpreter per stage, where this process has served an earlier
        sweep, with other code or another number of threads, which the server still has; else "forkserver".
    """
    wanted = environment[THREADS], code
    _IMPORTED.append(wanted)
    if wanted != _IMPORTED[0]:
        return "spawn"
    os.environ[THREADS] = environment[THREADS]
    multiprocessing.set_forkserver_preload([*PRELOADED, *loggers.preloaded()])
    with _IN_TURN, _shielded():
        forkserver.ensure_running()
    return "forkserver"


def run(
    job: Job,
    environment: Environment,
    is_to_end: Callable[[], bool],
    *,
    method: str = "forkserver",
    worker: str = "here",
    beat: Callable[[], None] | None = None,
) -> Outcome:
    """Run a stage to its end.

    Args:
        job: the stage; its log is begun anew.
        environment: of its slot.
        is_to_end: whether the stage has to save its state and end; after `GRACE` seconds it is killed.
        method: how multiprocessing starts its process, see `prepare`.
        worker: what the outcome calls this machine.
        beat: called every half second while the stage runs.
    """
    began, log = time.time(), Path(job.log)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        process = _start(job, environment, method)
    except (OSError, EOFError) as error:
        reason = f"no process could be started for it ({type(error).__name__}: {error})"
        return Outcome(job.step, Ending.FAILED, worker=worker, tail=[reason])
    code, asked = _watch(process, lambda: _due(job, began, is_to_end), beat)
    exit_code = code if 0 <= code != SERVER_GONE else None
    return Outcome(job.step, _ending(exit_code, asked), exit_code, time.time() - began, worker, tail(log))


def _start(job: Job, environment: Environment, method: str) -> BaseProcess:
    """Start a stage's process; the first one waits for the imports of the fork server.

    Raises:
        OSError, EOFError: the server was killed, and so was the one that took its place.
    """
    process: BaseProcess = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
        target=_carry_out, args=(job, environment)
    )
    with _IN_TURN, _shielded():
        try:
            process.start()
        except (OSError, EOFError):  # the server was killed; once the system knows that it is gone, start replaces it
            time.sleep(LOOK)
            process.start()
    return process


def _watch(
    process: BaseProcess, due: Callable[[], Ending | None], beat: Callable[[], None] | None
) -> tuple[int, Ending | None]:
    """Wait until a stage's process has ended; returns its exit code, and why it was asked to end, if it was."""
    group, asked, deadline = process.pid or 0, None, 0.0
    try:
        while (code := _exit_code(process)) is None:
            if connection.wait([process.sentinel], LOOK):
                continue
            if beat is not None:
                beat()
            if asked is None:
                reason = due()
                if reason is not None and _signal(group, signal.SIGTERM):
                    asked, deadline = reason, time.time() + GRACE
            elif time.time() > deadline:
                _signal(group, signal.SIGKILL)
    finally:
        _signal(group, signal.SIGKILL)  # what the stage has started, and left; or the stage, if nobody watches it now
    with _IN_TURN:
        process.join()
        process.close()
    return code, asked


def _exit_code(process: BaseProcess) -> int | None:
    with _IN_TURN:
        return process.exitcode


def _due(job: Job, began: float, is_to_end: Callable[[], bool]) -> Ending | None:
    """Say why a stage has to be ended now; None where it may go on."""
    if is_to_end():
        return Ending.STOPPED
    if job.timeout is None:
        return None
    signs = [began]
    for path in (Path(job.log), Path(job.folder) / pulse.pulse_file(job.name)):
        with suppress(OSError):  # it is not there, or cannot be reached for a moment
            signs.append(path.stat().st_mtime)
    return Ending.TIMED_OUT if time.time() - max(signs) > job.timeout else None


def _signal(group: int, number: signal.Signals) -> bool:
    """Signal a stage and all that it has started; False where it has just ended, or only just begun."""
    try:
        os.killpg(group, number)
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
    """Read the last lines of a log; one that is missing, or cannot be read, has none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 500 * lines))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


@contextmanager
def _shielded() -> Iterator[None]:
    """Start processes that do not receive `SHIELDED` signals: a fork server that died would take exit codes along."""
    resource_tracker.ensure_running()  # multiprocessing's, whose start unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the stage's own process


def _carry_out(job: Job, environment: Environment) -> None:
    """Run a stage's command in this process, which was started for it, and end with its exit code."""
    os.setsid()  # a group of its own, to be ended with all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(job.folder)
    sys.path.insert(0, job.folder)
    os.environ.update(environment)
    os.environ[BESIDE] = " ".join(job.beside)
    command = shlex.split(job.command)
    if command[:2] != ["python", "-m"] or not command[2].startswith("stages."):
        sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603
    sys.argv = command[2:]
    stages = importlib.import_module("stages")
    stages.run(importlib.import_module(command[2]).main)


def _end_with_parent() -> None:
    """End this stage, with time to save its state, when the process that waits for it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)
