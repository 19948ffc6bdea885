"""Compare the students of a pair with their teacher on a part of the test images: logits, features, classes, regions.

All test images would cost as much as the evaluation itself. A fifth of them, at least `LEAST`, adds less than a third.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.data.dataset import Dataset
from kdcore.data.feed import unaugmented
from kdcore.networks.contract import Output
from kdcore.results.diagnostics import measures, picture
from kdcore.results.diagnostics.measures import Gram
from kdcore.results.trained_pair import TrainedCell, TrainedPair
from kdcore.scales import grid_logits, region_logits
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.training import run_folder

SHARE, LEAST = 5, 2000
"""One of how many test images is looked at, and how many at least, or all there are."""
FEATURES = 250
"""For how many of them CKA compares features, the first ones."""
MAP_SIDE = 8
"""Maps are averaged to at most 8 x 8 before CKA compares them, which bounds memory; published stages of 32 x 32
images, save the first, are at most twice as wide."""
POINTS = 100
"""For how many of them mean and deviation of the logits are kept, the first ones."""
BLOCKS = 16
"""Lines of the picture of correlations: differences are averaged over blocks of neighbouring classes."""
DIGITS = 4


@dataclass(frozen=True)
class Seen:
    """What a network returned for the N images."""

    logits: Tensor
    """(N, C) float32."""
    grams: list[Gram]
    """Of its stages, shallow to deep, and of its pooled vector; empty for too few images."""
    pooled: np.ndarray
    """(P, D), of the picture's images."""
    grid: Tensor | None
    """(N, 16, C), the logits of the cells of a 4 x 4 grid; None where they were not asked for."""


def diagnose(card: dict[str, Any], dataset: Dataset, teacher_weights: Path, device: torch.device) -> dict[str, Any]:
    """Compare every cell of a pair with the pair's teacher.

    Args:
        card: the card of stage diagnose: the pair and its cells.
        dataset: the data set whose test images are used.
        teacher_weights: the teacher's checkpoint.
        device: where to compute.

    Returns:
        What all networks share: number of images, of each class too (`class_images`), of the bins of the teacher's
        confidence (`confidence_images`), the classes and labels of the picture, the names of the levels. Then an entry
        for the teacher, and one per cell, see `kdcore.results.diagnostics.stored`.

    Raises:
        UserError: see `TrainedPair`; or weights or logits are not finite.
    """
    classes = len(dataset.classes)
    positions = looked_at(dataset.test.labels, classes)
    split = dataset.test.take(positions)
    labels = torch.from_numpy(split.labels).to(device)
    pictured = picture.shown(split.labels, classes)
    levels = sorted({level for cell in card["cells"] for level in cell.get("levels", ()) if max(cell["levels"]) > 1})
    pair = TrainedPair(card, dataset, device)
    see = partial(_seen, dataset=replace(dataset, test=split), device=device, pictured=pictured)
    teacher = see(pair.teacher(teacher_weights), weights=teacher_weights, has_regions=bool(levels))
    bins = measures.confidence_bins(teacher.logits)
    cells = []
    for cell, is_first in _with_first_of_row(pair.cells()):
        own = cell.identity.get("levels", [1])
        student = see(pair.student(cell.weights), weights=cell.weights, has_regions=max(own) > 1)
        cells.append(
            {
                **{key: cell.identity[key] for key in ("name", "seed")},
                "weights_sha256": file_sha256(cell.weights),
                **_of_network(student, labels, own if max(own) > 1 else [], has_picture=is_first),
                **_beside_teacher(student, teacher, bins),
                "adapters": trained_beside(cell.folder / run_folder.ADAPTERS),
            }
        )
    everything = torch.ones_like(labels, dtype=torch.bool)
    return {
        "pair": card["pair"],
        "images": len(labels),
        "class_images": measures.counted(labels, everything, classes),
        "confidence_images": measures.counted(bins, everything, measures.BINS),
        "picture": {
            "classes": [dataset.classes[label] for label in dict.fromkeys(split.labels[pictured].tolist())],
            "labels": split.labels[pictured].tolist(),
        },
        "teacher": _of_network(teacher, labels, levels, has_picture=True),
        "cells": cells,
    }


