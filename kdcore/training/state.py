"""The state of unfinished training, outside DVC's outputs (which DVC deletes before a stage runs)."""

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from kdcore.system.errors import UserError, is_full
from kdcore.system.files import SCRATCH, allowed_bytes, sync
from kdcore.training.random import drawn_state

if TYPE_CHECKING:
    from kdcore.training.loop import Run

STATES = SCRATCH / "states"
SIZE_VARIABLE = "KDCORE_STATES_GB"
LARGEST = 20.0
"""GB of all states together, where the variable says nothing."""
KIND = b"kdcore state "
HEADER = KIND + b"2 "
"""How a file begins: its kind and the version of its format. The content's sha256 in hexadecimal digits, a newline and
the content follow.
"""
DIGITS = 2 * hashlib.sha256().digest_size
PATIENCE = 0.5
"""Seconds for which `make_room` of another process may hold a state."""


class BusyError(UserError):
    """Another process trains the run."""


class _UnusableError(Exception):
    """A file from which nothing can go on; says why."""


class ResumeState:
    """The last two states of one run, each in a file that is there whole or not at all.

    Args:
        path: of the latest one's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = path.with_suffix(".before")
        self.aside = path.with_suffix(".unfinished")
        self.lock = path.with_suffix(".lock")

    @classmethod
    def of(
        cls, *inputs: Path, device: torch.device, dtype: torch.dtype = torch.float32, processes: int = 1
    ) -> "ResumeState":
        """The state of the run that these input files determine on this kind of device, computed in this type, with
        this torch and as many threads and processes: another input never resumes from it, and what resumes ends with
        the same bits.
        """
        computed = f"{torch.__version__} {device.type} {dtype} {torch.get_num_threads()} {processes}"
        digest = hashlib.sha256(computed.encode())
        for path in inputs:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(STATES / f"{inputs[0].stem}-{digest.hexdigest()[:16]}.pt")

    @property
    def name(self) -> str:
        """The name of the cell or teacher."""
        return self.path.stem.rpartition("-")[0]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(found.st_size for found in self._found())

    @property
    def saved(self) -> float:
        """When it last was, in Unix time; 0 where it has not been."""
        return max((found.st_mtime for found in self._found()), default=0.0)

    def load(self) -> dict[str, Any] | None:
        """The latest saved state that is whole, or None where there is none. Files that are not are named, and removed,
        lest one takes the place of a whole one at the next `save`.

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
        """Add a state, and forget the one before the last. After a kill or a loss of power, at whatever moment, there
        is one of them, whole.

        Raises:
            OSError: the disk is full; names the file.
        """
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
            self.aside.unlink(missing_ok=True)  # a full disk needs its room
            if is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
            raise
        if self.path.is_file():
            self.path.replace(self.before)
        self.aside.replace(self.path)
        sync(self.path.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the same run: one that outlived a killed `dvc repro` may still be at it. And keep
        the states of all runs within the size that is allowed.

        Raises:
            BusyError: another process is at it.
            UserError: the size is no number.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.lock, timeout=PATIENCE):
                try:
                    make_room()
                    yield
                finally:
                    self.lock.unlink(missing_ok=True)  # somebody may have removed the folder meanwhile
        except Timeout as error:
            raise BusyError(
                f"{self.lock}: another process trains this; wait for it or end it, then run again"
            ) from error

    def discard(self) -> bool:
        """Forget the state of an abandoned run; whether it is one, for a run that goes on keeps its state."""
        try:
            with FileLock(self.lock, timeout=0):
                self.remove()
                self.lock.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def remove(self) -> None:
        """Forget the state, once the run's results are in place."""
        for path in (self.path, self.before, self.aside):
            path.unlink(missing_ok=True)

    def _found(self) -> Iterator[os.stat_result]:
        for path in (self.path, self.before, self.aside):
            try:
                yield path.stat()
            except FileNotFoundError:  # or its run has just replaced or removed it
                continue


def saved_states() -> list[ResumeState]:
    """List the states of all unfinished runs of this folder, the oldest first."""
    if not STATES.is_dir():
        return []
    return sorted(
        map(ResumeState, {path.with_suffix(".pt") for path in STATES.iterdir()}), key=lambda state: state.saved
    )


def make_room() -> None:
    """Remove abandoned states, the oldest first, until all are within the size that `KDCORE_STATES_GB` allows.

    Raises:
        UserError: it is no number.
    """
    allowed = allowed_bytes(SIZE_VARIABLE, LARGEST)
    found = [(state, state.size) for state in saved_states()]
    used = sum(size for _, size in found)
    for state, size in found:
        if used > allowed and size and state.discard():
            used -= size
            print(
                f"warning: {state.path}: the state of an interrupted run is removed ({size / 1e6:.1f} MB), for all "
                f"together exceed {SIZE_VARIABLE}={allowed / 1e9:g}",
                file=sys.stderr,
            )


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds, read without executing code; None where there is no file."""
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
    """The state of a run, between two steps or after an epoch, from which `restore` continues with the same bits."""
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
    """Bring a new run to where a saved one was; None leaves it at its beginning."""
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
    return {"student": run.student, "objective": run.objective, "optimizer": run.optimizer}
