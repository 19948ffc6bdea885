"""Save and restore unfinished training. The files lie outside DVC's outputs, which DVC deletes before a stage runs."""

import errno
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import TRAININGS
from kdcore.system.errors import UserError, is_full
from kdcore.system.files import SCRATCH, allowed_bytes, sync
from kdcore.training.random import drawn_state

if TYPE_CHECKING:
    from kdcore.training.loop import Run

STATES = SCRATCH / "states"
SIZE_VARIABLE = "KDCORE_STATES_GB"
LARGEST = 20.0
"""The most gigabytes that all states together may take, if `KDCORE_STATES_GB` is not set."""
KIND = b"kdcore state "
HEADER = KIND + b"2 "
"""The start of every file: its kind and the version of its format. The SHA-256 of the content in hexadecimal digits, a
newline and the content follow.
"""
DIGITS = 2 * hashlib.sha256().digest_size
LARGE = 32e6
"""Bytes of a state, such as crd's with its memories of all images, from which it is not saved after every epoch."""
SHARE = 0.05
"""The largest share of a run's time that saving its large states may take."""
PATIENCE = 0.5
"""How many seconds a run waits for its lock without a word: `make_room` of another process may hold it for a moment."""
ENDING = 40.0
"""And how many with one: a process whose sweep or `dvc repro` is gone may take thirty to save its state and end."""


class BusyError(UserError):
    """Another process trains the same run."""


class _UnusableError(Exception):
    """A file holds no state from which training can continue; the message says why."""


