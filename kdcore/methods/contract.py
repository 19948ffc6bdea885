"""The contract of a method: the inputs of a training step, and what its trained parts are built from.

A method is one file of this folder. Its literals are read by `kdcore.catalog`: `KIND` and `PARAMETERS`; `ACROSS` where
its loss is no mean over samples but relates those of a batch, or remembers some; `CROSS_ENTROPY` where its loss
contains cross-entropy ("inside") or is published without any ("none"); `TARGET` where mixed images, which have two
classes, make no sense of it ("refused"), or where `prepare` alone asks for the class, which is then that of the larger
share ("dominant"); `NEEDS`, what it needs of both networks beside logits and pooled vectors ("stages"), or of one of
them ("student.stages"); `NEEDS_WITH`, what it needs besides with some values of a keyword; `LEAST_STAGES` where it
needs more than two stages; and a logit method's `VIEWS` and `DECOUPLINGS` where they differ from one view and SDD's.
Its pure core is `loss`. A feature method applies it to two networks in `distill`. A method that trains more than the
student has a class `Adapter` instead of `distill`, made from a `Setting`; its weights are saved apart from the
student's. A loss with a keyword `standardize` standardises its logits by itself, where that is asked for.

An adapter may have, beside its `forward`:

- `as_student(student) -> Network`, where the student ends otherwise than it was made: the network that is trained,
  evaluated and saved instead, a `kdcore.networks.other_end.OtherEnd`, made by the file's function `other_end`, with
  which the network is built again when its weights are read. What it adds for the method's loss is `Output.extra`.
- `task_logits(logits) -> logits`: what cross-entropy sees in training instead of the student's logits (B, C).
- `prepare(target, *, epoch, generator) -> prepared`: what it draws for a batch with classes (B,) `target`, a tensor, or
  a number that changes with the epoch. It runs before the loss, which gets it as `Step.prepared`, or where the method
  is a logit method as the keyword `prepared` instead of `epoch`. A loss that draws, or that reads the epoch, cannot be
  compiled (`train.compile`).
- `teacher_in_training_mode`: true for published code in which the teacher normalises by each batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.networks.contract import Output

Keep = Callable[[str, Callable[[], Tensor]], Tensor]
"""Of a name, and of a function that computes a tensor."""


@dataclass(frozen=True)
class Step:
    """One step of training: B images, as the student and the teacher see them."""

    student: Output
    teacher: Output
    """The teacher's outputs, without gradients."""
    target: Tensor
    """(B,) int64, class indices."""
    index: Tensor
    """(B,) int64, positions of the images in the training set."""
    epoch: int
    """Number of the epoch, counted from 1."""
    generator: torch.Generator
    """Source of the method's random numbers, on the tensors' device; seeded by the cell's seed and the epoch."""
    prepared: Any = None
    """What the adapter's `prepare` returned for this batch; None where it has none."""


@dataclass(frozen=True)
class Setting:
    """What an adapter is built from, before training starts."""

    student: Output
    """The student's outputs for one image, for their shapes; on the device."""
    teacher: Output
    """The teacher's outputs for one image, for their shapes; on the device."""
    teacher_norms: tuple[nn.BatchNorm2d, ...]
    """The teacher's `kdcore.networks.contract.Network.norms`: one batch norm per stage after the stem."""
    labels: Tensor
    """(N,) int64, the classes of all training images; on the device."""
    classifiers: tuple[nn.Linear, nn.Linear]
    """The linear heads of student and teacher, themselves and not copies. One that an adapter keeps must not become a
    part of it, which a tuple prevents: the optimiser would train it twice."""
    batch_size: int
    """Images of a step, of all processes together; the last step of an epoch may have fewer."""
    epochs: int
    """Of the whole training."""
    teacher_outputs: Callable[[], Iterator[Output]]
    """Yields the teacher's outputs for all training images, not augmented, batch by batch in the order of `labels`."""
    kept: Keep
    """Returns the tensor, on the device, that was computed under this name before, of this teacher and these training
    images; or computes it, and keeps it where it can. The function must be one of the module that determines what it
    computes: where the code of that module has changed, it is computed again."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.student.logits.shape[1]
