"""The report of a dry run: what a sweep would do and why, the time that it would take, the disk that it would fill."""

import heapq
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from kdcore.catalog import VANILLA
from kdcore.matrix import planned
from kdcore.matrix.cell import Cell
from kdcore.matrix.params import Params
from kdcore.matrix.teacher_cards import SEED
from kdcore.sweep.display import duration
from kdcore.sweep.dry_run import MD5, Judge, Lookup, Outlook
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.sweep.schedule import Estimates, Order
from kdcore.system.files import file_digests

ROWS = 40
"""The most rows of the table; stages with one outlook and reason share a row where there would be more."""
SHOWN = (Outlook.TO_RUN, Outlook.CACHED, Outlook.BLOCKED, Outlook.UP_TO_DATE)
AHEAD = (Outlook.TO_RUN, Outlook.BLOCKED)
"""Outlooks of stages that take time."""


@dataclass(frozen=True)
class Training:
    """What a training would cost; None where nothing like it was trained here."""

    seconds: float | None
    bytes: float | None
    """Size of its results."""


@dataclass(frozen=True)
class Line:
    """The outlook of one stage."""

    step: str
    outlook: Outlook
    reason: str
    cell: Cell | None
    """The cell that the stage trains; None for other stages, those of teachers included."""
    training: Training | None
    """None for stages that train nothing."""


@dataclass(frozen=True)
class Disk:
    """A disk that would be written to: its bytes needed and free."""

    folder: Path
    needed: float
    free: float


@dataclass(frozen=True)
class Forecast:
    """What a sweep would do.

    Args:
        lines: a line per stage, in the order in which a sweep would run them.
        jobs: stages at a time.
        cache: the folder of DVC's cache.
    """

    lines: list[Line]
    jobs: int
    cache: Path

    def count(self, outlook: Outlook, *, cells: bool) -> int:
        """Count the cells with this outlook, or the other stages."""
        return sum(line.outlook is outlook and (line.cell is not None) is cells for line in self.lines)

    def trainings(self, *outlooks: Outlook) -> list[Training]:
        """List the trainings of cells and teachers with one of these outlooks."""
        return [line.training for line in self.lines if line.training is not None and line.outlook in outlooks]

    def seconds(self, outlook: Outlook) -> float:
        """Add up the time of trainings with this outlook, divided among the jobs, as far as it is known."""
        return sum(training.seconds or 0.0 for training in self.trainings(outlook)) / self.jobs

    @property
    def unknown(self) -> int:
        """The number of trainings ahead whose time is not known."""
        return sum(training.seconds is None for training in self.trainings(*AHEAD))

    def disks(self) -> list[Disk]:
        """Say what results would need, as far as it is known. New results lie in the workspace and in the cache; those
        that are cached already take space in the workspace only.
        """
        new, cached = (
            sum(training.bytes or 0.0 for training in self.trainings(*outlooks))
            for outlooks in (AHEAD, (Outlook.CACHED,))
        )
        return disks([(Path.cwd(), new + cached), (self.cache, new)])

    def show(self, console: Console) -> None:
        """Print the table of stages, and the totals."""
        table = Table("stage", "", "state", "reason", "time", box=None, pad_edge=False, header_style="bold")
        table.columns[1].justify = table.columns[4].justify = "right"
        for row in condensed([line for line in self.lines if line.outlook is not Outlook.UP_TO_DATE]):
            table.add_row(*row)
        if table.row_count:
            console.print(table, "", sep="\n", markup=False)
        console.print(*self.totals(), sep="\n", markup=False, soft_wrap=True)

    def totals(self) -> list[str]:
        """Return the lines below the table: counts, time and disk."""
        lines = [
            f"{what}: " + ", ".join(f"{self.count(outlook, cells=cells)} {outlook.value}" for outlook in SHOWN)
            for what, cells in (("cells", True), ("other stages", False))
        ]
        if self.trainings(*AHEAD):
            lines.append(f"time: {self._time()}")
        for disk in self.disks():
            if not disk.needed:
                continue
            least = "at least " if self.unknown else ""
            told = f"{least}{decimal(int(disk.needed))} for results and DVC's cache, {decimal(int(disk.free))} free"
            lines.append(f"disk: {told} at {disk.folder}")
            if disk.needed > disk.free:
                lines.append(f"warning: the disk of {disk.folder} will be full; make space there first")
        return lines

    def _time(self) -> str:
        ahead = self.trainings(*AHEAD)
        if self.unknown == len(ahead):
            return "unknown, for nothing like what is to be trained was trained here"
        blocked = self.seconds(Outlook.BLOCKED)
        at = "one job at a time" if self.jobs == 1 else f"{self.jobs} jobs at a time"
        parts = [f"about {duration(self.seconds(Outlook.TO_RUN))}, {at}"]
        parts += [f"up to {duration(blocked)} more where what is blocked must run too"] if blocked else []
        parts += [f"without {self.unknown} of {len(ahead)}, which nothing trained here is like"] if self.unknown else []
        return "; ".join(parts)


