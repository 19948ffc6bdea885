"""Compute the predictions of a trained network."""

import torch
from torch import Tensor, nn

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import unaugmented
from kdcore.training.distributed import ALONE, World


def predict(
    network: nn.Module, split: Split | Encoded, dataset: Dataset, device: torch.device, world: World = ALONE
) -> Tensor:
    """Compute the logits of unaugmented images, in evaluation mode and without gradients.

    Args:
        network: on `device`; its mode is restored afterwards.
        split: N images.
        dataset: gives the image size, mean and deviation that the network was trained with.
        device: where to compute.
        world: the processes that share the images; each computes the logits of its own share.

    Returns:
        (n, C) float32 on `device`: the logits of this process's n images; n = N if there is one process.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad():
        logits = [network(batch).logits.float() for batch in unaugmented(split, dataset, device, world)]
    network.train(was_training)
    return torch.cat(logits)


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the share of right predictions in percent: logits (N, C), labels (N,) -> scalar float64."""
    return 100 * (logits.argmax(dim=1) == labels).double().mean()
