"""Cells of one pair and seed trained side by side, so that the teacher computes each batch's maps once for all.

Each ends with the bits of its own, separate run. Four feature methods of ResNet56 -> ResNet20 take 1.4 times the time
apart that they take together (two cores, bfloat16). Logit methods share a table of the teacher's logits instead.
"""

from collections.abc import Iterator, Sequence

from torch import nn

from kdcore.data.dataset import Dataset
from kdcore.data.feed import Batch, Feed
from kdcore.networks.contract import Network
from kdcore.objective import TeacherOutput
from kdcore.training import teacher_outputs
from kdcore.training.loop import NotFiniteError, Run, steps


def can_join(run: Run, first: Run) -> bool:
    """Whether a run goes side by side with the first one: as many steps behind it, and no dropout, which draws from
    torch's own generators.
    """
    draws = any(isinstance(module, nn.Dropout) for one in (run, first) for module in one.student.modules())
    return not draws and (run.epoch, run.sums.steps) == (first.epoch, first.sums.steps)


def side_by_side(runs: list[Run], teacher: Network, dataset: Dataset) -> Iterator[None]:
    """Train runs to their ends, in place; yields like `kdcore.training.loop.steps`.

    Args:
        runs: the first one matters, and its errors are raised; the others `can_join` it. One of those whose loss is
            not finite is taken out of the list, and says so when it is trained by itself.
        teacher: the one that all were prepared with.
        dataset: the one that all were prepared with.
    """
    first = runs[0]
    teach = _Shared(_prepare(first, teacher, dataset))
    training = {run: steps(run, teacher, dataset, teach=teach) for run in runs}
    for _ in training[first]:
        for run in runs[1:]:
            try:
                next(training[run])
            except NotFiniteError:
                runs.remove(run)
        yield


def _prepare(first: Run, teacher: Network, dataset: Dataset) -> teacher_outputs.Teacher:
    feed, size = Feed(dataset, first.device), first.settings.batch_size
    return teacher_outputs.prepare(teacher, first.objective, feed, first.world, first.dtype, batch_size=size)


class _Shared:
    """Gives several runs, one after the other, what a teacher says of the same batch, computed once.

    Args:
        teach: computes it.
    """

    def __init__(self, teach: teacher_outputs.Teacher) -> None:
        self.teach = teach
        self.position: tuple[int, int] | None = None
        self.outputs: Sequence[TeacherOutput] = ()

    def __call__(self, batch: Batch) -> Sequence[TeacherOutput]:
        """The teacher's outputs for the views of a batch."""
        if batch.position != self.position:
            self.outputs, self.position = self.teach(batch), batch.position
        return self.outputs
