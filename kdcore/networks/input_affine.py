"""Networks that were trained on images of another normalisation see them as they were trained to.

A data set's images are normalised with its mean and deviation, before teacher and student see them. A teacher from
elsewhere may have been trained with others. Its network then gets two more buffers, a scale and a shift per channel,
which are applied to its input, and which its weights' file holds.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcore.system.arrays import Scalar, as_tensor
from kdcore.system.errors import shown

SCALE, SHIFT = "kdcore_input_scale", "kdcore_input_shift"
"""Names of the buffers, and of their entries in a state dict."""
Rgb = Sequence[float]
MEAN = re.compile(r"mean|(?<![a-z])mu(?![a-z])", re.IGNORECASE)
"""Found in the names of means, which are those of the deviations where it is one of `STDS` instead."""
STDS = ("std", "sigma", "var")
OF_IMAGES = re.compile(
    r"(?:.*/)?(?:image|img|data|dataset|input|pixel|norm[a-z]*)s?_?(?:mean|mu)"
    r"|(?:.*/)?(?:args|opts?|options|config|cfg|hparams|hyper_parameters|norm[a-z]*|transforms?|data|dataset)/(?:mean|mu)"
)
"""Paths of means of images, in small letters; other single numbers may be of noise, weights or accuracies."""
OF_RESULTS = re.compile(
    r"(?:^|[/._])(?:acc\w*|loss\w*|top_?[15]|err|errors?|results?|logs?|metrics?|scores?|history|nll|ece|grads?|times?)(?:[/._]|$)"
)
"""Found in paths of means of what was measured: three of them are of seeds or epochs."""
NUMBER = r"\d*\.\d+|\d+"
NUMBERS = re.compile(rf"[\[(]?\s*(?:{NUMBER})(?:(?:\s*,\s*|\s+)(?:{NUMBER}))*\s*[\])]?")
"""A list of numbers as text."""
LONGEST = 500
"""Characters of the longest name that is looked at."""


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""

    mean: Rgb
    std: Rgb

    def is_close(self, other: "Normalisation") -> bool:
        """Whether both are the same but for rounding, which is little beside the deviations."""
        return all(
            abs(a - b) <= 0.02 * scale
            for mine, others in zip(self, other, strict=True)
            for a, b, scale in zip(mine, others, self.std, strict=True)
        )

    def __str__(self) -> str:
        """Write both for a message, in six digits, as params.yaml takes them."""
        mean, std = ([float(f"{value:.6g}") for value in values] for values in (self.mean, self.std))
        return f"mean {shown(mean)} and std {shown(std)}"


def normalisations(
    items: Iterable[tuple[object, object]], known: Collection[str], where: str = ""
) -> dict[tuple[str, str], Normalisation]:
    """Find pairs of entries that are plainly the mean and the deviation of three channels, such as normalize.mean.

    Args:
        items: the entries of a dictionary.
        known: names of weights of a network; entries of these names, with any prefix, are those.
        where: the path of the dictionary in its file.

    Returns:
        The names of both entries -> what they hold, for pixels from 0 to 1.
    """
    found = {}
    values = {key.lower(): (key, value) for key, value in items if isinstance(key, str) and len(key) <= LONGEST}
    for lower, (key, value) in values.items():
        head, dot, last = lower.rpartition(".")
        partners = [f"{head}{dot}{MEAN.sub(std, last, count=1)}" for std in STDS] if _is_mean(last) else []
        partner = next((values[name] for name in partners if name in values), None)
        if partner is None or any(key == name or key.endswith(f".{name}") for name in known):
            continue
        path = f"{where}/{lower.replace('.', '/')}".lower()
        mean, std = _three(value, path), _three(partner[1], path)
        if std and "var" in partner[0].lower():
            std = tuple(abs(x) ** 0.5 for x in std)
        if mean and std and min(mean) >= 0 and min(std) > 0 and max(mean + std) <= 255:
            largest = 255 if max(mean + std) > 1 else 1  # of pixels from 0 to 255
            found[key, partner[0]] = Normalisation(*(tuple(x / largest for x in values) for values in (mean, std)))
    return found


def _is_mean(name: str) -> bool:
    """Whether an entry is the mean of something; those that batch normalisation keeps are of what it has seen."""
    return MEAN.search(name) is not None and not name.startswith("running_")


def _three(value: object, path: str) -> tuple[float, ...] | None:
    """Return the numbers of three channels, also where one stands for all, or they are written as text; None where they
    are others, a single one whose path does not say that it is of images, or three whose path says of what else.
    """
    if isinstance(value, float | int | Scalar) and not isinstance(value, bool):
        value = [value]
    elif isinstance(value, str) and len(value) <= LONGEST and NUMBERS.fullmatch(value):
        value = [float(number) for number in re.findall(NUMBER, value)]
    tensor = as_tensor(value)
    if tensor is None or tensor.layout != torch.strided or tensor.numel() not in (1, 3):
        return None
    if not OF_IMAGES.fullmatch(path) and (tensor.numel() == 1 or OF_RESULTS.search(path)):
        return None
    return tuple(tensor.double().flatten().expand(3).tolist())


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
