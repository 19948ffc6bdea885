"""The trainer: gradient descent over augmented batches, the same for teachers, baselines and distilled students.

Deterministic: all randomness comes from (seed, epoch, index). Nothing is read back from the device inside an epoch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdcore import networks, objective
from kdcore.data.augment import device_generator, seed_dropout
from kdcore.data.feed import Feed
from kdcore.data.store import Dataset
from kdcore.dot import DOT
from kdcore.errors import RunError
from kdcore.inference import predict, top1
from kdcore.networks.contract import Network, Output
from kdcore.objective import PLAIN, Batch, Objective, Parts

Row = dict[str, float]
"""One epoch of a history: epoch, lr, loss, ce, the unweighted loss of each method by its name, train_top1 (of weak
views), test_top1.
"""


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
    optimizer: str = "sgd"
    """ "sgd" or "dot"."""
    dot_delta: float = 0.0
    """See `kdcore.dot`."""
    grad_clip_norm: float | None = None
    """Longest gradient of all parameters together; longer ones are scaled down to it."""

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
        return self.lr * self.lr_decay ** sum(epoch > milestone for milestone in self.milestones)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser, with the learning rate of the first epoch."""
        common: dict[str, Any] = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        if self.optimizer == "dot":
            return DOT(parameters, delta=self.dot_delta, **common)
        return torch.optim.SGD(parameters, nesterov=self.nesterov, fused=True, **common)


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


def create(name: str, num_classes: int, seed: int, device: torch.device, *, stem: str = "small") -> Network:
    """A network whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    network = networks.create(name, num_classes, stem=stem)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def carry_out(
    card: dict[str, Any],
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    watcher: Watcher | None = None,
) -> tuple[Network, Objective, list[Row]]:
    """Create and train the student that a card describes. Here, so that its code is part of every cell's card.

    Args:
        card: of a teacher to train, a baseline or a cell (see `kdcore.plan`).
        dataset: the one that the card names.
        teacher: the one that the card names, on `device`; None for a network trained alone.
        device: where to compute.
        checkpoint: see `train`.
        watcher: see `train`.

    Returns:
        The trained student, its objective (whose adapters were trained too) and its history.
    """
    student = create(card["student"], len(dataset.classes), card["seed"], device, stem=dataset.stem)
    goal = Objective(card["recipe"]["ce_weight"])
    if teacher is not None:
        goal = objective.build(
            card["method"],
            card["recipe"],
            student=student,
            teacher=teacher,
            labels=torch.from_numpy(dataset.train.labels).to(device),
            image_size=dataset.image_size,
            levels=tuple(card.get("levels", PLAIN)),
            stand=card.get("stand", False),
        )
    history = train(
        student,
        teacher,
        goal,
        dataset,
        Settings(**card["train"]),
        seed=card["seed"],
        device=device,
        checkpoint=checkpoint,
        watcher=watcher,
    )
    return student, goal, history


def train(
    student: Network,
    teacher: Network | None,
    goal: Objective,
    dataset: Dataset,
    settings: Settings,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    watcher: Watcher | None = None,
) -> list[Row]:
    """Train a student in place, and its objective's adapters with it.

    Args:
        student: on `device`, from `create`.
        teacher: on `device`; frozen, and in evaluation mode unless the goal asks otherwise. None for a network
            trained alone.
        goal: the loss.
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
        teacher.train(goal.teacher_in_training_mode).requires_grad_(False)
    watcher = watcher or Watcher()
    optimizer = settings.make_optimizer([*student.parameters(), *goal.parameters()])
    feed = Feed(dataset, device)
    test_labels = torch.from_numpy(dataset.test.labels).to(device)
    parts: dict[str, Any] = {"student": student, "objective": goal, "optimizer": optimizer}
    history = _resume(checkpoint, parts)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(epoch)
        seed_dropout(seed, epoch)
        generator = device_generator(seed, epoch, device)
        batches = (
            Batch(views, feed.labels[index], index, epoch, generator)
            for views, index in feed.batches(settings.batch_size, views=goal.views, seed=seed, epoch=epoch)
        )
        row = _train_epoch(student, teacher, goal, optimizer, batches, settings=settings, watcher=watcher)
        row["test_top1"] = top1(predict(student, dataset.test, dataset, device), test_labels).item()
        history.append({"epoch": epoch, "lr": settings.lr_at(epoch), **row})
        watcher.on_epoch(history[-1])
        if checkpoint is not None:
            checkpoint.save({"history": history, **{name: part.state_dict() for name, part in parts.items()}})
    return history


def _resume(checkpoint: Checkpoint | None, parts: dict[str, Any]) -> list[Row]:
    state = checkpoint.load() if checkpoint is not None else None
    if state is None:
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["history"]


def _train_epoch(
    student: Network,
    teacher: Network | None,
    goal: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    *,
    settings: Settings,
    watcher: Watcher,
) -> Row:
    """One pass over the training images. Sums stay on the device until its end."""
    student.train()
    goal.train()
    losses: dict[str, list[Tensor]] = {}
    correct, seen = [], 0
    for batch in batches:
        taught: list[Output] = []
        if teacher is not None:
            with torch.no_grad():
                taught = [teacher(view) for view in batch.views]
        outputs = [student(view) for view in batch.views]
        parts = goal(outputs, taught, batch)
        _minimise(optimizer, parts, settings.grad_clip_norm)
        for name, value in {"loss": parts.loss, "ce": parts.ce, **parts.losses}.items():
            losses.setdefault(name, []).append(value.detach())
        correct.append((outputs[0].logits.detach().argmax(dim=1) == batch.target).sum())
        seen += len(batch.target)
        watcher.on_step(len(batch.target))
    values = torch.stack([torch.stack(of_steps) for of_steps in losses.values()]).double().cpu()
    _check_finite(values, list(losses), batch.epoch)
    means = dict(zip(losses, values.mean(dim=1).tolist(), strict=True))
    return {**means, "train_top1": 100 * torch.stack(correct).sum().item() / seen}


def _minimise(optimizer: torch.optim.Optimizer, parts: Parts, clip: float | None) -> None:
    if isinstance(optimizer, DOT):
        optimizer.minimise(parts.task, parts.distillation)
        return
    optimizer.zero_grad(set_to_none=True)
    parts.loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()


def _check_finite(values: Tensor, names: list[str], epoch: int) -> None:
    """Values (losses, steps) by name."""
    broken = ~torch.isfinite(values).all(dim=0)
    if broken.any():
        step = int(broken.nonzero()[0, 0])
        before = _described(values[:, step - 1], names) if step else "none in this epoch"
        raise NotFiniteError(
            f"epoch {epoch}, step {step + 1} of {values.shape[1]}: {_described(values[:, step], names)}; the last "
            f"finite ones: {before}. Lower train.lr or the method's weights"
        )


def _described(values: Tensor, names: list[str]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values.tolist(), strict=True))
