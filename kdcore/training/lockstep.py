"""Cells of one pair and seed trained side by side, so that the teacher computes each batch's maps once for all.

Each ends with the bits of its own, separate run. Four feature methods of ResNet56 -> ResNet20 take 1.4 times the time
apart that they take together (two cores, bfloat16). Logit methods share a table of the teacher's logits instead.
"""

import sys
from collections.abc import Iterator, Sequence

from kdcore.data.dataset import Dataset
from kdcore.data.feed import Batch
from kdcore.networks.contract import Network, Output
from kdcore.parts import TeacherOutput
from kdcore.training import teacher_outputs
from kdcore.training.loop import Run, feed_of, steps
from kdcore.training.random import drawn_state, restore_drawn

_END = object()


def can_join(run: Run, first: Run) -> bool:
    """Whether a run goes side by side with the first one: as many steps behind it, and with the teacher in the same
    mode, which is evaluation.
    """
    in_evaluation = not (run.objective.teacher_in_training_mode or first.objective.teacher_in_training_mode)
    return in_evaluation and (run.epoch, run.sums.steps) == (first.epoch, first.sums.steps)


def side_by_side(runs: list[Run], teacher: Network, dataset: Dataset) -> Iterator[None]:
    """Train runs to their ends, in place; yields like `kdcore.training.loop.steps`.

    Args:
        runs: the first one matters, and its errors are raised; the others `can_join` it. One of those that fails is
            taken out of the list, with a note on stderr; trained by itself, it says why.
        teacher: the one that all were prepared with.
        dataset: the one that all were prepared with.

    Raises:
        RuntimeError: a method changed the teacher's outputs in place, which the others would see.
    """
    first = runs[0]
    teach = _Shared(_prepare(first, teacher, dataset))
    going = {run: _Going(run, steps(run, teacher, dataset, teach=teach)) for run in runs}
    while going[first].advance():
        for run in runs[1:]:
            try:
                going[run].advance()
            except Exception as error:  # whatever it is, it is not the first run's
                print(f"{run.name}: leaves {first.name}, and is trained by itself ({error})", file=sys.stderr)
                runs.remove(run)
        yield


class _Going:
    """A run that others interrupt after every step: its draws from torch's own generators are kept apart from theirs.

    Args:
        run: not begun.
        training: its steps.
    """

    def __init__(self, run: Run, training: Iterator[None]) -> None:
        self.run, self.training, self.has_begun = run, training, False

    def advance(self) -> bool:
        """Take a step, or finish an epoch; returns False once the run has ended."""
        run = self.run
        if self.has_begun and run.drawn is not None:
            restore_drawn(run.drawn, run.device, run.generator)
        goes_on = next(self.training, _END) is not _END
        self.has_begun = True
        run.drawn = drawn_state(run.device, run.generator) if run.sums.steps else None
        return goes_on


def _prepare(first: Run, teacher: Network, dataset: Dataset) -> teacher_outputs.Teacher:
    feed, size = feed_of(first, dataset), first.settings.batch_size
    return teacher_outputs.prepare(
        teacher, first.objective, feed, first.world, first.dtype, batch_size=size, compiled=first.compiled
    )


class _Shared:
    """Gives several runs, one after the other, what a teacher says of the same batch, computed once.

    Args:
        teach: computes it.
    """

    def __init__(self, teach: teacher_outputs.Teacher) -> None:
        self.teach = teach
        self.position: tuple[int, int] | None = None
        self.outputs: Sequence[TeacherOutput] = ()
        self.versions: list[int] = []

    def __call__(self, batch: Batch) -> Sequence[TeacherOutput]:
        """The teacher's outputs for the views of a batch."""
        if batch.position != self.position:
            self.outputs, self.position = self.teach(batch), batch.position
            self.versions = _versions(self.outputs)
        if _versions(self.outputs) != self.versions:
            raise RuntimeError("a method has changed the teacher's outputs in place; it must leave them as they are")
        return self.outputs


def _versions(outputs: Sequence[TeacherOutput]) -> list[int]:
    """How often each tensor of the outputs was changed in place."""
    tensors = [value for output in outputs if isinstance(output, Output) for value in output]
    parts = [part for value in tensors for part in (value if isinstance(value, tuple) else (value,))]
    return [part._version for part in parts if part is not None]
