"""The trainer: gradient descent over augmented batches, the same for teachers, baselines and distilled students.

Deterministic: all randomness comes from (seed, epoch, index). Nothing is read back from the device inside an epoch.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdcore import catalog, networks, objective
from kdcore.data.dataset import Dataset
from kdcore.data.feed import Feed, Seen
from kdcore.networks.contract import Network, Output
from kdcore.objective import PLAIN, Batch, Known, Objective, Parts
from kdcore.system.errors import RunError, UserError
from kdcore.system.signals import Interrupted, Interruption
from kdcore.training import teacher_outputs
from kdcore.training.device import autocast, compute_dtype, keep_freed_memory
from kdcore.training.distributed import ALONE, World
from kdcore.training.inference import predict
from kdcore.training.optimizers import DOT, SGD
from kdcore.training.random import device_generator, drawn_state, restore_drawn, seed_dropout

Row = dict[str, float]
"""One epoch of a history: epoch, lr, loss, ce, the unweighted loss of each method by its name, train_top1 (of weak
views), test_top1.
"""


LARGEST = 1e6
"""Of weights and biases: beyond it a gradient has exploded. Those of trained networks, published ones included, stay
below 100.
"""
ADVICE = "Lower train.lr or the method's weights, or set train.grad_clip_norm"


class NotFiniteError(RunError):
    """A loss is NaN or infinite, or a weight is, or is absurdly large; the message names the run, epoch, step and the
    last finite values.
    """


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
    """See `kdcore.training.optimizers`."""
    grad_clip_norm: float | None = None
    """Longest gradient of all parameters together; longer ones are scaled down to it."""
    precision: str = "float32"
    """See `kdcore.training.device.compute_dtype`."""
    threads: int | None = None
    """See `kdcore.training.device.use_threads`."""

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
        return self.lr * self.lr_decay ** sum(epoch > milestone for milestone in self.milestones)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> SGD | DOT:
        """The optimiser, with the learning rate of the first epoch."""
        common: dict[str, Any] = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        if self.optimizer == "dot":
            return DOT(parameters, delta=self.dot_delta, **common)
        return SGD(parameters, nesterov=self.nesterov, **common)


class Checkpoint(Protocol):
    """Keeps the state of an unfinished run (see `kdcore.training.state`)."""

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


@dataclass
class Sums:
    """What the steps of an unfinished epoch have added up to. It stays on the device until the epoch's end."""

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    """By name, of every step."""
    shares: list[float] = field(default_factory=list)
    """This process's part of every batch."""
    correct: list[Tensor] = field(default_factory=list)
    images: int = 0

    @property
    def steps(self) -> int:
        """How many have been taken."""
        return len(self.shares)

    def values(self) -> Tensor:
        """(losses, steps), float64."""
        return torch.stack([torch.stack(values) for values in self.losses.values()]).double()

    def state_dict(self) -> dict[str, Any]:
        """What `of` makes them from again."""
        losses = {name: torch.stack(values) for name, values in self.losses.items()}
        return {"losses": losses, "shares": self.shares, "correct": torch.stack(self.correct), "images": self.images}

    @classmethod
    def of(cls, state: dict[str, Any], device: torch.device) -> "Sums":
        """Those of another process."""
        losses = {name: list(values.to(device)) for name, values in state["losses"].items()}
        return cls(losses, state["shares"], list(state["correct"].to(device)), state["images"])


