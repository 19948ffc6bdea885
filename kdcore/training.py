"""The trainer: SGD over augmented batches, the same for teachers, baselines and distilled students.

Deterministic: all randomness comes from (seed, epoch, index). Nothing is read back from the device inside an epoch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdcore import networks
from kdcore.data.augment import Normalize, apply_views, epoch_order, epoch_views
from kdcore.data.store import Dataset
from kdcore.errors import RunError
from kdcore.inference import predict, top1
from kdcore.networks.contract import Network
from kdcore.objective import PLAIN, Objective

Row = dict[str, float]
"""One epoch of a history: epoch, lr, loss, ce, kd, train_top1, test_top1."""


class NotFiniteError(RunError):
    """A loss is NaN or infinite; the message names epoch, step and the last finite values."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    """ "step" or "cosine"."""
    milestones: tuple[int, ...] = ()
    """Step schedule: the rate decays once the epoch, counted from 1, exceeds each of them."""
    lr_decay: float = 1.0

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
        return self.lr * self.lr_decay ** sum(epoch > milestone for milestone in self.milestones)


class Checkpoint(Protocol):
    """Keeps the state of an unfinished run (see `kdcore.resume`)."""

    def load(self) -> dict[str, Any] | None:
        """The saved state, if any."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""


@dataclass(frozen=True)
class Watcher:
    """Whom the trainer tells of its progress."""

    on_step: Callable[[int], None] = lambda _images: None
    """Called after every step with its number of images."""
    on_epoch: Callable[[Row], None] = lambda _row: None
    """Called after every epoch, before its state is saved."""


def create(name: str, num_classes: int, seed: int, device: torch.device) -> Network:
    """A network whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    return networks.create(name, num_classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def carry_out(
    card: dict[str, Any],
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    watcher: Watcher | None = None,
) -> tuple[Network, list[Row]]:
    """Create and train the student that a card describes. Here, so that its code is part of every cell's card.

    Args:
        card: of a teacher to train, a baseline or a cell (see `kdcore.plan`).
        dataset: the one that the card names.
        teacher: the one that the card names, on `device`; None for a network trained alone.
        device: where to compute.
        checkpoint: see `train`.
        watcher: see `train`.

    Returns:
        The trained student and its history.
    """
    student = create(card["student"], len(dataset.classes), card["seed"], device)
    objective = Objective(
        card["method"] if teacher is not None else None,
        card["recipe"],
        levels=tuple(card.get("levels", PLAIN)),
        stand=card.get("stand", False),
        heads=None if teacher is None else (student.classifier, teacher.classifier),
    )
    settings = Settings(**card["train"])
    history = train(
        student,
        teacher,
        objective,
        dataset,
        settings,
        seed=card["seed"],
        device=device,
        checkpoint=checkpoint,
        watcher=watcher,
    )
    return student, history


def train(
    student: Network,
    teacher: Network | None,
    objective: Objective,
    dataset: Dataset,
    settings: Settings,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    watcher: Watcher | None = None,
) -> list[Row]:
    """Train a student in place.

    Args:
        student: on `device`, from `create`.
        teacher: on `device`; frozen and in evaluation mode throughout. None for a network trained alone.
        objective: the loss.
        dataset: its training images are learnt, its test images measured after every epoch.
        settings: optimiser and schedule.
        seed: of the order and views of the images.
        device: of both networks.
        checkpoint: continues a run that was interrupted; it ends with the same bits.
        watcher: is told of the progress.

    Returns:
        One row per epoch.

    Raises:
        NotFiniteError: a loss was not finite.
    """
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # Filling memory costs a third of the time of small networks; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if teacher is not None:
        teacher.eval().requires_grad_(False)
    watcher = watcher or Watcher()
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )
    images = torch.from_numpy(dataset.train.images).to(device)
    labels = torch.from_numpy(dataset.train.labels).to(device)
    test_labels = torch.from_numpy(dataset.test.labels).to(device)
    history = _resume(checkpoint, student, optimizer)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(epoch)
        batches = _batches(images, labels, dataset, settings.batch_size, seed=seed, epoch=epoch)
        row = _train_epoch(student, teacher, objective, optimizer, batches, epoch=epoch, watcher=watcher)
        row["test_top1"] = top1(predict(student, dataset.test, dataset, device), test_labels).item()
        history.append({"epoch": epoch, "lr": settings.lr_at(epoch), **row})
        watcher.on_epoch(history[-1])
        if checkpoint is not None:
            checkpoint.save({"history": history, "student": student.state_dict(), "optimizer": optimizer.state_dict()})
    return history


def _resume(checkpoint: Checkpoint | None, student: Network, optimizer: torch.optim.Optimizer) -> list[Row]:
    state = checkpoint.load() if checkpoint is not None else None
    if state is None:
        return []
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def _batches(
    images: Tensor, labels: Tensor, dataset: Dataset, size: int, *, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The epoch's batches, (B, 3, H, W) float32 and (B,); the last may be smaller."""
    count, padding = len(labels), dataset.padding
    order = epoch_order(seed, epoch, count).to(images.device)
    views = epoch_views(seed, epoch, count, padding=padding, flip=dataset.flip).to(images.device)
    normalize = Normalize(dataset.mean, dataset.std, images.device)
    for index in order.split(size):
        seen = apply_views(images[index], views.of(index), padding=padding)
        yield normalize(seen), labels[index]


def _train_epoch(
    student: Network,
    teacher: Network | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    epoch: int,
    watcher: Watcher,
) -> Row:
    """One pass over the training images. Sums stay on the device until its end."""
    student.train()
    parts, correct, seen = [], [], 0
    for images, target in batches:
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(images)
        out = student(images)
        terms = objective(out, taught, target, epoch=epoch)
        optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()
        optimizer.step()
        parts.append(torch.stack([terms.loss, terms.ce, terms.kd]).detach())
        correct.append((out.logits.detach().argmax(dim=1) == target).sum())
        seen += len(target)
        watcher.on_step(len(target))
    values = torch.stack(parts).double().cpu()
    _check_finite(values, epoch)
    loss, ce, kd = values.mean(dim=0).tolist()
    return {"loss": loss, "ce": ce, "kd": kd, "train_top1": 100 * torch.stack(correct).sum().item() / seen}


def _check_finite(values: Tensor, epoch: int) -> None:
    """Values (steps, 3) of loss, ce and kd."""
    broken = ~torch.isfinite(values).all(dim=1)
    if broken.any():
        step = int(broken.nonzero()[0, 0])
        before = values[step - 1].tolist() if step else "none in this epoch"
        raise NotFiniteError(
            f"epoch {epoch}, step {step + 1} of {len(values)}: loss, cross-entropy and distillation loss are "
            f"{values[step].tolist()}; the last finite ones: {before}. Lower train.lr or the method's weights"
        )
