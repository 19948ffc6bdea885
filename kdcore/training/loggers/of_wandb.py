"""Weights & Biases: offline unless WANDB_MODE says otherwise. Offline a process writes the run anew from its whole
history; online it goes on with the run of the same id, and adds the epochs that are missing.
"""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from kdcore.training.loggers.contract import Logger, Run

PROJECT = "kdcore"


class Wandb(Logger):
    """A run with the card as its configuration."""

    def __init__(self, run: Run) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=f"{run.name}-{run.key}",
            config=run.config,
            dir=str(run.emptied("wandb")),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        self.first = self.run.step
        """The first epoch that the run does not have; 0 for a new one."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log an epoch that the run does not have."""
        if epoch >= self.first:
            self.run.log(dict(values), step=epoch)

    def close(self, *, finished: bool) -> None:
        """End it, and wait until its helper process has written all; an interrupted run counts as failed."""
        self.run.finish(exit_code=0 if finished else 1)
        wandb.teardown()