class Run:
    """A network being trained, and what it has been through.

    Args:
        student: from `create`.
        goal: the loss; its adapters are trained too.
        settings: optimiser and schedule.
        seed: of the order and views of the images.
        device: of both.
        name: for messages.
        checkpoint: continues a run that was interrupted; it ends with the same bits.
        watcher: is told of the progress.
        world: the processes that train together; each has a run of its own with equal weights.
    """

    def __init__(
        self,
        student: Network,
        goal: Objective,
        settings: Settings,
        *,
        seed: int,
        device: torch.device,
        name: str = "network",
        checkpoint: Checkpoint | None = None,
        watcher: Watcher | None = None,
        world: World = ALONE,
    ) -> None:
        self.student = world.synchronised(student, device)
        self.goal = world.synchronised(goal, device)
        self.settings, self.seed, self.device, self.name, self.world = settings, seed, device, name, world
        self.checkpoint, self.watcher = checkpoint, watcher or Watcher()
        self.optimizer = settings.make_optimizer([*student.parameters(), *goal.parameters()])
        self.dtype = compute_dtype(settings.precision, device)
        self.parts: dict[str, Any] = {"student": student, "objective": goal, "optimizer": self.optimizer}
        self.history: list[Row] = []
        self.predicted = 0
        """How many classes it names for the test images, after the last epoch."""
        self.sums = Sums()
        self.drawn: dict[str, Tensor] | None = None
        """Where the draws of an epoch were interrupted."""
        self._resume()
        self.learner = world.averaging(_Learner(self.student, self.goal))

    @property
    def epoch(self) -> int:
        """The one to come or to go on with, counted from 1."""
        return len(self.history) + 1

    def begin(self) -> None:
        """An epoch, or go on with one."""
        self.optimizer.lr = self.settings.lr_at(self.epoch)
        self.generator = device_generator(self.seed, self.epoch, self.device)
        seed_dropout(self.seed, self.epoch, self.world.rank)
        if self.drawn is not None:
            restore_drawn(self.drawn, self.device, self.generator)
            self.drawn = None
        self.student.train()
        self.goal.train()

    def step(self, seen: Seen, target: Tensor, taught: Sequence[Output | Known]) -> None:
        """One of the epoch."""
        batch = Batch(seen.views[: self.goal.views], target, seen.index, self.epoch, self.generator)
        with autocast(self.device, self.dtype):
            predicted, parts = self.learner(batch, taught)
        share = len(target) / seen.whole
        self._minimise(parts, share * self.world.size)
        self.sums.shares.append(share)
        for name, value in {"loss": parts.loss, "ce": parts.ce, **parts.losses}.items():
            self.sums.losses.setdefault(name, []).append(value.detach())
        self.sums.correct.append((predicted == target).sum())
        self.sums.images += seen.whole
        self.watcher.on_step(seen.whole)

    def end(self, dataset: Dataset, test_labels: Tensor) -> None:
        """The epoch: measure the student on the test images and save the state."""
        values = self.world.total(self.sums.values() * torch.tensor(self.sums.shares, device=self.device)).cpu()
        self._check_finite(values)
        with autocast(self.device, self.dtype):
            logits = predict(self.student, dataset.test, dataset, self.device, self.world)
        self._check_weights(logits, values)
        predicted = logits.argmax(dim=1)
        known = self.world.total((predicted == self.world.share(test_labels)).sum())
        self.predicted = int((self.world.total(predicted.bincount(minlength=logits.shape[1])) > 0).sum())
        row = {
            "epoch": self.epoch,
            "lr": self.settings.lr_at(self.epoch),
            **dict(zip(self.sums.losses, values.mean(dim=1).tolist(), strict=True)),
            "train_top1": 100 * self.world.total(torch.stack(self.sums.correct).sum()).item() / self.sums.images,
            "test_top1": 100 * (known.item() / len(test_labels)),
        }
        self.history.append(row)
        self.sums = Sums()
        self.watcher.on_epoch(row)
        self.save()

    def save(self) -> None:
        """The state, of which an epoch's steps so far are a part."""
        if self.checkpoint is not None and self.world.leads:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            if self.sums.steps:
                state["epoch"] = self.sums.state_dict() | {"drawn": drawn_state(self.device, self.generator)}
            self.checkpoint.save({"history": self.history, "predicted": self.predicted, **state})

    def _minimise(self, parts: Parts, weight: float) -> None:
        """Weight: of this process's loss in the mean over the processes."""
        if isinstance(self.optimizer, DOT):
            self.optimizer.minimise(parts.task, parts.distillation)
        else:
            self.optimizer.minimise(weight * parts.loss, longest=self.settings.grad_clip_norm)

    def _resume(self) -> None:
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is None:
            return
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.history, self.predicted = state["history"], state["predicted"]
        if "epoch" in state:
            self.sums, self.drawn = Sums.of(state["epoch"], self.device), state["epoch"]["drawn"]

    def _check_finite(self, values: Tensor) -> None:
        """Values (losses, steps) of the epoch."""
        broken = ~torch.isfinite(values).all(dim=0)
        if broken.any():
            step = int(broken.nonzero()[0, 0])
            before = self._described(values[:, step - 1]) if step else "none in this epoch"
            raise NotFiniteError(
                f"{self.name}: epoch {self.epoch}, step {step + 1} of {values.shape[1]}: "
                f"{self._described(values[:, step])}; the last finite ones: {before}. {ADVICE}"
            )

    def _check_weights(self, logits: Tensor, values: Tensor) -> None:
        """Logits of test images after the epoch, and values (losses, steps) of it, which are finite.

        A loss shows an explosion in the step after it, so that of the last step shows here alone; and batch norm hides
        weights that are finite, but so large that no gradient moves them any more.
        """
        weights = {**dict(self.student.named_parameters()), **dict(self.goal.named_parameters())}
        found = _beyond(weights, LARGEST) or _beyond(dict(self.student.named_buffers()), sys.float_info.max)
        if not found and self.world.total((~torch.isfinite(logits)).sum()):
            found = "logits of test images are not finite"
        if found:
            worst, steps = int(values[0].argmax()), values.shape[1]
            raise NotFiniteError(
                f"{self.name}: epoch {self.epoch}, after step {steps} of {steps}: {found}; the losses are finite: "
                f"{self._described(values[:, -1])}; where the loss was largest, in step {worst + 1}: "
                f"{self._described(values[:, worst])}. {ADVICE}"
            )

    def _described(self, values: Tensor) -> str:
        return ", ".join(f"{name} {value:.6g}" for name, value in zip(self.sums.losses, values.tolist(), strict=True))