class ResumeState:
    """The last two saved states of one run, each in its own file, which is written whole or not at all.

    Args:
        path: the file of the latest state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = path.with_suffix(".before")
        self.aside = path.with_suffix(".unfinished")
        self.lock = path.with_suffix(".lock")
        self.epochs: int | None = None
        """How many whole epochs the state holds that was saved last; None before one is."""
        self.due = 0.0
        """The time of `time.monotonic` from which another one is to be saved."""

    @classmethod
    def of(
        cls,
        *inputs: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        processes: int = 1,
        compiled: bool = False,
    ) -> "ResumeState":
        """Find the state of the run that these input files determine.

        The file's name also depends on the kind of device, the type that is computed in, the version of torch, and the
        numbers of threads and processes, and on whether steps are compiled. So a run resumes only from a state with
        which it ends with the same bits.

        Args:
            inputs: files that determine the run; the first one is the card, after which the state is named.
            device: where the run is computed; only its kind counts.
            dtype: the type in which convolutions and matrix products are computed.
            processes: how many processes train the run together.
            compiled: whether its steps are compiled.
        """
        computed = f"{torch.__version__} {device.type} {dtype} {torch.get_num_threads()} {processes}"
        computed += " compiled" if compiled else ""
        digest = hashlib.sha256(computed.encode())
        for path in inputs:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(STATES / f"{inputs[0].stem}-{digest.hexdigest()[:16]}.pt")

    @property
    def name(self) -> str:
        """The name of the cell or teacher that is trained."""
        return self.path.stem.rpartition("-")[0]

    @property
    def key(self) -> str:
        """What tells it from runs of the same name with other inputs, or computed otherwise: hexadecimal digits."""
        return self.path.stem.rpartition("-")[2]

    @property
    def size(self) -> int:
        """The size of all files of this run, in bytes."""
        return sum(found.st_size for found in self._found())

    @property
    def saved(self) -> float:
        """The Unix time at which a state was last saved; 0 if none is."""
        return max((found.st_mtime for found in self._found()), default=0.0)

    def load(self) -> dict[str, Any] | None:
        """Read the latest state that is whole; None if there is none.

        A damaged file is reported on standard error and removed, because the next `save` would otherwise put it in the
        place of a whole one.

        Raises:
            UserError: a file cannot be read.
        """
        state, reasons = None, []
        for path in (self.path, self.before):
            try:
                state = _read(path)
            except _UnusableError as error:
                reasons.append(f"{path}: {error}")
                path.unlink(missing_ok=True)
            if state is not None:
                break
        if reasons:
            before = state and f"goes on from the state before it, with {len(state['history'])} epochs behind it"
            print(f"warning: {'; '.join(reasons)}; {self.name} {before or 'starts anew'}", file=sys.stderr)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Save a state, and keep the one that was saved before it; the one before that is removed. If the process is
        killed or the power fails, at whatever moment, at least one whole state remains.

        Raises:
            OSError: the file cannot be written; if the disk is full, the error names the file.
        """
        began = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        torch.save(state, buffer)
        try:
            with self.aside.open("wb") as file:
                file.write(HEADER + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            self.aside.unlink(missing_ok=True)  # what was written so far would keep a full disk full
            if is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
            raise
        if self.path.is_file():
            self.path.replace(self.before)
        self.aside.replace(self.path)
        sync(self.path.parent)
        self.epochs, self.due = len(state["history"]), time.monotonic()
        if buffer.getbuffer().nbytes >= LARGE:
            self.due += (self.due - began) / SHARE

    @property
    def is_wanted(self) -> bool:
        """Whether the matrix has a run of this name."""
        return any((CARDS / stage / f"{self.name}.yaml").is_file() for stage in TRAININGS)

    @property
    def is_due(self) -> bool:
        """Whether a run that has finished an epoch is to save it: after every epoch, but large states so rarely that
        saving them takes `SHARE` of the time at most. A run that is killed then repeats the epochs since the last one.
        """
        return time.monotonic() >= self.due

    @contextmanager
    def locked(self, *, waits: bool = True) -> Iterator[None]:
        """Lock the run inside the block, because a process that outlived a killed `dvc repro` may still train it.
        Before the block, old states of other runs are removed until all fit in the allowed size (see `make_room`).

        Args:
            waits: whether to wait for a process that may be about to end.

        Raises:
            BusyError: another process trains this run.
            UserError: `KDCORE_STATES_GB` is not a number of gigabytes.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._acquired(waits=waits)
        try:
            make_room()
            yield
        finally:
            self.lock.unlink(missing_ok=True)  # the folder may have been removed meanwhile
            lock.release()

    def _acquired(self, *, waits: bool) -> FileLock:
        lock = FileLock(self.lock)
        with suppress(Timeout):
            lock.acquire(timeout=PATIENCE)
            return lock
        with suppress(Timeout):
            if waits:
                print(f"{self.lock}: another process trains this; waiting {ENDING:g} s for its end", file=sys.stderr)
                lock.acquire(timeout=ENDING)
                return lock
        raise BusyError(f"{self.lock}: another process trains this; wait for it or end it, then run again")

    def discard(self) -> bool:
        """Remove the state of an abandoned run; returns whether it did. A run that is still in training keeps its
        state.
        """
        try:
            with FileLock(self.lock, timeout=0):
                self.remove()
                self.lock.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def remove(self) -> None:
        """Remove all files of the state, once the run's results are in place."""
        for path in (self.path, self.before, self.aside):
            path.unlink(missing_ok=True)

    def _found(self) -> Iterator[os.stat_result]:
        for path in (self.path, self.before, self.aside):
            try:
                yield path.stat()
            except FileNotFoundError:  # it was never written, or its run has just replaced or removed it
                continue


def saved_states() -> list[ResumeState]:
    """List the states of all unfinished runs in `STATES`, the oldest first."""
    if not STATES.is_dir():
        return []
    return sorted(
        map(ResumeState, {path.with_suffix(".pt") for path in STATES.iterdir()}), key=lambda state: state.saved
    )


def make_room() -> None:
    """Remove the states of abandoned runs, the oldest first, until all fit in the size that `KDCORE_STATES_GB` allows.
    The last one of every run of the matrix stays: it may be trained to the end, beside another cell, and not yet
    written.

    Raises:
        UserError: the variable is not a number of gigabytes.
    """
    allowed = allowed_bytes(SIZE_VARIABLE, LARGEST)
    found = [(state, state.size) for state in saved_states()]
    used = sum(size for _, size in found)
    last = {state.name: state for state, _ in found}
    for state, size in found:
        is_kept = state.is_wanted and last[state.name] is state
        if used > allowed and size and not is_kept and state.discard():
            used -= size
            print(
                f"warning: {state.path}: the state of an interrupted run is removed ({size / 1e6:.1f} MB), for all "
                f"together exceed {SIZE_VARIABLE}={allowed / 1e9:g}",
                file=sys.stderr,
            )


def _read(path: Path) -> dict[str, Any] | None:
    """Read the state that a file holds, without executing code from it; None if there is no file.

    Raises:
        UserError: the file cannot be read.
        _UnusableError: the file is empty, damaged, or of another version.
    """
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    start, content = whole[: len(HEADER) + DIGITS + 1], memoryview(whole)[len(HEADER) + DIGITS + 1 :]
    if not start.startswith(KIND):
        raise _UnusableError("is no state of a run" if start else "is empty")
    if not start.startswith(HEADER):
        raise _UnusableError("is of another version of this program")
    if start != HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise _UnusableError("is damaged (its content has another checksum)")
    state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return state


def capture(run: "Run") -> dict[str, Any]:
    """Collect the state of a run, between two steps or after an epoch; a run that `restore` sets to it ends with the
    same bits.
    """
    state = {name: part.state_dict() for name, part in _parts(run).items()}
    if run.sums.steps:
        sums = run.sums
        losses = {name: torch.stack(values) for name, values in sums.losses.items()}
        state["epoch"] = {
            "losses": losses,
            "shares": sums.shares,
            "correct": torch.stack(sums.correct),
            "images": sums.images,
            "drawn": run.drawn or drawn_state(run.device, run.generator),
        }
    return {"history": run.history, "predicted": run.predicted, **state}


def restore(run: "Run", state: dict[str, Any] | None) -> None:
    """Set a new run to a state from `capture`; None leaves the run at its beginning."""
    if state is None:
        return
    for name, part in _parts(run).items():
        part.load_state_dict(state[name])
    run.history, run.predicted = state["history"], state["predicted"]
    if "epoch" in state:
        epoch = state["epoch"]
        run.sums.losses = {name: list(values.to(run.device)) for name, values in epoch["losses"].items()}
        run.sums.shares, run.sums.images = epoch["shares"], epoch["images"]
        run.sums.correct = list(epoch["correct"].to(run.device))
        run.drawn = epoch["drawn"]


def _parts(run: "Run") -> dict[str, Any]:
    average = {} if run.average is None else {"average": run.average.network}
    return {"student": run.student, "objective": run.objective, "optimizer": run.optimizer, **average}
