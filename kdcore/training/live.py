"""Show a person how training proceeds: a progress bar, and files that other processes can watch."""

import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any

from kdcore.system import csvfile
from kdcore.system.files import remove_file, replace_text
from kdcore.training.loop import Callbacks, Row
from kdcore.training.pulse import Pulse, live_file, pulse_file

MEASURED = ("val", "test")
"""The images that a run may be measured on, in the order of the columns of its history."""
PULSE_SECONDS = 5.0
"""The least number of seconds between two pulses while steps are taken."""


class TrainingProgress:
    """Shows a progress bar with loss, accuracy, images per second and time left; prints one line when the run ends.

    From `follow` until `forget`, other processes can watch the run too: `live_file` holds its history, in the format of
    the run's folder, once an epoch has ended, and `pulse_file` says how far the run is. An interrupted run leaves both
    files for the process that resumes it.

    Args:
        name: the cell or teacher that is trained.
        epochs: how many epochs the run has in all.
        images: how many images an epoch has.
        shown: whether a bar is shown and live files are written.
    """

    def __init__(self, name: str, epochs: int, images: int, *, shown: bool = True) -> None:
        self.name = name
        self.epochs, self.images = epochs, images
        self.started = time.perf_counter()
        self.done = 0
        self.last: Row = {}
        self.state = ""
        """What the bar says of the last epoch."""
        self.measured: Row = {}
        """The row of the last epoch after which the network was measured, of this process or an earlier one."""
        self.shown = shown
        self.history: list[Row] = []
        self.begun = 0
        self.next_pulse = math.inf
        self.bar: Any = None
        """Shown in a terminal, from the first step on."""

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks that the training loop calls."""
        return Callbacks(on_step=self._on_step, on_epoch=self._on_epoch)

    @property
    def seconds(self) -> float:
        """How many seconds have passed since this object was made."""
        return time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Training images per second in this process; the time includes evaluation."""
        return self.done / self.seconds

    @property
    def trained(self) -> int:
        """How many whole epochs this process has trained."""
        return len(self.history) - math.ceil(self.begun / self.images)

    def follow(self, history: list[Row], seen: int = 0) -> None:
        """Begin the bar and the live files, at the point that an earlier process reached if there was one.

        Args:
            history: the run's rows, one per epoch; the loop appends to this list.
            seen: how many images of the current epoch an earlier process has trained on.
        """
        self.history = history
        self.begun = len(history) * self.images + seen
        self.measured = next(filter(_is_measured, reversed(history)), {})
        self._write_live()

    def forget(self) -> None:
        """Remove the live files, once the run's results are in place."""
        if self.shown:
            remove_file(live_file(self.name))
            remove_file(pulse_file(self.name))

    def _write_live(self) -> None:
        if not self.shown:
            return
        if self.history:
            replace_text(live_file(self.name), csvfile.text(self.history))
        self._write_pulse()

    def _write_pulse(self) -> None:
        last = self.history[-1] if self.history else {}
        rate = self.images_per_second
        left = self.epochs * self.images - self.begun - self.done
        pulse = Pulse(
            name=self.name,
            epoch=len(self.history),
            epochs=self.epochs,
            loss=last.get("loss"),
            test_top1=self.measured.get("test_top1"),
            images_per_second=round(rate, 1),
            seconds_left=round(left / rate, 1) if rate else None,
            pid=os.getpid(),
            host=platform.node(),
            updated=time.time(),
        )
        replace_text(pulse_file(self.name), json.dumps(asdict(pulse)))
        self.next_pulse = time.monotonic() + PULSE_SECONDS

    def _on_step(self, images: int) -> None:
        self.done += images
        if self.bar is None and self.shown and sys.stderr.isatty():
            self.bar = _bar(self.name, self.epochs * self.images)
        if self.bar is not None:
            self.bar.update(0, completed=self.begun + self.done)
        if time.monotonic() >= self.next_pulse:
            self._write_pulse()

    def _on_epoch(self, row: Row) -> None:
        self.last = row
        self.measured = row if _is_measured(row) else self.measured
        self._write_live()
        top1 = {name: self.measured.get(f"{name}_top1") for name in MEASURED}
        measured = "  ".join(f"{name} {value:.2f}%" for name, value in top1.items() if value is not None)
        rate = f"{self.images_per_second:,.0f} images/s"
        self.state = f"epoch {row['epoch']:.0f}  loss {row['loss']:.3f}  {measured}  {rate}"
        if self.bar is not None:
            self.bar.update(0, completed=row["epoch"] * self.images, state=self.state)

    def __enter__(self) -> "TrainingProgress":
        """Begin; the bar appears with the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Replace the bar by one line with accuracy, time and rate; after an error, print nothing."""
        if self.bar is not None:
            self.bar.stop()
        if error is None and self.last and self.shown:
            is_tested = "test_top1" in self.last
            top1 = f"{self.last['test_top1']:.2f}%" if is_tested else f"{self.last['val_top1']:.2f}% (validation)"
            rate = f"{self.images_per_second:,.0f} images/s"
            print(f"{self.name}: top-1 {top1} in {self.seconds:.1f} s, {rate}", file=sys.stderr)


def _bar(name: str, total: int) -> Any:
    """Start a progress bar of `total` images on stderr. Only now is rich imported, for which no first step waits."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    state = TextColumn("{task.fields[state]}")
    bar = Progress(*columns, state, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    bar.add_task(name, total=total, state="")
    bar.start()
    return bar


def _is_measured(row: Row) -> bool:
    return not any(math.isnan(row[f"{name}_top1"]) for name in MEASURED if f"{name}_top1" in row)
