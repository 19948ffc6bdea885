"""Predictions of a trained network."""

import torch
from torch import Tensor, nn

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import unaugmented
from kdcore.training.distributed import ALONE, World


def predict(
    network: nn.Module, split: Split | Encoded, dataset: Dataset, device: torch.device, world: World = ALONE
) -> Tensor:
    """Logits of unaugmented images, in evaluation mode.

    Args:
        network: on `device`; its mode is restored afterwards.
        split: N images.
        dataset: whose image size, mean and deviation the network was trained with.
        device: where to compute.
        world: each of its processes computes its share.

    Returns:
        (N, C) float32, on `device`; of this process's share.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad():
        logits = [network(batch).logits.float() for batch in unaugmented(split, dataset, device, world)]
    network.train(was_training)
    return torch.cat(logits)


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions in percent. (N, C), (N,) -> scalar float64."""
    return 100 * (logits.argmax(dim=1) == labels).double().mean()
