"""The cost of a network: its parameters, and its multiply-adds per image."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Count the numbers that a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, image_size: int) -> int:
    """Count the multiply-adds of convolutions and matrix products for one image in evaluation mode.

    Biases, norms and pools are not counted. The network's mode is restored; it may be on the device "meta", where
    nothing is computed.

    Args:
        network: maps images (B, 3, H, W).
        image_size: height and width, in pixels.
    """
    image = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    was_training, learnt = network.training, [value for value in network.parameters() if value.requires_grad]
    network.requires_grad_(False)  # the counter looks for gradients, which views of parameters have none of here
    plain = sdpa_kernel(SDPBackend.MATH)  # attention in matrix products, which are counted on every device
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        network.eval()(image)
    network.train(was_training)
    for value in learnt:
        value.requires_grad_(True)
    return counter.get_total_flops() // 2
