"""The forward pass that the residual families share."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.networks.contract import Network, Output


def classify(
    network: Network, stem: Tensor, stages: Iterable[Iterable[nn.Module]], pool: nn.Module | None = None
) -> Output:
    """Pass the stem's map through stages of blocks that return sums before their last ReLU, pool and classify.

    Args:
        network: whose classifier is used.
        stem: (B, Ch, H, W), normalised, before its ReLU.
        stages: blocks, shallow to deep.
        pool: between the stem's map and the first block.
    """
    preact, x = stem, F.relu(stem)
    maps, preacts = [x], [stem]
    if pool is not None:
        x = pool(x)
    for stage in stages:
        for block in stage:
            preact = block(x)
            x = F.relu(preact)
        maps.append(x)
        preacts.append(preact)
    pooled = x.mean(dim=(2, 3))
    return Output(
        logits=network.classifier(pooled), stages=tuple(maps), preacts=tuple(preacts), pooled=pooled, final_map=x
    )
