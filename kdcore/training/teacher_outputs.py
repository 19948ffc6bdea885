"""Get a teacher's outputs: run the network at every step, or read logits from a table of those computed before.

A table does not change a bit of the outputs: it holds what the network has computed, and the network computes the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.data.dataset import Dataset
from kdcore.data.feed import Batch, Feed, unaugmented
from kdcore.networks.contract import Network, Output
from kdcore.objective import Objective
from kdcore.parts import TeacherLogits, TeacherOutput
from kdcore.scales import grid_logits
from kdcore.training.compiled import CompiledTeacher
from kdcore.training.device import autocast
from kdcore.training.distributed import World
from kdcore.training.folding import folded
from kdcore.training.teacher_cache import TeacherTable, open_table_of

Teacher = Callable[[Batch], Sequence[TeacherOutput]]
"""A function that returns the teacher's outputs for each view of a batch, without gradients."""


def prepare(
    teacher: Network | None,
    objective: Objective,
    feed: Feed,
    world: World,
    dtype: torch.dtype,
    *,
    batch_size: int,
    compiled: bool = False,
) -> Teacher:
    """Choose the fastest source of the teacher's outputs that an objective needs.

    Args:
        teacher: in float32; it is frozen, and set to the mode that the objective asks for. None if the student is
            trained alone.
        objective: the loss of the student that is taught.
        feed: yields the training images.
        world: the processes that train together.
        dtype: the type in which the teacher is computed.
        batch_size: how many images this process sees in a step.
        compiled: whether the teacher's pass is compiled; never that of a teacher in training mode.
    """
    if teacher is None:
        return lambda _batch: []
    teacher.requires_grad_(False)
    if objective.teacher_in_training_mode:
        return InTraining(world.synchronised(teacher.train(), feed.device), dtype)
    network = folded(teacher.eval(), feed.dataset.image_size).to(dtype)
    size, logits_alone = min(batch_size, len(feed.labels)), objective.asks_for_logits_alone
    function: Callable[..., Any] = _ends if logits_alone else _whole
    run = CompiledTeacher(function, network, size, feed.device) if compiled else partial(function, network)
    if not logits_alone:
        return Live(run, dtype)
    table, regions = None, objective.asks_for_regions
    if feed.view_count is not None:
        table = open_table_of(teacher, feed, size, dtype, regions=regions, is_compiled=compiled)
    if table is None:
        return Live(Logits(run, network.classifier if regions else None), dtype)
    logits = Logits(run, network.classifier if table.shape.regions > 1 else None)
    return Tabled(logits, dtype, table, size)


def of_training_images(teacher: Network, dataset: Dataset, device: torch.device) -> Iterator[Output]:
    """Yield the teacher's outputs for all training images in their order, not augmented and in float32.

    Args:
        teacher: in evaluation mode, on the device.
        dataset: with the training images.
        device: where to compute.
    """
    for images in unaugmented(dataset.train, dataset, device):
        with torch.no_grad():
            yield teacher(images)


def _whole(network: Network, images: Tensor) -> Output:
    return network(images)


def _ends(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and the final map, all that tables need."""
    output = network(images)
    return output.logits, output.final_map


@dataclass(frozen=True)
class Logits:
    """Computes all that logit methods ask of a teacher."""

    ends: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Computes logits and final map of images."""
    classifier: nn.Module | None
    """The teacher's; None where no regions are asked for."""

    def __call__(self, images: Tensor) -> TeacherLogits:
        """Return the logits of images (B, 3, S, S), in float32."""
        logits, final_map = self.ends(images)
        grid = None if self.classifier is None else grid_logits(final_map, self.classifier).float()
        return TeacherLogits(logits.float(), grid)


@dataclass(frozen=True)
class InTraining:
    """Runs the teacher in training mode, in which batch norms use the statistics of each batch."""

    network: Network
    dtype: torch.dtype

    def __call__(self, batch: Batch) -> list[Output]:
        """Return the outputs for each view of the batch."""
        with torch.no_grad(), autocast(batch.index.device, self.dtype):
            return [self.network(view) for view in batch.views]


@dataclass(frozen=True)
class Live:
    """Runs the teacher in evaluation mode on every batch."""

    outputs: Callable[[Tensor], TeacherOutput]
    dtype: torch.dtype

    def __call__(self, batch: Batch) -> list[TeacherOutput]:
        """Return the outputs for each view of the batch."""
        with torch.no_grad():
            return [self.outputs(view.to(self.dtype)) for view in batch.views]


@dataclass(frozen=True)
class Tabled:
    """Runs the teacher on the views that a table lacks, and adds their logits to the table.

    The network always runs on batches of the same size, so that the same kernels compute every view, whichever other
    views are missing.
    """

    logits: Logits
    dtype: torch.dtype
    table: TeacherTable
    batch_size: int

    def __call__(self, batch: Batch) -> list[TeacherLogits]:
        """Return the logits (B, C) of the weak view, and those of its regions (B, 16, C) if the table holds them."""
        names, images = cast(np.ndarray, batch.view_names), batch.views[0]
        rows, missing = self.table.read(names)
        for chunk in np.array_split(missing, range(self.batch_size, len(missing), self.batch_size)):
            if len(chunk):
                computed = self._compute(images, chunk).to(self.table.dtype).cpu()
                self.table.write(names[chunk], computed)
                rows[chunk] = computed
        known = rows.to(images.device, non_blocking=True).float()
        return [TeacherLogits(known[:, 0], known[:, 1:] if known.shape[1] > 1 else None)]

    def _compute(self, images: Tensor, chunk: np.ndarray) -> Tensor:
        """Compute the logits (n, R, C) of the images at n positions; the last one is repeated to fill up the batch."""
        index = torch.from_numpy(np.pad(chunk, (0, self.batch_size - len(chunk)), mode="edge")).to(images.device)
        with torch.no_grad():
            computed = self.logits(images[index].to(self.dtype))
        rows = computed.logits[:, None]
        if computed.grid is not None:
            rows = torch.cat([rows, computed.grid], dim=1)
        return rows[: len(chunk)]
