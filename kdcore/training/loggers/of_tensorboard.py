"""TensorBoard: event files that its own writer makes, anew from the whole history whenever a process begins."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from kdcore.training.loggers.contract import Logger, Run

FLUSHED = 5
"""Seconds until a point is in the file, for those who watch."""


class TensorBoard(Logger):
    """Scalars by epoch, and the card as text."""

    def __init__(self, run: Run) -> None:
        self.writer = SummaryWriter(str(run.emptied("tensorboard")), flush_secs=FLUSHED)
        lines = [f"| {key} | {value} |" for key, value in run.config.items()]
        self.writer.add_text("card", "\n".join(["| key | value |", "|:--|:--|", *lines]))

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to every curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self, *, finished: bool) -> None:
        """Write what is waiting."""
        self.writer.close()
