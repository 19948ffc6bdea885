"""What a person sees while a network trains."""

import csv
import os
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdcore.resume import FOLDER
from kdcore.training import Row, Watcher

LIVE = FOLDER / "live"
"""Where the histories of unfinished runs can be read, one CSV file per run."""


def live_file(name: str) -> Path:
    """Where the history of a run that is not finished can be read."""
    return LIVE / f"{name}.csv"


class TrainingProgress:
    """A progress bar with loss, accuracy, images per second and time left; one line when the run ends.

    A run that is followed can be watched from elsewhere too: its history is in `live_file`, as it will be in the run's
    folder, from its first epoch until `forget`. An interrupted run leaves the file for the one that goes on.

    Args:
        name: of what is trained.
        epochs: in all.
        images: per epoch.
        shown: whether a person sees it, and others may follow.
    """

    def __init__(self, name: str, epochs: int, images: int, *, shown: bool = True) -> None:
        self.name = name
        self.images = images
        self.started = time.perf_counter()
        self.done = 0
        self.last: Row = {}
        self.shown = shown
        self.history: list[Row] = []
        self.console = Console(stderr=True, quiet=not shown)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=epochs * images, state="")

    @property
    def watcher(self) -> Watcher:
        """To hand to the trainer."""
        return Watcher(on_step=self._on_step, on_epoch=self._on_epoch)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Training images in this process, evaluation included in the time."""
        return self.done / self.seconds

    @property
    def timing(self) -> dict[str, float]:
        """Of this process alone: a resumed run counts from its resumption."""
        return {"seconds": round(self.seconds, 2), "images_per_second": round(self.images_per_second, 1)}

    def follow(self, history: list[Row]) -> None:
        """Keep `live_file` equal to this history, to which the trainer adds a row per epoch."""
        self.history = history
        self._write_live()

    def forget(self) -> None:
        """Remove `live_file`, once the run's results are in place."""
        if self.shown:
            live_file(self.name).unlink(missing_ok=True)

    def _write_live(self) -> None:
        """Replace the file as a whole: a reader sees all epochs of it or all of the one before."""
        if not self.shown or not self.history:
            return
        path = live_file(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        with aside.open("w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=self.history[0], lineterminator="\n")
            table.writeheader()
            table.writerows(self.history)
        aside.replace(path)

    def _on_step(self, images: int) -> None:
        self.done += images
        self.bar.advance(self.task, images)

    def _on_epoch(self, row: Row) -> None:
        self.last = row
        self._write_live()
        state = (
            f"epoch {row['epoch']:.0f}  loss {row['loss']:.3f}  test {row['test_top1']:.2f}%  "
            f"{self.images_per_second:,.0f} images/s"
        )
        self.bar.update(self.task, completed=row["epoch"] * self.images, state=state)

    def __enter__(self) -> "TrainingProgress":
        """Show the bar."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Replace the bar by one line."""
        self.bar.stop()
        if error is None and self.last:
            self.console.print(
                f"{self.name}: top-1 {self.last['test_top1']:.2f}% in {self.seconds:.1f} s, "
                f"{self.images_per_second:,.0f} images/s",
                highlight=False,
                soft_wrap=True,
            )
