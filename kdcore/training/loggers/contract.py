"""What a logger is given, and what it must do."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """A run that is logged."""

    name: str
    """The name of the cell or teacher."""
    key: str
    """Tells it from runs of the same name with another card, data set or teacher. A run that goes on has the same."""
    config: dict[str, Any]
    """The card as plain values: pair, method, seed, recipe.temperature, train.lr."""
    root: Path
    """The folder in which loggers have folders."""

    def emptied(self, logger: str) -> Path:
        """Return this run's folder of one logger, without what an earlier process of the run wrote there."""
        folder = self.root / logger / self.name / self.key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


class Logger(ABC):
    """One logger of one run; anything that it raises ends it, not the run.

    Args:
        run: is opened, or gone on with.
    """

    @abstractmethod
    def __init__(self, run: Run) -> None: ...

    @abstractmethod
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log the finite values of an epoch, counted from 1. Each process begins with epoch 1, also where it goes on
        with a run; what is there already must not be there twice.
        """

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Write what is not written yet; `finished` says whether the run has ended or was interrupted."""
