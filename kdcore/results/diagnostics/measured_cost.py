"""What the networks of a pair cost on this machine: images per second, and what the log of trainings says of its cells.

None of it is the same twice, so it lies in a file of its own, and no number of the other file depends on it.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from kdcore import catalog
from kdcore.data.dataset import Dataset
from kdcore.matrix.card_files import CARDS
from kdcore.networks.other_end import OtherEnd
from kdcore.results.trained_pair import TrainedPair
from kdcore.system.files import file_sha256
from kdcore.training import provenance, timings
from kdcore.training.timings import Timing

BATCHES = (1, 250)
"""Batch sizes at which networks are timed."""
SECONDS, LEAST = 0.5, 3
"""How long a network is timed at each, after one run that is not counted, and how often at least."""


def measure(card: dict[str, Any], dataset: Dataset, teacher_weights: Path, device: torch.device) -> dict[str, Any]:
    """Measure a pair's networks, and look up the trainings of its cells.

    A student whose method gives it another end is a network of its own; all others are as fast as the pair's student.

    Args:
        card: the card of stage diagnose.
        dataset: gives the size of images.
        teacher_weights: the teacher's checkpoint.
        device: where to compute.

    Returns:
        The device, threads and versions; images per second, by the role of the network or the name of the cell whose
        student has another end, then by batch size; and for each cell that this machine trained from its present
        card, by a process of its own: device, milliseconds per step, and peak memory in bytes.
    """
    pair = TrainedPair(card, dataset, device)
    speeds = {"teacher": images_per_second(pair.teacher(teacher_weights), dataset.image_size, device)}
    known: dict[str, dict[str, float]] = {}
    for cell in pair.cells():
        if "student" not in known or _may_end_otherwise(cell.identity["method"]):
            student = pair.student(cell.weights)
            kind = student.described() if isinstance(student, OtherEnd) else "student"
            if kind not in known:
                known[kind] = images_per_second(student, dataset.image_size, device)
            speeds["student" if kind == "student" else cell.identity["name"]] = known[kind]
    about = provenance.describe(device)
    return {
        **{key: about[key] for key in ("device", "threads", "versions")},
        "images_per_second": speeds,
        "trainings": {name: _training(timing) for name, timing in _timings(card["cells"]).items()},
    }


def images_per_second(network: nn.Module, image_size: int, device: torch.device) -> dict[str, float]:
    """Time a network in evaluation mode, in float32, on random images that lie on the device already.

    Args:
        network: on the device.
        image_size: height and width, in pixels.
        device: where it computes.

    Returns:
        The median of images per second by batch size (`BATCHES`), as text.
    """
    found = {}
    for batch in BATCHES:
        images = torch.rand(batch, 3, image_size, image_size, device=device)
        images = images.to(memory_format=torch.channels_last)
        seconds = _seconds(partial(network, images), device)
        found[str(batch)] = round(batch / seconds, 1)
    return found


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    taken: list[float] = []
    with torch.no_grad():
        _once(run, device)
        while len(taken) < LEAST or sum(taken) < SECONDS:
            taken.append(_once(run, device))
    return median(taken)


def _once(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began


def _may_end_otherwise(method: str) -> bool:
    return any(entry.replaces_student for entry in catalog.terms(method))


def _timings(cells: list[dict[str, Any]]) -> dict[str, Timing]:
    """Return the latest training of each cell from its present card by a process that trained it alone."""
    wanted = {
        cell["name"]: CARDS / ("train" if "scale" in cell else "baseline") / f"{cell['name']}.yaml" for cell in cells
    }
    cards = {name: file_sha256(path) for name, path in wanted.items() if path.is_file()}
    log = [timing for timing in timings.load() if not timing.beside]
    return {timing.name: timing for timing in log if cards.get(timing.name) == timing.card}


def _training(timing: Timing) -> dict[str, Any]:
    step = timing.step_milliseconds
    return {
        "device": timing.device,
        "threads": timing.threads,
        "step_milliseconds": None if step is None else round(step, 3),
        "memory": timing.memory,
    }
