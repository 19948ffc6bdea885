"""The first layer of the networks that were published for 32 x 32 images, and what stands there for larger ones."""

from typing import cast

from torch import nn

from kdcore.networks.contract import Network

LARGE = "large"


def fit(network: Network, stem: str, layer: str = "conv1") -> Network:
    """Put the first layer in place that a stem asks for; return the network.

    The large one is that of SDD's code for CUB-200 (Wei et al., CVPR 2024, arXiv:2403.13512): a convolution of 7 x 7,
    stride 2 and padding 3, of as many channels, initialised as PyTorch does whatever the family's rule. The keys of the
    state dict stay as they are.

    Args:
        network: with the first layer for small images.
        stem: one of `kdcore.networks.STEMS`.
        layer: dotted name of the first convolution.
    """
    if stem == LARGE:
        channels = cast(nn.Conv2d, network.get_submodule(layer)).out_channels
        network.set_submodule(layer, nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False))
    return network
