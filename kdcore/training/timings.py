"""How long trainings took on this machine: a log beside the results, which hold no clock's time so that they have the
same bits whenever they are computed again. No stage depends on it, and it may be deleted.
"""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdcore.system.files import SCRATCH, file_sha256

FILE = SCRATCH / "timings.jsonl"
"""A line per training, the latest last."""


@dataclass(frozen=True)
class Timing:
    """One training that was finished here."""

    name: str
    """The name of the cell or teacher."""
    card: str
    """The sha256 of its card's file."""
    student: str
    """The network that was trained."""
    method: str
    epochs: int
    """Trained by the process that finished it: a resumed run counts from its resumption."""
    images_per_second: float
    """Training images in that process, evaluation included in the time."""
    seconds: float
    """Seconds that the process took; of cells trained side by side, the cell's share."""
    bytes: int
    """The size of the run's folder."""
    device: str
    threads: int
    """CPU threads of each process."""
    finished: str
    """The time in UTC, in the format of ISO 8601."""


_TIMING = TypeAdapter(Timing)


def record(
    card_file: Path, out: Path, meta: dict[str, Any], *, epochs: int, seconds: float, images_per_second: float
) -> None:
    """Add a training to the log; other processes may do so at the same time.

    Args:
        card_file: the card that was carried out.
        out: the run's folder, written.
        meta: content of the run's meta.json.
        epochs: how many epochs this process has trained.
        seconds: how long it took.
        images_per_second: its rate of training images, evaluation included in the time.
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
    )
    line = f"{json.dumps(asdict(timing))}\n".encode()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("ab+", buffering=0) as file:
        file.seek(max(file.tell() - 1, 0))
        is_whole = file.read(1) in (b"", b"\n")  # a loss of power may have cut the last line short
        file.write(line if is_whole else b"\n" + line)  # at the end, in one piece, whoever else writes


def load() -> list[Timing]:
    """All that the log holds, the latest last; a damaged line is skipped, and said to be."""
    if not FILE.is_file():
        return []
    found = []
    whole = FILE.read_bytes().split(b"\n")[:-1]  # what follows the last end of a line is being written just now
    for number, line in enumerate(whole, start=1):
        if not line:
            continue
        try:
            found.append(_TIMING.validate_json(line, strict=True))
        except ValidationError as error:
            print(f"{FILE}, line {number}: is damaged and skipped ({error.errors()[0]['msg']})", file=sys.stderr)
    return found
