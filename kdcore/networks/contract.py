"""The contract of a network: its outputs, by which one file per method serves all networks.

Every network has logits and a pooled vector. What else it lacks (`kdcore.catalog.PARTS`) is None, or an empty tuple;
only what asks for it (a method's NEEDS, scales above 1) reads it, and is refused at plan where it is lacking.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """The outputs of a network for B images."""

    logits: Tensor
    """(B, C)."""
    stages: tuple[Tensor, ...]
    """Feature maps (B, Ch_i, H_i, W_i), shallow to deep, where the published distillers take them; the first is
    the stem's. Empty where the network has none."""
    preacts: tuple[Tensor, ...]
    """The maps of `stages` before their ReLU, normalised: as many, of the same shapes; or empty."""
    pooled: Tensor
    """(B, D), the classifier's input, before a dropout where there is one."""
    final_map: Tensor
    """(B, D, h, w), the map whose average is `pooled`; None where there is none."""
    extra: Tensor | None = None
    """What a student that ends as its method wants adds for the method's loss (see `kdcore.networks.other_end`)."""
    distilled: Tensor | None = None
    """(B, C), in training mode, of a network with a distillation token: the logits of that token's head, which methods
    compare with the teacher's instead of `logits`. In evaluation mode `logits` are the mean of both heads."""


class Network(nn.Module, ABC):
    """A classifier of images; most have logits that are a linear function of their average-pooled last map."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Linear:
        """The linear head, D -> C; None where the logits are no linear function of the pooled vector."""

    @property
    @abstractmethod
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Per stage after the stem, the last batch norm that `Output.preacts` passed through; empty without preacts."""

    @property
    def identity(self) -> str:
        """What tells networks apart that have equal weights, beside these; for what is kept of their outputs."""
        return type(self).__name__

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Compute the outputs for images (B, 3, H, W)."""
