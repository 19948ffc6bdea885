"""Check that a network's head gives logits for regions of its final map, as scale decoupling (SDD) asks for."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdcore.networks.contract import Network
from kdcore.system.errors import UserError, shown

Probe = TypeVar("Probe", bound=nn.Module)
TOLERANCE = 1e-3
"""The largest difference between a network's logits and its classifier of the averaged final map, as a share of the
largest logit. Rounding makes 1e-6 in float32 and 1e-4 with TF32.
"""
LARGEST = 30.0
"""The largest logit of the copies that are measured, about as large as trained networks have it. A cap on logits, such
as 30 tanh(z / 30), does nothing to the small ones of a new network.
"""
REPEAT = "repeat"
"""The value of `train.small_maps` that allows maps with fewer cells than regions, but not maps of one cell."""


def check_regions(
    network: Network,
    name: str,
    levels: Sequence[int],
    *,
    image_size: int,
    small_maps: str | None = None,
    remedy: str = "Train its pairs with scales: [1]",
) -> None:
    """Refuse a network whose head gives no logits for the regions of a pyramid.

    The logits of a region are the classifier applied to the region's average. They say what the network thinks of the
    region only where the network's own logits are the classifier applied to the average of the whole final map.
    Whether they are is measured on a copy in which no parameter is as it was made: a new head may begin with zeros, and
    then all maps get the same logits, and a new norm or scale may begin as the identity.

    Args:
        network: in any mode, which is left as it is.
        name: what messages call it, such as "teacher resnet56".
        levels: the pyramid's; 1 alone asks for no regions.
        image_size: height and width of the images that it sees, in pixels.
        small_maps: see `kdcore.matrix.train_section.TrainSettings.small_maps`.
        remedy: what the message tells to do.

    Raises:
        UserError: names the network, the reason and the remedy.
    """
    if max(levels) == 1:
        return
    reason = _reason(network, image_size, max(levels), small_maps)
    if reason is not None:
        named = ",".join(map(str, levels))
        raise UserError(f"{name} can have no regions (M=[{named}]): {reason}. {remedy}")


def _reason(network: Network, image_size: int, finest: int, small_maps: str | None) -> str | None:
    probe = _disturbed(network)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, image_size, image_size, generator=generator).to(next(probe.parameters()))
    with torch.no_grad():
        output = probe(images)
        final_map, logits = output.final_map, output.logits
        if not isinstance(final_map, Tensor) or final_map.ndim != 4:
            return "it has no final map (B, D, h, w)"
        classifier = getattr(probe, "classifier", None)
        if not isinstance(classifier, nn.Linear):
            return f"its classifier is no linear layer but {shown(type(classifier).__name__)}"
        height, width = final_map.shape[2:]
        if final_map.shape[1] != classifier.in_features:
            return f"its final map has {final_map.shape[1]} channels, and its classifier takes {classifier.in_features}"
        enlarge(classifier, logits)
        logits = probe(images).logits
        averaged = classifier(final_map.flatten(2).mT).mean(dim=1)  # as scales have it: region by region
    if averaged.shape != logits.shape:
        return f"its logits are of shape {tuple(logits.shape)}, those of its averaged map {tuple(averaged.shape)}"
    difference = float((averaged - logits).abs().max() / logits.abs().max())
    if not difference <= TOLERANCE:
        return (
            "its logits are not its linear classifier of the average of its final map (they differ by "
            f"{difference:.2g} of the largest logit); something between the two, such as a norm, is not linear"
        )
    return _too_small(min(height, width), f"{height} x {width}", finest, small_maps)


def _too_small(side: int, size: str, finest: int, small_maps: str | None) -> str | None:
    """Say why a map has too few cells for the finest level; None where it has enough, or where repeats are allowed."""
    if side >= finest or (small_maps == REPEAT and side > 1):
        return None
    what = f"its final map has {size} cells, too few for {finest} x {finest} regions"
    if side == 1:
        return f"{what}: all would be the whole image"
    return f"{what}, which would repeat (as SDD published it for MobileNetV2; train.small_maps: {REPEAT} allows it)"


def _disturbed(network: Network) -> Network:
    """Copy a network in evaluation mode, with small random numbers added to parameters and buffers that are the same
    throughout, such as the zeros and ones of new ones, which may hide what they will do once they are trained.
    """
    values = [value for module in network.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    computed = {id(value): value.detach().clone() for value in values}  # from parameters, which torch does not copy
    return disturb(copy.deepcopy(network, computed).eval())


def enlarge(head: nn.Linear, logits: Tensor) -> None:
    """Multiply a head's weights, in place, so that the largest of the logits that it gave becomes `LARGEST`."""
    factor = LARGEST / logits.abs().max().clamp(min=1e-6)
    with torch.no_grad():
        for value in (head.weight, head.bias):
            if value is not None:
                value.mul_(factor)


def disturb(probe: Probe) -> Probe:
    """Add small random numbers, in place, to parameters and buffers that are the same throughout."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*probe.parameters(), *probe.buffers()):
            if value.is_floating_point() and value.numel() and bool((value == value.flatten()[0]).all()):
                value.add_(0.1 * torch.rand(value.shape, generator=generator).to(value))  # variances stay positive
    return probe
