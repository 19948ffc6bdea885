"""What a method may look at while it trains a student, and what its trained parts are built from.

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
    """Without gradients."""
    target: Tensor
    """(B,) int64, class indices."""
    index: Tensor
    """(B,) int64, which of the training images they are."""
    epoch: int
    """Counted from 1."""
    generator: torch.Generator
    """On the device of the tensors, for what a method draws; determined by seed and epoch."""


@dataclass(frozen=True)
class Setting:
    """What is known before training starts."""

    student: Output
    """Of one image, for its shapes; on the device."""
    teacher: Output
    """Likewise."""
    teacher_norms: tuple[nn.BatchNorm2d, ...]
    """See `kdcore.networks.contract.Network.norms`."""
    labels: Tensor
    """(N,) int64, the classes of all training images; on the device."""