class _Learner(nn.Module):
    """What gets gradients, as one module: student and goal."""

    def __init__(self, student: Network, goal: Objective) -> None:
        super().__init__()
        self.student, self.goal = student, goal

    def forward(self, batch: Batch, taught: Sequence[Output | Known]) -> tuple[Tensor, Parts]:
        """The classes (B,) predicted for the weak views, and the loss."""
        outputs = [self.student(view) for view in batch.views]
        return outputs[0].logits.detach().argmax(dim=1), self.goal(outputs, taught, batch)


def prepare(
    card: dict[str, Any],
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    watcher: Watcher | None = None,
    world: World = ALONE,
) -> Run:
    """Create the student that a card describes and what it is trained with. Here, so that its code is part of every
    cell's card.

    Args:
        card: of a teacher to train, a baseline or a cell (see `kdcore.matrix.cards`).
        dataset: the one that the card names.
        teacher: the one that the card names, on `device`; None for a network trained alone.
        device: where to compute.
        checkpoint: see `Run`.
        watcher: see `Run`.
        world: see `Run`.

    Raises:
        UserError: several processes, and a method or optimiser that works in one alone.
    """
    if world.size > 1:
        _check_divisible(card)
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
    settings = Settings(**card["train"])
    return Run(
        student,
        goal,
        settings,
        seed=card["seed"],
        device=device,
        name=card["name"],
        checkpoint=checkpoint,
        watcher=watcher,
        world=world,
    )


def _check_divisible(card: dict[str, Any]) -> None:
    """Refuse a cell whose loss is no mean over samples, which processes could share."""
    related = [entry.name for entry in catalog.terms(card["method"]) if entry.across == "batch"]
    reasons = [f"method {name} relates the samples of a batch" for name in related]
    if card["train"].get("optimizer") == "dot":
        reasons.append("optimizer dot needs the gradients of each loss")
    if reasons:
        raise UserError(f"{card['name']}: {', and '.join(reasons)}; train it in one process, without torchrun")


def train(
    runs: Sequence[Run], teacher: Network | None, dataset: Dataset, *, interruption: Interruption | None = None
) -> None:
    """Carry runs to their ends, in place.

    Several see the same images at the same time and share what the teacher says of them; each ends as it would alone.

    Args:
        runs: of one seed, device, precision, batch size, world and number of epochs, with as many steps behind them.
        teacher: on their device; frozen, and in evaluation mode unless a goal asks otherwise. None for networks
            trained alone.
        dataset: its training images are learnt, its test images measured after every epoch.
        interruption: asked after every step and every epoch; not for several processes, which would have to agree on
            a step.

    Raises:
        NotFiniteError: a loss or a weight was not finite, or a weight absurdly large.
        Interrupted: a signal asked for it; the states are saved.
    """
    _settle(runs[0].device)
    first, views = runs[0], max(run.goal.views for run in runs)
    feed = Feed(dataset, first.device, first.world)
    test_labels = torch.from_numpy(dataset.test.labels).to(first.device)
    goals, size = [run.goal for run in runs], first.settings.batch_size
    teach = teacher_outputs.prepare(
        teacher, goals, feed, first.world, first.dtype, batch_size=math.ceil(size / first.world.size)
    )
    leave = partial(_leave, runs, feed, interruption or Interruption())
    while first.epoch <= first.settings.epochs:
        for run in runs:
            run.begin()
        for seen in feed.batches(size, views=views, seed=first.seed, epoch=first.epoch, skip=first.sums.steps):
            target, taught = feed.labels[seen.index], teach(seen)
            for run in runs:
                run.step(seen, target, taught)
            leave()
        for run in runs:
            run.end(dataset, test_labels)
        leave()


def _settle(device: torch.device) -> None:
    """How torch computes, and keeps its memory."""
    # Not use_deterministic_algorithms, which imports torch's compiler (see kdcore.training.optimizers) to tell it too.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    # Filling memory costs a third of the time of small networks; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()


def _leave(runs: Sequence[Run], feed: Feed, interruption: Interruption) -> None:
    """If a signal asks for it: save what the last epoch's end has not saved, and raise."""
    if interruption.signal is None:
        return
    first = runs[0]
    where = f"the end of epoch {first.epoch - 1}"
    if first.sums.steps:
        where = f"epoch {first.epoch}, step {first.sums.steps} of {len(feed.sizes(first.settings.batch_size))}"
        for run in runs:
            run.save()
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    said = f"interrupted ({interruption.signal.name}), saved at {where}; run it again to go on from there"
    raise Interrupted(interruption.signal, f"{first.name}{others}: {said}")


def _beyond(tensors: Mapping[str, Tensor], limit: float) -> str | None:
    """The first of them that holds a value which is none, or larger than the limit."""
    for name, value in tensors.items():
        if value.is_floating_point() and not (largest := value.detach().abs().max().item()) <= limit:
            return f"{name} holds {largest:.3g}"
    return None
