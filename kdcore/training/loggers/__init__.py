"""Feed loggers (TensorBoard, W&B, MLflow, DVCLive) with the history of a run, epoch by epoch.

They change no result, so the environment chooses them and no card does. Whatever fails in one is said once, and
training goes on without it. Each gets a run's whole history from the saved state when training begins or goes on, and
replaces by it what an earlier process has logged, or skips what it has: no epoch is there twice.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from kdcore.system import workspace
from kdcore.system.errors import UserError, shown, suggest
from kdcore.training.loggers.contract import Logger, Run

VARIABLE = "KDCORE_LOGGERS"
NAMES = ("tensorboard", "wandb", "mlflow", "dvclive")
PRELOADED = {"tensorboard": "torch.utils.tensorboard", "dvclive": "dvclive"}
"""Modules of loggers that a sweep imports once for all of its cells; those of others start threads."""
FOLDER = Path("scratch/loggers")
"""Where loggers write, one folder for each."""
KEY = 8
"""Hexadecimal digits that tell runs of a cell apart: of other cards, data, teachers, or kinds of machines."""
EXTRAS = {"mlflow": "mlflow"}
"""Loggers whose package is not in the extra `loggers` -> the extra that brings it."""
LONGEST = 200
"""Characters of what a library says of its failure."""


def chosen() -> tuple[str, ...]:
    """Read from KDCORE_LOGGERS which loggers are fed; none where it is not set or empty.

    Raises:
        UserError: a name is unknown; the message has those that are allowed.
    """
    given = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    names = tuple(dict.fromkeys(name for name in given if name))
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"{VARIABLE}: unknown logger {shown(name)}.{suggest(name, NAMES)} Allowed are {', '.join(NAMES)}, "
                "several with commas between them"
            )
    return names


def preloaded() -> list[str]:
    """Name the modules that a sweep imports beforehand for the loggers that are chosen."""
    return [PRELOADED[name] for name in chosen() if name in PRELOADED]


class Feed:
    """Feeds the chosen loggers with the history of one run.

    Args:
        names: the loggers' names, from `chosen`.
        card: of the cell or teacher that is trained.
        key: tells this run from others of the same name: those of another card, data set, teacher or kind of machine.
    """

    def __init__(self, names: Sequence[str], card: Mapping[str, Any], key: str) -> None:
        folder = (workspace.origin() or Path()) / FOLDER
        self.waiting = list(names)
        self.run = Run(str(card["name"]), key[:KEY], flat(card), folder.resolve())
        self.loggers: dict[str, Logger] = {}
        self.sent = 0

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the epochs of a run that have not been logged by this process, in their order.

        Args:
            history: all rows of the run so far; see `kdcore.training.loop.Row`. Values that are not finite, of epochs
                after which nothing was measured, are left out.
        """
        for name in self.waiting:
            with self._guarded(name), _signals_as_before():
                self.loggers[name] = _opened(name, self.run)
        self.waiting = []
        rows = [{key: value for key, value in row.items() if isfinite(value)} for row in history[self.sent :]]
        self.sent = len(history)
        for name, logger in [*self.loggers.items()]:
            with self._guarded(name):
                for row in rows:
                    logger.log(int(row["epoch"]), {key: value for key, value in row.items() if key != "epoch"})

    def close(self, *, finished: bool) -> None:
        """Close the loggers.

        Args:
            finished: whether the run has ended; an interrupted one can go on.
        """
        for name, logger in [*self.loggers.items()]:
            with self._guarded(name), _signals_as_before():
                logger.close(finished=finished)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Turn an error of a logger into a warning, after which it is not called any more."""
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever a logger does, the cell is not to fail for it
            self.loggers.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
            bring = f"; pip install -e '.[{EXTRAS.get(name, 'loggers')}]' brings it"
            advice = bring if isinstance(error, ImportError) else ""
            with suppress(OSError):  # nobody reads stderr any more
                print(
                    f"warning: {self.run.name}: logger {name} failed ({reason}) and is not fed any more{advice}",
                    file=sys.stderr,
                )


@contextmanager
def following(names: Sequence[str], card: Mapping[str, Any], key: str) -> Iterator[Feed]:
    """Open a feed, and close its loggers at the end of the block, whose errors they are told of; see `Feed`."""
    feed = Feed(names, card, key)
    try:
        yield feed
    except BaseException:
        feed.close(finished=False)
        raise
    feed.close(finished=True)


def flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write a card as a flat mapping of plain values: recipe.temperature, train.lr; without fingerprints of code."""
    values: dict[str, Any] = {}
    for key, value in card.items():
        if key == "code" and not prefix:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            values |= flat(value, f"{name}.")
        else:
            values[name] = value if isinstance(value, str | int | float) else str(value)
    return values


def _opened(name: str, run: Run) -> Logger:
    """Open a logger, whose library is imported only now."""
    if name == "tensorboard":
        from kdcore.training.loggers.of_tensorboard import TensorBoard

        return TensorBoard(run)
    if name == "wandb":
        from kdcore.training.loggers.of_wandb import Wandb

        return Wandb(run)
    if name == "mlflow":
        from kdcore.training.loggers.of_mlflow import Mlflow

        return Mlflow(run)
    from kdcore.training.loggers.of_dvclive import DvcLive

    return DvcLive(run)


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Give signals back to the trainer, which saves its state on them, where a library has taken them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