def looked_at(labels: np.ndarray, classes: int) -> np.ndarray:
    """Choose the test images to look at: the first of every class, then the second of every class, and so on.

    Args:
        labels: (N,), class indices of all test images.
        classes: how many classes there are.

    Returns:
        Their positions, in that order, so that the first ones are spread over the classes too.
    """
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(classes):
        members = labels == label
        rank[members] = np.arange(members.sum())
    count = min(len(labels), max(LEAST, len(labels) // SHARE))
    return np.lexsort((labels, rank))[:count]


def trained_beside(adapters: Path) -> int:
    """Count the numbers that a method trained beside the student: the parameters in the file of its adapters.

    What the file holds besides, which a method has computed and not trained, is left out: statistics of norms, memories
    of features, margins, costs.

    Args:
        adapters: the file; there is none where a method trains the student alone.

    Raises:
        UserError: the file is damaged.
    """
    if not adapters.exists():
        return 0
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapters, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{adapters}: is damaged ({error}); run 'dvc checkout' or 'dvc repro'") from error
    return sum(int(np.prod(shape)) for key, shape in shapes.items() if not _is_computed(key))


def _is_computed(key: str) -> bool:
    """Say whether a tensor of an adapter is a buffer, by the names that the methods give to theirs."""
    name = key.rpartition(".")[2]
    return name in BUFFERS or name.startswith(BUFFER_PREFIXES)


BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "cost")
BUFFER_PREFIXES = ("memory_", "z_", "margin_")
"""How tensors of adapters are called that no optimiser changes; a test compares them with the methods' own."""


def _with_first_of_row(cells: Iterable[TrainedCell]) -> Iterator[tuple[TrainedCell, bool]]:
    """Yield each cell, and whether it is the first seed of its row, which alone gets a picture."""
    met = set()
    for cell in cells:
        row = tuple(cell.identity.get(key) for key in ("method", "scale", "stand", "variant"))
        yield cell, row not in met
        met.add(row)


def _seen(
    network: nn.Module,
    *,
    weights: Path,
    dataset: Dataset,
    device: torch.device,
    pictured: np.ndarray,
    has_regions: bool,
) -> Seen:
    """Run a network, in evaluation mode, over the test images; what comes out must be finite."""
    logits, pooled, grids, first = [], [], [], []
    with torch.no_grad():
        for batch in unaugmented(dataset.test, dataset, device):
            output: Output = network(batch)
            logits.append(output.logits.float())
            pooled.append(output.pooled.float().cpu())
            if has_regions:
                grids.append(grid_logits(output.final_map, network.classifier).float())  # type: ignore[arg-type]
            if sum(map(len, logits)) - len(batch) < FEATURES:
                first.append([_bounded(features) for features in (*output.stages, output.pooled)])
        together = torch.cat(logits)
        broken = int((~torch.isfinite(together).all(dim=1)).sum())
        if broken:
            raise UserError(
                f"{weights}: the logits of {broken} of {len(together)} test images are not finite; train it again"
            )
        layers = [torch.cat(parts)[:FEATURES] for parts in zip(*first, strict=True)]
    enough = len(together) >= measures.LEAST_IMAGES
    return Seen(
        logits=together,
        grams=[Gram.of(layer) for layer in layers] if enough else [],
        pooled=torch.cat(pooled).numpy()[pictured],
        grid=torch.cat(grids) if has_regions else None,
    )


def _bounded(features: Tensor) -> Tensor:
    """Average a map (B, Ch, H, W) to at most `MAP_SIDE`; leave vectors as they are."""
    if features.ndim == 4 and max(features.shape[2:]) > MAP_SIDE:
        height, width = (min(side, MAP_SIDE) for side in features.shape[2:])
        return F.adaptive_avg_pool2d(features, (height, width))
    return features


def _of_network(seen: Seen, labels: Tensor, levels: Sequence[int], *, has_picture: bool) -> dict[str, Any]:
    """Measure one network: its logits, its right predictions by class, its regions and its picture."""
    mean, deviation = measures.logit_statistics(seen.logits)
    right = seen.logits.argmax(dim=1) == labels
    return {
        "logit_mean": round(float(mean.mean()), DIGITS),
        "logit_deviation": round(float(deviation.mean()), DIGITS),
        "logits": [[round(value, 2) for value in values[:POINTS].tolist()] for values in (mean, deviation)],
        "class_right": measures.counted(labels, right, seen.logits.shape[1]),
        **({"regions": _regions(seen, right, labels, levels)} if levels else {}),
        **({"picture": _placed(seen.pooled)} if has_picture else {}),
    }


def _regions(seen: Seen, right: Tensor, labels: Tensor, levels: Sequence[int]) -> dict[str, list[int]]:
    """Count the kinds of regions of every level, by the level's number as text, as JSON has keys."""
    if seen.grid is None:
        return {}
    found = {}
    for level in levels:
        predicted = region_logits(seen.grid, (level,)).argmax(dim=2)
        found[str(level)] = measures.region_kinds(right, predicted == labels[:, None])
    return found


def _placed(pooled: np.ndarray) -> list[list[float]]:
    """Place the picture's images; no points where they are too few, or where the network says the same of all."""
    if len(pooled) < measures.LEAST_IMAGES or pooled.shape[1] < 2 or not np.ptp(pooled, axis=0).any():
        return []
    return picture.embed(pooled)


def _beside_teacher(student: Seen, teacher: Seen, bins: Tensor) -> dict[str, Any]:
    """Compare a student with the teacher on the same images."""
    difference = measures.correlation_difference(student.logits, teacher.logits)
    classes = len(difference)
    agrees = student.logits.argmax(dim=1) == teacher.logits.argmax(dim=1)
    return {
        "correlation_mean": round(float(difference.sum() / max(1, classes * (classes - 1))), DIGITS),
        "correlation_max": round(float(difference.max()), DIGITS),
        "correlation_blocks": [
            [round(value, 3) for value in line] for line in measures.block_means(difference, BLOCKS).tolist()
        ],
        "agreement": measures.counted(bins, agrees, measures.BINS),
        "cka": [[_rounded(measures.cka(own, of)) for of in teacher.grams] for own in student.grams],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
