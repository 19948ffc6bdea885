"""Fold batch norms into the convolutions before them, for networks that are only evaluated."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdcore.networks.contract import Network, Output
from kdcore.training.device import without_tf32

TOLERANCE = 1e-3
"""The largest difference allowed between an output of a network and that of its folded copy, as a share of the output's
largest absolute value. In TF32 networks and folded copies differ by up to 60 times as much.
"""


@without_tf32()
def folded(network: Network, image_size: int) -> Network:
    """Return a frozen copy of a network that computes the same with fewer operations.

    A batch norm can be folded if its input is what a convolution has just returned and nothing else reads that input. A
    run on one random image finds such pairs; then the outputs of the folded copy are compared with the network's. If
    they differ, each pair is tried by itself, and only the pairs that leave the outputs unchanged are folded.

    Args:
        network: in evaluation mode.
        image_size: height and width of its images, in pixels.
    """
    first = next(network.parameters())
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(first)
    with torch.no_grad():
        expected = network(image)
    pairs = _pairs(network, image)
    made = _fold(network, pairs)
    if not _agrees(made, image, expected):
        alone = {norm: conv for norm, conv in pairs.items() if _agrees(_fold(network, {norm: conv}), image, expected)}
        made = _fold(network, alone)
    return made.to(memory_format=torch.channels_last).requires_grad_(False)


def _agrees(network: Network, image: Tensor, expected: Output) -> bool:
    with torch.no_grad():
        got = network(image)
    pairs = zip(
        (got.logits, *got.stages, *got.preacts), (expected.logits, *expected.stages, *expected.preacts), strict=True
    )
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in pairs)


def _pairs(network: Network, image: Tensor) -> dict[str, str]:
    """Run the network on an image (1, 3, S, S), and return the name of each batch norm that reads a convolution's
    output -> the name of that convolution.
    """
    names = {module: name for name, module in network.named_modules()}
    convolved: tuple[Tensor, str] | None = None
    found: dict[str, str] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal convolved
        if isinstance(module, nn.Conv2d):
            convolved = output, names[module]
        elif convolved is not None and inputs[0] is convolved[0]:
            found[names[module]] = convolved[1]

    wanted = [module for module in network.modules() if type(module) is nn.Conv2d or _is_plain(module)]
    handles = [module.register_forward_hook(see) for module in wanted]
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a batch norm that does nothing else, such as a ReLU, and normalises by what it has learnt."""
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def _fold(network: Network, pairs: dict[str, str]) -> Network:
    """Return a copy of the network in which these batch norms are folded into their convolutions."""
    made = copy.deepcopy(network)
    for name, of_convolution in pairs.items():
        convolution = cast(nn.Conv2d, made.get_submodule(of_convolution))
        norm = cast(nn.BatchNorm2d, made.get_submodule(name))
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        made.set_submodule(name, nn.Identity())
    return made
