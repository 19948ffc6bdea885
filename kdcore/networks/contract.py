"""The contract of a network: its outputs, by which one file per method serves all networks."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """The outputs of a network for B images."""

    logits: Tensor
    """(B, C)."""
    stages: tuple[Tensor, ...]
    """Feature maps (B, Ch_i, H_i, W_i), shallow to deep, where the published distillers take them; the first is
    the stem's."""
    preacts: tuple[Tensor, ...]
    """The maps of `stages` before their ReLU, normalised: as many, of the same shapes."""
    pooled: Tensor
    """(B, D), the classifier's input, before a dropout where there is one."""
    final_map: Tensor
    """(B, D, h, w), the map whose average is `pooled`."""


class Network(nn.Module, ABC):
    """A classifier of images whose logits are a linear function of its average-pooled last map."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Linear:
        """The linear head, D -> C."""

    @property
    @abstractmethod
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Per stage after the stem, the last batch norm that `Output.preacts` passed through."""

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Compute the outputs for images (B, 3, H, W)."""
