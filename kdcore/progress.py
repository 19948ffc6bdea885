"""What a person sees while a network trains."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdcore.training import Row, Watcher


class TrainingProgress:
    """A progress bar with loss, accuracy, images per second and time left; one line when the run ends.

    Args:
        name: of what is trained.
        epochs: in all.
        images: per epoch.
        shown: whether a person sees it.
    """

    def __init__(self, name: str, epochs: int, images: int, *, shown: bool = True) -> None:
        self.name = name
        self.images = images
        self.started = time.perf_counter()
        self.done = 0
        self.last: Row = {}
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

    def _on_step(self, images: int) -> None:
        self.done += images
        self.bar.advance(self.task, images)

    def _on_epoch(self, row: Row) -> None:
        self.last = row
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
