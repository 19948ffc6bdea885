"""The cost of a network: its parameters, and its multiply-adds per image."""

import torch
from torch import nn
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
    was_training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    network.train(was_training)
    return counter.get_total_flops() // 2
