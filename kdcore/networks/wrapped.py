"""Networks that hold another module: its input is resized, and its state dict has the module's own keys."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks.contract import Network, Output

MODULE = "module."
"""How the names of the module's parameters begin; its state dict is written and read without."""


class Wrapped(Network):
    """A network around a module, whose state dict is the module's, so that published weights fit by their own keys.

    Args:
        module: the one that computes.
        image_size: height and width, in pixels, to which images are resized; None takes them as they are.
    """

    def __init__(self, module: nn.Module, image_size: int | None) -> None:
        super().__init__()
        self.module, self.image_size = module, image_size

    def resized(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) bilinearly, without smoothing, as LSKD's code does for the teacher of its
        transformers.
        """
        if self.image_size is None or images.shape[-2:] == (self.image_size, self.image_size):
            return images
        return F.interpolate(images, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return what torch returns, with the module's names."""
        found = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        inner = f"{prefix}{MODULE}"
        for key in [key for key in found if key.startswith(inner)]:
            found[prefix + key[len(inner) :]] = found.pop(key)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        own = {f"{prefix}{name}" for name in (*self._parameters, *self._buffers)}  # those of `input_affine`
        for key in [key for key in state_dict if key.startswith(prefix) and key not in own]:
            state_dict[f"{prefix}{MODULE}{key[len(prefix) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *others)


class Resized(Wrapped):
    """A network of the zoo that sees images of another size than the data set's."""

    module: Network

    @property
    def classifier(self) -> nn.Linear:
        """That of the network."""
        return self.module.classifier

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Those of the network."""
        return self.module.norms

    @property
    def identity(self) -> str:
        """The network's, and the size."""
        return f"{self.module.identity} at {self.image_size}"

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        return self.module(self.resized(images))
