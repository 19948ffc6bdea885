"""What the accuracy of a row costs: the time of a training step, beside memory and what is trained beside the student.

SDD's table 9 and SKD's figure 5 set accuracy beside the time of a step like this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kdcore.matrix.cell import BASE
from kdcore.results.diagnostics.stored import Diagnosis
from kdcore.results.entry import Entry
from kdcore.results.rows import Results


@dataclass(frozen=True)
class Cost:
    """What it takes to train the cells of a row, mean over the seeds that are known."""

    entry: Entry
    device: str
    """The device that they were trained on, with its CPU threads; empty where nothing is known of the training."""
    milliseconds: float | None
    """Time per step, with its share of the evaluations."""
    memory: float | None
    """Peak memory in bytes, see `kdcore.training.timings.peak_memory`."""
    adapters: float | None
    """Parameters that the method trains beside the student; None where the pair has no diagnostics."""


def costs(results: Results) -> list[Cost]:
    """Return the costs of all rows of which something is known. A row that was trained on several devices has no times,
    for their mean would be of no device.
    """
    found = []
    for entry in results.entries:
        diagnosis = results.diagnoses.get(entry.pair, {"cells": [], "cost": {"trainings": {}}})
        names = results.cells_of(entry)
        kept = {cell["name"]: cell["adapters"] for cell in diagnosis["cells"]}
        adapters = [kept[name] for name in names if name in kept]
        known = [training for name in names if (training := _training(results, diagnosis, name)) is not None]
        devices = {device for device, _, _ in known}
        times = [step for _, step, _ in known if step is not None] if len(devices) == 1 else []
        memory = [size for _, _, size in known if size is not None] if len(devices) == 1 else []
        if known or adapters:
            device = devices.pop() if len(devices) == 1 else ""
            found.append(Cost(entry, device, _mean(times), _mean(memory), _mean(adapters)))
    return found


def timed(results: Results) -> dict[tuple[str, str], list[Cost]]:
    """Group the rows that have both a mean accuracy and a time per step by pair and device, in the order of the matrix;
    groups of a single row, which compare nothing, are left out.
    """
    groups: dict[tuple[str, str], list[Cost]] = {}
    for cost in costs(results):
        if cost.milliseconds is not None and cost.entry.mean is not None:
            groups.setdefault((cost.entry.pair, cost.device), []).append(cost)
    return {key: some for key, some in groups.items() if len(some) > 1}


def front(some: Sequence[Cost]) -> list[Cost]:
    """Return the costs that no other one beats: none is as accurate in less time, or more accurate in as little. The
    fastest comes first. A variant that was trained on other images, or for other epochs, is no rival of the others, and
    is left out.
    """
    best: list[Cost] = []
    rivals = [one for one in some if one.entry.row.variant == BASE or not one.entry.budget]
    for cost in sorted(rivals, key=lambda one: (one.milliseconds or 0.0, -(one.entry.mean or 0.0))):
        if not best or (cost.entry.mean or 0.0) > (best[-1].entry.mean or 0.0):
            best.append(cost)
    return best


def _training(results: Results, diagnosis: Diagnosis, name: str) -> tuple[str, float | None, int | None] | None:
    """Return device, milliseconds per step and memory of a cell's training: from the log of this machine where it is
    read, else from the one that stage diagnose has read.
    """
    if name in results.timings:
        timing = results.timings[name]
        return f"{timing.device}, {_threads(timing.threads)}", timing.step_milliseconds, timing.memory
    training = diagnosis["cost"]["trainings"].get(name)
    if training is None:
        return None
    return f"{training['device']}, {_threads(training['threads'])}", training["step_milliseconds"], training["memory"]


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' * (count != 1)}"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