def make(
    pipeline: Pipeline, params: Params, estimates: Estimates, *, jobs: int, replaced: Path | None = None
) -> Forecast:
    """Work out what a sweep would do.

    Args:
        pipeline: the stages of the sweep.
        params: the matrix.
        estimates: of the time and size of its cells.
        jobs: stages at a time.
        replaced: a params.yaml elsewhere that stands for the project's.

    Raises:
        UserError: the plan could not be made.
    """
    order = Order(params, estimates, pipeline.steps)
    judge = Judge(
        Lookup(pipeline),
        params,
        lambda: planned.cards(params),
        replaced={} if replaced is None else {replaced.name: file_digests(replaced, MD5)[MD5]},
    )
    lines = {}
    for step in pipeline.steps:
        outlook, reason = judge.judge(step)
        if outlook is Outlook.LEFT_OUT:
            continue
        cell = order.cells.get(step)
        training = (
            _teacher(step, params, estimates) if cell is None else Training(order.seconds[step], estimates.bytes(cell))
        )
        lines[step] = Line(step, outlook, reason, cell, training)
    steps = [step for step in run_order(pipeline.needs, order.rank) if step in lines]
    return Forecast([lines[step] for step in steps], jobs, pipeline.cache)


def _teacher(step: str, params: Params, estimates: Estimates) -> Training | None:
    """Estimate a teacher that is trained here like a baseline of its network; None for other stages."""
    stage, _, name = step.partition("@")
    if stage != "teacher" or params.teachers[name].source != "train":
        return None
    alone = Cell(f"{name}-{name}", VANILLA, SEED)
    settings = params.teachers[name].train
    return Training(estimates.seconds(alone, settings.epochs if settings else 0), estimates.bytes(alone))


def run_order(needs: Mapping[str, Iterable[str]], rank: Callable[[str], Any]) -> list[str]:
    """Order steps as one worker would run them: of those whose needs are done, the one that ranks first.

    Args:
        needs: step -> the steps that it needs; those that are no keys are taken to be done.
        rank: a key by which steps are sorted, see `Order`.
    """
    left = {step: set(above) & needs.keys() for step, above in needs.items()}
    below = defaultdict(list)
    for step, above in left.items():
        for needed in above:
            below[needed].append(step)
    ready = [(rank(step), step) for step, above in left.items() if not above]
    heapq.heapify(ready)
    order = []
    while ready:
        _, step = heapq.heappop(ready)
        order.append(step)
        for waiting in below[step]:
            left[waiting].remove(step)
            if not left[waiting]:
                heapq.heappush(ready, (rank(waiting), waiting))
    return order


def condensed(lines: Sequence[Line]) -> list[tuple[str, str, str, str, str]]:
    """Make the rows of the table: stages, their number, outlook, reason, and the time that they take one after another.

    Where there would be more than `ROWS`, stages with one outlook and reason share a row: first those that differ in
    the seed, then the cells of a method, those of a pair, and all cells.
    """
    rows: list[list[Line]] = []
    for shared in (_step, _step_without_seed, _method, _pair, _stage):
        groups: dict[Any, list[Line]] = defaultdict(list)
        for line in lines:
            groups[shared(line), line.outlook, line.reason].append(line)
        rows = list(groups.values())
        if len(rows) <= ROWS:
            break
    return [
        (
            named([line.step for line in row]),
            f"× {len(row)}" if len(row) > 1 else "",
            row[0].outlook.value,
            row[0].reason,
            _total(row),
        )
        for row in rows
    ]


def _step(line: Line) -> Any:
    return line.step


def _step_without_seed(line: Line) -> Any:
    return line.step if line.cell is None else replace(line.cell, seed=0)


def _method(line: Line) -> Any:
    return line.step if line.cell is None else (line.cell.pair, line.cell.method)


def _pair(line: Line) -> Any:
    return line.step if line.cell is None else (line.cell.stage, line.cell.pair)


def _stage(line: Line) -> Any:
    return line.step.partition("@")[0]


def named(steps: Sequence[str]) -> str:
    """Name steps of one stage by a pattern that --glob understands."""
    if len(steps) == 1:
        return steps[0]
    parts = [step.replace("@", "@-").split("-") for step in steps]
    same = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))]
    return "-".join([*same, "*"]).replace("@-", "@")


def _total(lines: Sequence[Line]) -> str:
    trainings = [line.training for line in lines if line.training is not None and line.outlook in AHEAD]
    known = [training.seconds for training in trainings if training.seconds is not None]
    if not trainings:
        return ""
    return f"{'> ' if known and len(known) < len(trainings) else ''}{duration(sum(known) if known else None)}"


def disks(needed: Sequence[tuple[Path, float]]) -> list[Disk]:
    """Find the disks of some folders, several of which may lie on one.

    Args:
        needed: each folder, and the bytes by which it will grow.
    """
    by_device: dict[int, Disk] = {}
    for folder, size in needed:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        device = there.stat().st_dev
        so_far = by_device.get(device, Disk(folder, 0.0, shutil.disk_usage(there).free))
        by_device[device] = replace(so_far, needed=so_far.needed + size)
    return list(by_device.values())
