"""Train a linear layer on features that do not change, and measure it after every epoch: a linear probe."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.data.augment import epoch_order
from kdcore.system.errors import RunError
from kdcore.training.inference import top1
from kdcore.training.optimizers import SGD

NORMAL = 0.01
"""The deviation of the first weights, where they are drawn from a normal distribution."""
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""Epoch, counted from 1 -> its batches: features (B, D) float32 and labels (B,)."""


@dataclass(frozen=True)
class Probe:
    """A trained linear layer, and how accurate it was."""

    layer: nn.Linear
    history: list[float]
    """Accuracy on the test features after every epoch, in percent."""


def kept(features: Tensor, labels: Tensor, *, size: int, seed: int) -> Batches:
    """Return the batches of features that are the same in every epoch, each time in another order.

    Args:
        features: (N, D).
        labels: (N,).
        size: of the batches; the last one may be smaller.
        seed: of the orders.
    """

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(seed, epoch, len(labels)).to(labels.device)
        for index in order.split(size):
            yield features[index], labels[index]

    return batches


def train(
    batches: Batches,
    test: tuple[Tensor, Tensor],
    *,
    width: int,
    classes: int,
    protocol: Mapping[str, Any],
    lr: float,
    seed: int,
    name: str,
) -> Probe:
    """Train a linear layer with cross-entropy, and measure it on test features after every epoch.

    Args:
        batches: the training features.
        test: features (N, D) and labels (N,).
        width: D.
        classes: how many there are.
        protocol: epochs, milestones, lr_decay, momentum, nesterov, weight_decay and start, see
            `kdcore.matrix.protocols.Protocol`.
        lr: the learning rate of the first epoch.
        seed: of the layer's first weights.
        name: of the network, for messages.

    Raises:
        RunError: a loss is not finite.
    """
    features, labels = test
    layer = _layer(width, classes, protocol["start"], seed).to(features.device)
    optimizer = SGD(
        layer.parameters(),
        lr=lr,
        momentum=protocol["momentum"],
        nesterov=protocol["nesterov"],
        weight_decay=protocol["weight_decay"],
    )
    history = []
    for epoch in range(1, protocol["epochs"] + 1):
        optimizer.lr = lr * protocol["lr_decay"] ** sum(epoch > milestone for milestone in protocol["milestones"])
        losses = []
        for seen, target in batches(epoch):
            loss = F.cross_entropy(layer(seen), target)
            optimizer.minimise(loss)
            losses.append(loss.detach())
        if not torch.isfinite(torch.stack(losses)).all():
            raise RunError(f"{name}: epoch {epoch} of the probe: the loss is not finite; take another protocol")
        with torch.no_grad():
            history.append(float(top1(layer(features), labels)))
    return Probe(layer, history)


def _layer(width: int, classes: int, start: str, seed: int) -> nn.Linear:
    """Make the layer, with first weights that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(width, classes)
    with torch.no_grad():
        if start == "normal":
            layer.weight.normal_(0.0, NORMAL, generator=generator)
            layer.bias.zero_()
        else:  # as torch.nn.Linear draws them
            for part in (layer.weight, layer.bias):
                part.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
    return layer
