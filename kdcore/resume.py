"""The state of unfinished training, outside DVC's outputs (which DVC deletes before a stage runs)."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kdcore.errors import UserError

FOLDER = Path("scratch")


class ResumeState:
    """The last complete epoch of one run, in a file that is replaced as a whole.

    Args:
        path: of the state file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
        return cls(FOLDER / f"{inputs[0].stem}-{digest.hexdigest()[:16]}.pt")

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None when there is none.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch raises for a damaged file depends on where the damage is
            raise UserError(f"{self.path}: is damaged ({type(error).__name__}); delete it to start anew") from error
        if not isinstance(state, dict) or set(state) != {"history", "student", "objective", "optimizer"}:
            raise UserError(f"{self.path}: is no state of a run; delete it to start anew")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state; a reader sees the old one or the new one, whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(f".{os.getpid()}")
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the same run: one that outlived a killed `dvc repro` may still be at it.

        Raises:
            UserError: another process is.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_suffix(".lock")
        try:
            with FileLock(lock, timeout=0):
                try:
                    yield
                finally:
                    lock.unlink()
        except Timeout as error:
            raise UserError(f"{lock}: another process trains this; wait for it or end it, then run again") from error

    def remove(self) -> None:
        """Forget the state, once the run's results are in place."""
        self.path.unlink(missing_ok=True)
