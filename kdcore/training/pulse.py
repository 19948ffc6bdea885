"""Read how far unfinished runs are, from files that the runs keep for other processes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kdcore.system.files import SCRATCH

LIVE = SCRATCH / "live"
"""The folder with two files per unfinished run: its history so far as CSV, and its pulse as JSON."""


@dataclass(frozen=True)
class Pulse:
    """How far an unfinished run is, written by the process that trains it."""

    name: str
    """The name of the cell or teacher."""
    epoch: int
    """The last finished epoch; 0 before the first one has ended."""
    epochs: int
    """How many epochs the run has in all."""
    loss: float | None
    """The mean loss of the last finished epoch; None before the first one has ended."""
    test_top1: float | None
    """Of the last epoch after which the network was measured."""
    """The test accuracy after the last finished epoch, in percent; None before the first one has ended, and in a run
    that never looks at test images.
    """
    images_per_second: float
    """Training images per second in this process; the time includes evaluation."""
    seconds_left: float | None
    """How many seconds the rest of the run takes at the present rate; None before the first step, when the rate is 0.
    """
    pid: int
    host: str
    updated: float
    """The Unix time of this pulse. It is renewed every few seconds while steps are taken, but not in evaluation."""


_PULSE = TypeAdapter(Pulse)


def live_file(name: str) -> Path:
    """Return the path of the file that holds the history of an unfinished run."""
    return LIVE / f"{name}.csv"


def pulse_file(name: str) -> Path:
    """Return the path of the file that holds the pulse of an unfinished run."""
    return LIVE / f"{name}.json"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def pulses(complain: Callable[[str], None] = _to_stderr) -> dict[str, Pulse]:
    """Read the pulses of all unfinished runs: name of the run -> pulse. A killed run leaves its last pulse behind.

    Args:
        complain: is called with a message for each file that is damaged or cannot be read; such files are skipped.
    """
    found = {}
    for path in sorted(LIVE.glob("*.json")):
        try:
            pulse = _PULSE.validate_json(path.read_bytes(), strict=True)
        except FileNotFoundError:  # the run has ended since the files were listed
            continue
        except OSError as error:
            complain(f"{path}: cannot be read and is skipped ({error.strerror})")
            continue
        except ValidationError as error:
            complain(f"{path}: is damaged and skipped ({error.errors()[0]['msg']})")
            continue
        found[pulse.name] = pulse
    return found
