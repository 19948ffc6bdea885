"""Predictions of a trained network."""

import torch
from torch import Tensor, nn

from kdcore.data.augment import Normalize
from kdcore.data.store import Dataset, Split

BATCH = 500


def predict(network: nn.Module, split: Split, dataset: Dataset, device: torch.device) -> Tensor:
    """Logits of unaugmented images, in evaluation mode.

    Args:
        network: on `device`; its mode is restored afterwards.
        split: N images.
        dataset: whose mean and deviation the network was trained with.
        device: where to compute.

    Returns:
        (N, C) float32, on `device`.
    """
    was_training = network.training
    network.eval()
    images = torch.from_numpy(split.images)
    normalize = Normalize(dataset.mean, dataset.std, device)
    with torch.no_grad():
        logits = [network(normalize(batch.to(device).permute(0, 3, 1, 2))).logits for batch in images.split(BATCH)]
    network.train(was_training)
    return torch.cat(logits)


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions in percent. (N, C), (N,) -> scalar float64."""
    return 100 * (logits.argmax(dim=1) == labels).double().mean()
