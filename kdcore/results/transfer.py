"""Measure what the frozen features of a pair's networks are worth on another data set, by linear probes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.data.augment import middle
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import LARGEST_BATCH, Feed, unaugmented
from kdcore.data.interpolate import resized_crop
from kdcore.matrix.fingerprint import fingerprint
from kdcore.matrix.teacher_cards import SEED
from kdcore.matrix.train_recipe import Augmentation
from kdcore.networks.input_affine import SCALE
from kdcore.results.evaluation import DIGITS, measure
from kdcore.results.trained_pair import TrainedPair
from kdcore.system import validated
from kdcore.system.errors import UserError, is_out_of_memory
from kdcore.system.files import file_sha256, write_json
from kdcore.system.validated import Stored
from kdcore.training import device as devices
from kdcore.training import probe

LOADED = fingerprint(__name__)
"""The fingerprint of this code when it was loaded, which may be older than the files."""
PROBES = Path("scratch/probes")
"""Keeps what earlier runs have measured, so that one more cell or protocol, or a kill, repeats no probe."""
PADDING = 4
"""Width of the black border from which padded crops are taken, in pixels."""
Card = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network whose features are probed."""

    name: str
    """Of the teacher or the cell, for messages."""
    network: nn.Module
    role: str
    """ "teacher" or "student"."""
    weights: Path
    seed: int
    network_name: str


def probe_pair(
    card: Card, dataset: Dataset, target: Dataset, teacher_weights: Path, device: torch.device, *, identity: str = ""
) -> dict[str, Any]:
    """Probe the teacher and every cell of a pair on a target, by every protocol of the card.

    Args:
        card: the card of stage transfer, with the pair, its cells, and the protocols.
        dataset: the data set that the networks were trained on.
        target: the data set of the probes.
        teacher_weights: the teacher's checkpoint.
        device: where to compute.
        identity: changes with the target's images; "" keeps no probe for later runs.

    Returns:
        The pair, the target, its numbers of classes and images, and the side of the images that networks saw. Of the
        teacher and of every cell: protocol -> top1, top1_best (of the epoch that is best on the test images) and top5,
        in percent.

    Raises:
        UserError: see `TrainedPair`; or features are not finite, the target has a single class, or a network
            cannot see images of this size.
    """
    devices.prepare_torch(device)
    if len(np.unique(target.train.labels)) < 2:
        raise UserError(f"target {card['target']}: holds one class; a probe needs at least two to tell apart")
    seen = _Seen(card, dataset, target, device, identity)
    pair = TrainedPair(card, dataset, device)
    teacher = pair.teacher(teacher_weights)
    subject = Subject(pair.teacher_name, teacher, "teacher", teacher_weights, SEED, pair.teacher_network)
    summary = {
        "pair": card["pair"],
        "target": card["target"],
        "classes": len(target.classes),
        "train_images": len(target.train.labels),
        "test_images": len(target.test.labels),
        "image_size": seen.size,
        "teacher": _probes(card, seen, subject),
        "cells": [],
    }
    for cell in pair.cells():
        name, seed = cell.identity["name"], cell.identity["seed"]
        subject = Subject(name, pair.student(cell.weights), "student", cell.weights, seed, pair.student_name)
        probes = _probes(card, seen, subject)
        summary["cells"].append({**cell.identity, "probes": probes, "weights_sha256": file_sha256(cell.weights)})
    return summary


class Kept(Stored):
    """What `PROBES` keeps of a probe."""

    top1: float
    top1_best: float
    top5: float


