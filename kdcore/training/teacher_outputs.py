"""How a teacher's outputs come about: from the network, at every step, or from a table of those that came before."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kdcore.data.dataset import Split
from kdcore.data.feed import Feed, Seen
from kdcore.networks.contract import Network, Output
from kdcore.objective import Known, Objective
from kdcore.scales import GRID, grid_logits
from kdcore.training.device import autocast
from kdcore.training.distributed import World
from kdcore.training.folding import folded
from kdcore.training.teacher_cache import Shape, TeacherTable, open_table

Teacher = Callable[[Seen], Sequence[Output | Known]]
"""Outputs for the views of a batch, without gradients."""


def prepare(
    teacher: Network | None,
    goals: Sequence[Objective],
    feed: Feed,
    world: World,
    dtype: torch.dtype,
    *,
    batch_size: int,
) -> Teacher:
    """The fastest way to what these goals ask of a teacher.

    Args:
        teacher: in evaluation mode, in float32; None where there is none.
        goals: of students that are taught together.
        feed: of the images.
        world: the processes that train together.
        dtype: in which the teacher is computed.
        batch_size: of what a process sees.
    """
    if teacher is None:
        return lambda _seen: []
    teacher.requires_grad_(False)
    if any(goal.teacher_in_training_mode for goal in goals):
        return InTraining(world.synchronised(teacher.train(), feed.device), dtype)
    network = folded(teacher.eval(), feed.dataset.image_size).to(dtype)
    if feed.view_count is not None and all(goal.asks_for_logits_alone for goal in goals):
        regions = any(goal.asks_for_regions for goal in goals)
        size = min(batch_size, len(feed.labels))
        table = _table(teacher, feed, size, dtype, regions=regions)
        if table is not None:
            return Tabled(network, dtype, table, size)
    return Live(network, dtype)


@dataclass(frozen=True)
class InTraining:
    """Runs a network that normalises by each batch."""

    network: Network
    dtype: torch.dtype

    def __call__(self, seen: Seen) -> list[Output]:
        """Its outputs per view."""
        with torch.no_grad(), autocast(seen.index.device, self.dtype):
            return [self.network(view) for view in seen.views]


@dataclass(frozen=True)
class Live:
    """Runs the network."""

    network: Network
    dtype: torch.dtype

    def __call__(self, seen: Seen) -> list[Output]:
        """Its outputs per view."""
        with torch.no_grad():
            return [self.network(view.to(self.dtype)) for view in seen.views]


@dataclass(frozen=True)
class Tabled:
    """Runs the network on views that the table does not hold, and keeps what it says of them.

    It is always run on batches of one size, so that the same kernels compute every view, whichever others are missing
    with it.
    """

    network: Network
    dtype: torch.dtype
    table: TeacherTable
    batch_size: int

    def __call__(self, seen: Seen) -> list[Known]:
        """What is known of the batch."""
        names, images = cast(np.ndarray, seen.names), seen.views[0]
        rows, missing = self.table.read(names)
        for chunk in np.array_split(missing, range(self.batch_size, len(missing), self.batch_size)):
            if len(chunk):
                computed = self._compute(images, chunk).to(self.table.dtype).cpu()
                self.table.write(names[chunk], computed)
                rows[chunk] = computed
        known = rows.to(images.device, non_blocking=True).float()
        return [Known(known[:, 0], known[:, 1:] if known.shape[1] > 1 else None)]

    def _compute(self, images: Tensor, chunk: np.ndarray) -> Tensor:
        """(n, R, C) for n images, filled up to a batch with the first of them."""
        index = torch.from_numpy(np.pad(chunk, (0, self.batch_size - len(chunk)), mode="edge")).to(images.device)
        with torch.no_grad():
            output = self.network(images[index].to(self.dtype))
            rows = output.logits[:, None]
            if self.table.shape.regions > 1:
                rows = torch.cat([rows, grid_logits(output.final_map, self.network.classifier)], dim=1)
        return rows[: len(chunk)]


def _table(teacher: Network, feed: Feed, batch_size: int, dtype: torch.dtype, *, regions: bool) -> TeacherTable | None:
    """Half precision holds what bfloat16 computes, so that nothing is lost in the table.

    A cell without regions takes the table of cells with them where there is one.
    """
    identity: dict[str, object] = {
        "teacher": _digest(value.cpu().numpy() for value in teacher.state_dict().values()),
        "images": _digest([cast(Split, feed.dataset.train).images]),
        "look": [feed.dataset.image_size, feed.dataset.padding, feed.dataset.flip, feed.dataset.mean, feed.dataset.std],
        "network": type(teacher).__name__,
        "computed": [str(dtype), batch_size, str(feed.device), torch.__version__, torch.get_num_threads()],
    }
    kept = torch.float16 if dtype == torch.bfloat16 else torch.float32
    alone = Shape(len(feed.labels), cast(int, feed.view_count), 1, teacher.classifier.out_features)
    with_grid = replace(alone, regions=1 + GRID**2)
    if regions:
        return open_table(identity, with_grid, kept)
    return open_table(identity, with_grid, kept, make=False) or open_table(identity, alone, kept)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
