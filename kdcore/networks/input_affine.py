"""Networks that were trained on images of another normalisation see them as they were trained to.

A data set's images are normalised with its mean and deviation, before teacher and student see them. A teacher from
elsewhere may have been trained with others. Its network then gets two more buffers, a scale and a shift per channel,
which are applied to its input, and which its weights' file holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SCALE, SHIFT = "kdcore_input_scale", "kdcore_input_shift"
"""Names of the buffers, and of their entries in a state dict."""
Rgb = Sequence[float]


def attach(network: nn.Module, *, mean: Rgb, std: Rgb, own_mean: Rgb, own_std: Rgb) -> None:
    """Make a network renormalise its input images.

    Args:
        network: changed in place.
        mean: of each channel, with which its input images are normalised.
        std: the standard deviations.
        own_mean: the means that the network was trained with.
        own_std: the standard deviations.
    """
    _register(network, *_scale_and_shift(mean, std, own_mean, own_std))


def is_attached(network: nn.Module, *, mean: Rgb, std: Rgb, own_mean: Rgb, own_std: Rgb) -> bool:
    """Whether a network renormalises its input images as `attach` with these values makes it."""
    wanted = [values.float().view(3, 1, 1) for values in _scale_and_shift(mean, std, own_mean, own_std)]
    found = [getattr(network, name, None) for name in (SCALE, SHIFT)]
    return all(a is not None and torch.allclose(a.cpu(), b) for a, b in zip(found, wanted, strict=True))


def attach_like(content: object, network: nn.Module) -> None:
    """Prepare a network for a state dict with the two buffers; others change nothing."""
    if isinstance(content, Mapping) and SCALE in content and SHIFT in content and not hasattr(network, SCALE):
        _register(network, torch.ones(3), torch.zeros(3))


def _scale_and_shift(mean: Rgb, std: Rgb, own_mean: Rgb, own_std: Rgb) -> tuple[Tensor, Tensor]:
    given, own = (torch.tensor(values, dtype=torch.float64) for values in (mean, own_mean))
    given_std, std_of_own = (torch.tensor(values, dtype=torch.float64) for values in (std, own_std))
    return given_std / std_of_own, (given - own) / std_of_own


def _register(network: nn.Module, scale: Tensor, shift: Tensor) -> None:
    if not hasattr(network, SCALE):
        network.register_forward_pre_hook(_renormalise)
    device = next(network.parameters()).device
    network.register_buffer(SCALE, scale.float().view(3, 1, 1).to(device))
    network.register_buffer(SHIFT, shift.float().view(3, 1, 1).to(device))


def _renormalise(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = inputs
    return images * getattr(network, SCALE) + getattr(network, SHIFT), *others