class _Seen:
    """The target as networks see it: each protocol has it normalised, and its training images drawn, in its own way.

    Args:
        card: of stage transfer.
        dataset: the data set that the networks were trained on.
        target: the data set of the probes.
        device: where to compute.
        identity: changes with the target's images.
    """

    def __init__(self, card: Card, dataset: Dataset, target: Dataset, device: torch.device, identity: str) -> None:
        self.dataset, self.target, self.device, self.identity = dataset, target, device, identity
        self.size: int = card.get("image_size", dataset.image_size)
        self.resized = cache(self._resized)
        self.feed = cache(self._feed)

    def of(self, protocol: Card) -> Dataset:
        """Return the target as a protocol has it, its images of the size that networks see."""
        by = self.dataset if protocol.get("normalised_by") == "network" else self.target
        mean, std = protocol.get("mean", by.mean), protocol.get("std", by.std)
        views = protocol["views"]
        is_cropped = views == "resized_crop"
        return replace(
            self.target,
            train=self.target.train if is_cropped else self.resized("train"),
            test=self.resized("test"),
            mean=tuple(mean),
            std=tuple(std),
            image_size=self.size,
            flip=self.target.flip,
            padding=PADDING if views == "padded_crop" else 0,
            rotation=0.0,
            augmented=views != "plain",
            recipe=Augmentation(crop="resized", interpolation="bilinear") if is_cropped else None,
        )

    def labels(self, split: str) -> Tensor:
        """Return the labels (N,) of a split on the device."""
        return torch.from_numpy(getattr(self.target, split).labels).to(self.device)

    def about(self, protocol: Card) -> Any:
        """Return what determines the features of a network, beside its weights and the protocol's views, as JSON."""
        computed_in = self.device.type, torch.get_num_threads(), torch.__version__
        return [self.identity, self.size, self.dataset.stem, *_normalisation(self.of(protocol)), *computed_in]

    def drawn(self, protocol: Card) -> Feed:
        """Return what draws the views of a protocol's training images; it is made once."""
        return self.feed(protocol["views"], *_normalisation(self.of(protocol)))

    def _feed(self, views: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Feed:
        return Feed(self.of({"views": views, "mean": mean, "std": std}), self.device)

    def _resized(self, name: str) -> Split:
        """Resize the images of a split to the size that networks see, once; of larger stored ones take the middle."""
        split, shown = getattr(self.target, name), self.target.image_size
        if isinstance(split, Encoded):
            raise UserError(f"data/{self.target.name}: its images are not decoded; store it with resize_crop")
        if split.images.shape[1] == self.size == shown:
            return split
        parts = []
        for batch in torch.from_numpy(split.images).split(LARGEST_BATCH):
            images = middle(batch.to(self.device), shown)
            if shown != self.size:
                whole = torch.tensor([[0, 0, shown, shown]], device=self.device).expand(len(images), 4)
                images = resized_crop(images, whole, self.size, "bilinear")
            parts.append(images.permute(0, 2, 3, 1).cpu().numpy())
        return replace(split, images=np.concatenate(parts))


def _normalisation(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return dataset.mean, dataset.std


def _probes(card: Card, seen: _Seen, subject: Subject) -> dict[str, dict[str, float]]:
    """Probe one network by every protocol; features that several of them share are computed once."""

    @cache
    def features(split: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        dataset = seen.of({"views": "plain", "mean": mean, "std": std})
        images = unaugmented(getattr(dataset, split), dataset, seen.device)
        with torch.no_grad():
            return torch.cat([_pooled(subject, batch) for batch in images])

    def measured(name: str, protocol: Card, lr: float) -> dict[str, float]:
        by = _normalisation(seen.of(protocol))
        test = features("test", *by), seen.labels("test")
        if protocol["views"] == "plain":
            size = protocol["batch_size"]
            batches = probe.kept(features("train", *by), seen.labels("train"), size=size, seed=subject.seed)
        else:
            batches = _fresh(subject, seen.drawn(protocol), protocol["batch_size"])
        trained = probe.train(
            batches,
            test,
            width=test[0].shape[1],
            classes=len(seen.target.classes),
            protocol=protocol,
            lr=lr,
            seed=subject.seed,
            name=f"{subject.name} on {card['target']}, protocol {name}",
        )
        with torch.no_grad():
            metrics = measure(trained.layer(test[0]), test[1])
        best = round(max(trained.history), DIGITS)
        return {"top1": metrics["top1"], "top1_best": best, "top5": metrics["top5"]}

    found = {}
    for name, protocol in card["protocols"].items():
        if hasattr(subject.network, SCALE) and _normalisation(seen.of(protocol)) != _normalisation(seen.dataset):
            raise UserError(
                f"{subject.name} on {card['target']}: it was trained on images of another normalisation than the data "
                f"set has, and protocol {name} normalises images by values of its own, which it would see shifted; "
                "take a protocol that normalises as the network was trained, such as default"
            )
        is_slow = subject.role in card["slow"]
        lr = protocol.get("slow_lr", protocol["lr"]) if is_slow else protocol["lr"]
        about = [protocol, lr, seen.about(protocol), subject.network_name, subject.seed, file_sha256(subject.weights)]
        keep = [*about, card.get("networks"), card.get("code")] if seen.identity else None
        found[name] = _once(keep, partial(measured, name, protocol, lr))
    return found


def _once(about: Any, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what an earlier run has measured under all that determines it; else measure and keep it."""
    if about is None:
        return make()
    file = PROBES / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}.json"
    try:
        return validated.read_checked(file, Kept)
    except UserError:  # there is none, or a damaged one
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        return found


def _fresh(subject: Subject, feed: Feed, size: int) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Return the batches of features of views that are drawn anew in every epoch."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in feed.batches(size, views=1, seed=subject.seed, epoch=epoch):
            with torch.no_grad():
                features = _pooled(subject, batch.views[0])
            yield features, batch.target

    return batches


def _pooled(subject: Subject, images: Tensor) -> Tensor:
    """Compute what a network's classifier sees (B, D) of normalised images (B, 3, S, S), in evaluation mode."""
    try:
        pooled: Tensor = subject.network(images).pooled.float()
    except (RuntimeError, AssertionError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{subject.weights}: the network cannot see images of {images.shape[-1]} pixels ({reason}); set "
            "targets.<name>.image_size in params.yaml to a size that it can"
        ) from error
    if not torch.isfinite(pooled).all():
        raise UserError(f"{subject.weights}: its features are not finite on the target's images; train it again")
    return pooled
