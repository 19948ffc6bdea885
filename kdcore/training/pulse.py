"""What runs that are not finished say of themselves, for whoever looks from another process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kdcore.system.files import SCRATCH

LIVE = SCRATCH / "live"
"""Two files per run: its history so far as CSV, and its pulse."""


@dataclass(frozen=True)
class Pulse:
    """How far a run is."""

    name: str
    """The name of the cell or teacher."""
    epoch: int
    """The last finished one; 0 before the first."""
    epochs: int
    """In all."""
    loss: float | None
    """The mean loss of the last finished epoch."""
    test_top1: float | None
    """Percent, after the last finished epoch."""
    images_per_second: float
    """Training images in this process, evaluation included in the time."""
    seconds_left: float | None
    """At that rate; None as long as there is none."""
    pid: int
    host: str
    updated: float
    """Unix time. While steps go on it is renewed every few seconds; not while the network is measured."""


_PULSE = TypeAdapter(Pulse)


def live_file(name: str) -> Path:
    """Where the history of a run that is not finished can be read."""
    return LIVE / f"{name}.csv"


def pulse_file(name: str) -> Path:
    """Where the pulse of a run that is not finished can be read."""
    return LIVE / f"{name}.json"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def pulses(complain: Callable[[str], None] = _to_stderr) -> dict[str, Pulse]:
    """Read the pulse of every unfinished run, by its name; a killed run leaves its last one.

    Args:
        complain: is told of files that are damaged or cannot be read, which are skipped.
    """
    found = {}
    for path in sorted(LIVE.glob("*.json")):
        try:
            pulse = _PULSE.validate_json(path.read_bytes(), strict=True)
        except FileNotFoundError:  # its results have come in since it was listed
            continue
        except OSError as error:
            complain(f"{path}: cannot be read and is skipped ({error.strerror})")
            continue
        except ValidationError as error:
            complain(f"{path}: is damaged and skipped ({error.errors()[0]['msg']})")
            continue
        found[pulse.name] = pulse
    return found
