"""What a step of a cell spends its time on: the trainer's own code, its parts timed where it calls them.

Run: python -m benchmarks.shares [PAIR [LEVELS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch

from benchmarks import common
from benchmarks.common import BATCH, Case
from kdcore.data.dataset import Dataset
from kdcore.data.feed import Feed
from kdcore.networks.contract import Network
from kdcore.training import device, loop, teacher_outputs
from kdcore.training.loop import Callbacks
from kdcore.training.optimizers import SGD

PARTS = ("augmentation", "teacher", "student", "loss", "backward", "optimiser")
REST = "bookkeeping"
"""Metrics, progress, and what is between the parts."""
WARM = 3
"""First steps of an epoch, which are not counted."""


class Clock:
    """Adds up what each part of a step takes.

    Args:
        where: the parts compute; it is waited for at the end of each, which a run that is not measured does not do.
    """

    def __init__(self, where: torch.device) -> None:
        self.where = where
        self.steps: list[dict[str, float]] = []
        self.open: dict[str, float] = defaultdict(float)
        self.began = self.now()

    def now(self) -> float:
        """Seconds, once the device is idle."""
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        return time.perf_counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time added to a part."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            returned = function(*args, **kwargs)
            self.open[part] += self.now() - started
            return returned

        return run

    def each(self, part: str, items: Iterator[Any]) -> Iterator[Any]:
        """The same items, the time that each takes to come added to a part."""
        come = self.timed(part, lambda: next(items, None))
        while (item := come()) is not None:
            yield item

    def end_step(self, _images: int) -> None:
        """A step ends, and the next one begins."""
        now = self.now()
        self.open[REST] = now - self.began - sum(self.open.values())
        self.steps.append(self.open)
        self.open, self.began = defaultdict(float), now


def measure(case: Case, dataset: Dataset, teacher: Network, where: torch.device) -> list[dict[str, float]]:
    """Seconds per part of the steps of an epoch."""
    clock = Clock(where)
    run = loop.prepare(case.card, dataset, teacher, device=where, callbacks=Callbacks(on_step=clock.end_step))
    optimizer, prepare, batches = cast(SGD, run.optimizer), teacher_outputs.prepare, Feed.batches
    patched: list[tuple[Any, str, Callable[..., Any]]] = [
        (Feed, "batches", lambda *args, **kwargs: clock.each("augmentation", batches(*args, **kwargs))),
        (teacher_outputs, "prepare", lambda *args, **kwargs: clock.timed("teacher", prepare(*args, **kwargs))),
        (run.student, "forward", clock.timed("student", run.student.forward)),
        (run.objective, "forward", clock.timed("loss", run.objective.forward)),
        (torch.autograd, "backward", clock.timed("backward", torch.autograd.backward)),
        (optimizer, "step", clock.timed("optimiser", optimizer.step)),
    ]
    with ExitStack() as stack:
        for owner, name, function in patched:
            stack.enter_context(mock.patch.object(owner, name, function))
        loop.train(run, teacher, dataset)
    return clock.steps[WARM:]


def main(
    pair: str = "resnet56-resnet20",
    levels: str = "1,2,4",
    count: str = "1280",
    repetitions: str = "5",
    computed: str = "auto",
) -> None:
    """Print the milliseconds and the share of every part, with and without a filled table, and keep them."""
    where, images = device.choose(), int(count)
    case, dataset = Case(pair, common.levels(levels), precision=computed), common.noise(images)
    teacher, _ = common.networks_of(pair, where)
    found: dict[str, list[dict[str, float]]] = {"trainer": [], "table": []}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"trainer": None, "table": Path(folder)}
        with common.tables(ways["table"]):
            common.train(case, dataset, teacher, where)  # warms caches and fills the table
        for _ in range(int(repetitions)):
            for way, tables in ways.items():
                with common.tables(tables):
                    found[way] += measure(case, dataset, teacher, where)
    means = {
        way: {part: 1e3 * sum(step[part] for step in steps) / len(steps) for part in (*PARTS, REST)}
        for way, steps in found.items()
    }
    totals = {way: sum(parts.values()) for way, parts in means.items()}
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {len(found['table'])} steps of each\n")
    rows = [
        [
            part,
            *(cell for way in means for cell in (f"{means[way][part]:.2f}", f"{means[way][part] / totals[way]:.1%}")),
        ]
        for part in (*PARTS, REST)
    ]
    rows.append(["step", *(cell for total in totals.values() for cell in (f"{total:.2f}", ""))])
    common.show(["", "trainer, ms", "share", "with a filled table, ms", "share"], rows)
    content = {
        **case.describe(where),
        "images": images,
        "steps": len(found["table"]),
        "milliseconds": {way: {part: round(ms, 3) for part, ms in parts.items()} for way, parts in means.items()},
        "shares": {
            way: {part: round(ms / totals[way], 4) for part, ms in parts.items()} for way, parts in means.items()
        },
    }
    common.keep("shares", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
