"""The contract of a method: the inputs of a training step, and what its trained parts are built from.

A method is one file of this folder. Its literals are read by `kdcore.catalog`: `KIND` and `PARAMETERS`; `ACROSS` where
its loss is no mean over samples but relates those of a batch, or remembers some; and a logit method's `VIEWS` and
`DECOUPLINGS` where they differ from one view and SDD's. Its pure core is `loss`. A feature method applies it to two
networks in `distill`. A method that trains more than the student has a class `Adapter` instead of `distill`, made from
a `Setting`; its weights are saved apart from the student's. A loss with a keyword `standardize` standardises its logits
by itself, where that is asked for. An adapter that is true to published code in which the teacher normalises by each
batch has an attribute `teacher_in_training_mode`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcore.networks.contract import Output


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
