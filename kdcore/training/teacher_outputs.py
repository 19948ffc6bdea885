"""Get a teacher's outputs: run the network at every step, or read logits from a table of those computed before.

A table does not change a bit of the outputs: it holds what the network has computed, and the network computes the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kdcore.data.feed import Batch, Feed
from kdcore.networks.contract import Network, Output
from kdcore.objective import Objective, TeacherLogits, TeacherOutput
from kdcore.scales import grid_logits
from kdcore.training.device import autocast
from kdcore.training.distributed import World
from kdcore.training.folding import folded
from kdcore.training.teacher_cache import TeacherTable, open_table_of

Teacher = Callable[[Batch], Sequence[TeacherOutput]]
"""A function that returns the teacher's outputs for each view of a batch, without gradients."""


def prepare(
    teacher: Network | None, objective: Objective, feed: Feed, world: World, dtype: torch.dtype, *, batch_size: int
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
    """
    if teacher is None:
        return lambda _batch: []
    teacher.requires_grad_(False)
    if objective.teacher_in_training_mode:
        return InTraining(world.synchronised(teacher.train(), feed.device), dtype)
    network = folded(teacher.eval(), feed.dataset.image_size).to(dtype)
    if feed.view_count is not None and objective.asks_for_logits_alone:
        size = min(batch_size, len(feed.labels))
        table = open_table_of(teacher, feed, size, dtype, regions=objective.asks_for_regions)
        if table is not None:
            return Tabled(network, dtype, table, size)
    return Live(network, dtype)


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

    network: Network
    dtype: torch.dtype

    def __call__(self, batch: Batch) -> list[Output]:
        """Return the outputs for each view of the batch."""
        with torch.no_grad():
            return [self.network(view.to(self.dtype)) for view in batch.views]


@dataclass(frozen=True)
class Tabled:
    """Runs the teacher on the views that a table lacks, and adds their logits to the table.

    The network always runs on batches of the same size, so that the same kernels compute every view, whichever other
    views are missing.
    """

    network: Network
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
            output = self.network(images[index].to(self.dtype))
            rows = output.logits[:, None]
            if self.table.shape.regions > 1:
                rows = torch.cat([rows, grid_logits(output.final_map, self.network.classifier)], dim=1)
        return rows[: len(chunk)]
