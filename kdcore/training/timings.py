"""Log how long trainings took on this machine.

The log lies beside the results and not in them, so that results have the same bits whenever they are computed again. No
stage depends on it, and it may be deleted.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdcore.system.files import SCRATCH, file_sha256

FILE = SCRATCH / "timings.jsonl"
"""The log: one JSON line per training, the latest last."""


@dataclass(frozen=True)
class Timing:
    """One training that was finished on this machine."""

    name: str
    """The name of the cell or teacher."""
    card: str
    """The SHA-256 of the card's file."""
    student: str
    """The network that was trained."""
    method: str
    epochs: int
    """How many epochs the process that finished the training has trained: all, or those since a run was resumed."""
    images_per_second: float
    """Training images per second in the process that finished the training; the time includes evaluation."""
    seconds: float
    """How many seconds the process that finished the training took; for cells trained side by side, the cell's share.
    """
    bytes: int
    """The size of the run's folder, in bytes."""
    device: str
    threads: int
    """How many CPU threads each process used."""
    finished: str
    """The time at which the training ended: UTC, in the format of ISO 8601."""
    batch_size: int | None = None
    """Images per step; None in a log of an earlier version."""
    beside: int = 0
    """How many other cells the process trained side by side with it: times are then those of the mean cell."""
    memory: int | None = None
    """The most memory that the process took, in bytes (see `peak_memory`); None in a log of an earlier version."""

    @property
    def step_milliseconds(self) -> float | None:
        """Milliseconds per step, with the step's share of the evaluations; None where the batch size is not known."""
        return None if self.batch_size is None else 1000 * self.batch_size / self.images_per_second


_TIMING = TypeAdapter(Timing)


def record(
    card_file: Path,
    out: Path,
    meta: dict[str, Any],
    *,
    epochs: int,
    seconds: float,
    images_per_second: float,
    beside: int = 0,
) -> None:
    """Append a training to the log; other processes may append at the same time.

    Args:
        card_file: file of the card that was trained.
        out: the run's folder, which is already written.
        meta: content of the run's meta.json.
        epochs: how many epochs this process has trained.
        seconds: how many seconds this process took.
        images_per_second: training images per second in this process; the time includes evaluation.
        beside: how many other cells it trained side by side with this one.
    """
    timing = Timing(
        name=meta["name"],
        card=file_sha256(card_file),
        student=meta["student"],
        method=meta["method"],
        epochs=epochs,
        images_per_second=round(images_per_second, 1),
        seconds=round(seconds, 2),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        device=meta["device"],
        threads=meta["threads"],
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        batch_size=meta["train"]["batch_size"],
        beside=beside,
        memory=peak_memory(str(meta["device"])),
    )
    line = f"{json.dumps(asdict(timing))}\n".encode()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("ab+", buffering=0) as file:
        file.seek(max(file.tell() - 1, 0))
        is_whole = file.read(1) in (b"", b"\n")  # a loss of power may have cut the last line short
        file.write(line if is_whole else b"\n" + line)  # appended in one piece, even if other processes write


def peak_memory(device: str) -> int:
    """Return the most memory, in bytes, that this process has taken so far.

    Args:
        device: as meta.json names it. On a GPU of CUDA it is what tensors took there, at most at one time; else the
            resident memory of the process, with Python, the libraries and the data set.
    """
    if device.startswith("cuda"):
        import torch  # which is long imported where something trained on a GPU

        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def load() -> list[Timing]:
    """Read all timings from the log, the latest last. A damaged line is reported on standard error and skipped."""
    if not FILE.is_file():
        return []
    found = []
    whole = FILE.read_bytes().split(b"\n")[:-1]  # text after the last newline is still being written
    for number, line in enumerate(whole, start=1):
        if not line:
            continue
        try:
            found.append(_TIMING.validate_json(line, strict=True))
        except ValidationError as error:
            print(f"{FILE}, line {number}: is damaged and skipped ({error.errors()[0]['msg']})", file=sys.stderr)
    return found
