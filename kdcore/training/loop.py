"""The training loop: gradient descent over augmented batches, the same for teachers, baselines and distilled students.

Deterministic: all randomness comes from (seed, epoch, index). Nothing is read back from the device inside an epoch.
A cell's card holds a fingerprint of this module and of what it imports (`kdcore.matrix.cards.Code.trainer`): what
changes a number belongs here, what does not belongs elsewhere.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcore import networks
from kdcore.data.dataset import Dataset
from kdcore.data.feed import Batch, Feed
from kdcore.matrix.train_section import TrainSettings
from kdcore.networks.contract import Network
from kdcore.objective import PLAIN, BatchContext, Objective, Parts, TeacherOutput, build
from kdcore.system.errors import RunError
from kdcore.training import teacher_outputs
from kdcore.training.device import autocast, compute_dtype, prepare_torch
from kdcore.training.distributed import ALONE, World
from kdcore.training.inference import predict
from kdcore.training.optimizers import DOT, learning_rate, make_optimizer
from kdcore.training.random import device_generator, restore_drawn, seed_dropout

Row = dict[str, float]
"""One epoch of a history: epoch, lr, loss, ce, the unweighted loss of each method by its name (means over the steps),
train_top1 (of weak views) and test_top1 (shares of images, in percent).
"""
LARGEST = 1e6
"""The largest weight or bias of a sound network: beyond it a gradient has exploded. Weights of trained networks,
published ones included, stay below 100.
"""
ADVICE = "Lower train.lr or the method's weights, or set train.grad_clip_norm"


class NotFiniteError(RunError):
    """A loss is NaN or infinite, or a weight is, or is absurdly large; the message names the run, epoch, step and the
    last finite values.
    """


@dataclass(frozen=True)
class Callbacks:
    """Callbacks for progress reporting; they change nothing of a run."""

    on_step: Callable[[int], None] = lambda _images: None
    """Called after every step with its number of images."""
    on_epoch: Callable[[Row], None] = lambda _row: None
    """Called after every epoch."""


@dataclass
class EpochSums:
    """What the steps of an unfinished epoch have added up to. It stays on the device until the epoch's end."""

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    """Every step's losses by name, scalars."""
    shares: list[float] = field(default_factory=list)
    """This process's part of every batch."""
    correct: list[Tensor] = field(default_factory=list)
    """Every step's number of right predictions, scalars."""
    images: int = 0
    """How many images all processes have seen."""

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return len(self.shares)

    def add(self, losses: Mapping[str, Tensor], correct: Tensor, share: float, images: int) -> None:
        """Add one step."""
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value.detach())
        self.correct.append(correct)
        self.shares.append(share)
        self.images += images

    def values(self) -> Tensor:
        """All losses of all steps, (losses, steps) float64."""
        return torch.stack([torch.stack(values) for values in self.losses.values()]).double()


class Run:
    """A network in training, and its history. `kdcore.training.state` saves and restores it.

    Args:
        student: from `create`.
        objective: the loss; its adapters are trained too.
        settings: optimiser and schedule.
        seed: decides the order and the views of the images.
        device: of student and objective.
        name: of the cell or teacher, for messages.
        callbacks: report the progress.
        world: the processes that train together; each has a run of its own with equal weights.
    """

    def __init__(
        self,
        student: Network,
        objective: Objective,
        settings: TrainSettings,
        *,
        seed: int,
        device: torch.device,
        name: str = "network",
        callbacks: Callbacks | None = None,
        world: World = ALONE,
    ) -> None:
        self.student = world.synchronised(student, device)
        self.objective = world.synchronised(objective, device)
        self.settings, self.seed, self.device, self.name, self.world = settings, seed, device, name, world
        self.callbacks = callbacks or Callbacks()
        self.optimizer = make_optimizer(settings, [*student.parameters(), *objective.parameters()])
        self.dtype = compute_dtype(settings.precision, device)
        self.history: list[Row] = []
        self.predicted = 0
        """How many classes the student names for the test images, after the last epoch."""
        self.steps_per_epoch = 0
        """Known once training has begun."""
        self.sums = EpochSums()
        self.drawn: dict[str, Tensor] | None = None
        """Where the generators of an interrupted epoch stood."""

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1."""
        return len(self.history) + 1

    def begin_epoch(self) -> None:
        """Start or resume the current epoch."""
        self.optimizer.lr = learning_rate(self.settings, self.epoch)
        self.generator = device_generator(self.seed, self.epoch, self.device)
        seed_dropout(self.seed, self.epoch, self.world.rank)
        if self.drawn is not None:
            restore_drawn(self.drawn, self.device, self.generator)
            self.drawn = None
        self.student.train()
        self.objective.train()

    def step(self, batch: Batch, teacher: Sequence[TeacherOutput]) -> None:
        """Run one optimiser step.

        Args:
            batch: the images.
            teacher: its outputs for each view, from `kdcore.training.teacher_outputs`.
        """
        context = BatchContext(batch.index, self.epoch, self.generator)
        with autocast(self.device, self.dtype):
            outputs = [self.student(view) for view in batch.views[: self.objective.views]]
            parts = self.objective(outputs, teacher, batch.target, context)
        share = len(batch.target) / batch.whole
        self._minimise(parts, share * self.world.size)
        correct = (outputs[0].logits.detach().argmax(dim=1) == batch.target).sum()
        self.sums.add({"loss": parts.loss, "ce": parts.ce, **parts.losses}, correct, share, batch.whole)
        self.callbacks.on_step(batch.whole)

    def end_epoch(self, dataset: Dataset) -> None:
        """Finish the epoch: evaluate the student on the test images and add a row to the history."""
        values = self.world.total(self.sums.values() * torch.tensor(self.sums.shares, device=self.device)).cpu()
        self._check_finite(values)
        with autocast(self.device, self.dtype):
            logits = predict(self.student, dataset.test, dataset, self.device, self.world)
        self._check_weights(logits, values)
        labels = torch.from_numpy(dataset.test.labels).to(self.device)
        predicted = logits.argmax(dim=1)
        correct = self.world.total((predicted == self.world.share(labels)).sum()).item()
        self.predicted = int((self.world.total(predicted.bincount(minlength=logits.shape[1])) > 0).sum())
        row = {
            "epoch": self.epoch,
            "lr": learning_rate(self.settings, self.epoch),
            **dict(zip(self.sums.losses, values.mean(dim=1).tolist(), strict=True)),
            "train_top1": 100 * self.world.total(torch.stack(self.sums.correct).sum()).item() / self.sums.images,
            "test_top1": 100 * (correct / len(labels)),
        }
        self.history.append(row)
        self.sums = EpochSums()
        self.callbacks.on_epoch(row)

    def _minimise(self, parts: Parts, weight: float) -> None:
        """One step of the optimiser; `weight` is that of this process's loss in the mean over the processes."""
        if isinstance(self.optimizer, DOT):  # in one process, and without a longest gradient: both are refused before
            self.optimizer.minimise(parts.task, parts.distillation)
        else:
            self.optimizer.minimise(
                weight * parts.loss, longest=self.settings.grad_clip_norm, average=self.world.average_gradients
            )

    def _check_finite(self, values: Tensor) -> None:
        """Refuse losses (losses, steps) of the epoch that are not finite."""
        broken = ~torch.isfinite(values).all(dim=0)
        if broken.any():
            step = int(broken.nonzero()[0, 0])
            before = self._described(values[:, step - 1]) if step else "none in this epoch"
            raise NotFiniteError(
                f"{self.name}: epoch {self.epoch}, step {step + 1} of {values.shape[1]}: "
                f"{self._described(values[:, step])}; the last finite ones: {before}. {ADVICE}"
            )

    def _check_weights(self, logits: Tensor, values: Tensor) -> None:
        """Refuse weights that have exploded. `logits` are those of test images after the epoch; `values` (losses,
        steps) are the epoch's, and finite.

        A loss shows an explosion in the step after it, so that of the last step shows here alone; and batch norm hides
        weights that are finite, but so large that no gradient moves them any more.
        """
        weights = {**dict(self.student.named_parameters()), **dict(self.objective.named_parameters())}
        fault = _beyond(weights, LARGEST) or _beyond(dict(self.student.named_buffers()), sys.float_info.max)
        if not fault and self.world.total((~torch.isfinite(logits)).sum()):
            fault = "logits of test images are not finite"
        if fault:
            worst, steps = int(values[0].argmax()), values.shape[1]
            raise NotFiniteError(
                f"{self.name}: epoch {self.epoch}, after step {steps} of {steps}: {fault}; the losses are finite: "
                f"{self._described(values[:, -1])}; where the loss was largest, in step {worst + 1}: "
                f"{self._described(values[:, worst])}. {ADVICE}"
            )

    def _described(self, values: Tensor) -> str:
        return ", ".join(f"{name} {value:.6g}" for name, value in zip(self.sums.losses, values.tolist(), strict=True))


def create(name: str, num_classes: int, seed: int, device: torch.device, *, stem: str = "small") -> Network:
    """A network whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    network = networks.create(name, num_classes, stem=stem)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def prepare(
    card: dict[str, Any],
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    callbacks: Callbacks | None = None,
    world: World = ALONE,
) -> Run:
    """Create the student that a card describes, and the objective that it is trained with.

    Args:
        card: what to train: a teacher, a baseline or a cell (see `kdcore.matrix.cards`).
        dataset: the one that the card names.
        teacher: the one that the card names, on `device`; None for a network trained alone.
        device: where to compute.
        callbacks: report the progress.
        world: the processes that train together.
    """
    student = create(card["student"], len(dataset.classes), card["seed"], device, stem=dataset.stem)
    objective = Objective(card["recipe"]["ce_weight"])
    if teacher is not None:
        objective = build(
            card["method"],
            card["recipe"],
            student=student,
            teacher=teacher,
            labels=torch.from_numpy(dataset.train.labels).to(device),
            image_size=dataset.image_size,
            levels=tuple(card.get("levels", PLAIN)),
            stand=card.get("stand", False),
        )
    return Run(
        student,
        objective,
        TrainSettings.model_validate(card["train"]),
        seed=card["seed"],
        device=device,
        name=card["name"],
        callbacks=callbacks,
        world=world,
    )


def steps(
    run: Run, teacher: Network | None, dataset: Dataset, *, teach: teacher_outputs.Teacher | None = None
) -> Iterator[None]:
    """Train a run to its end, in place; yields after every step and every epoch, where the caller may leave it.

    Args:
        run: new, or resumed.
        teacher: the one that the run was prepared with; None for a network trained alone.
        dataset: its training images are learnt, its test images evaluated after every epoch.
        teach: gives the teacher's outputs; when absent, what `kdcore.training.teacher_outputs` prepares.

    Raises:
        NotFiniteError: a loss or a weight was not finite, or a weight absurdly large.
    """
    prepare_torch(run.device)
    feed, size = Feed(dataset, run.device, run.world), run.settings.batch_size
    run.steps_per_epoch = len(feed.sizes(size))
    if teach is None:
        share = math.ceil(size / run.world.size)
        teach = teacher_outputs.prepare(teacher, run.objective, feed, run.world, run.dtype, batch_size=share)
    while run.epoch <= run.settings.epochs:
        run.begin_epoch()
        views, done = run.objective.views, run.sums.steps
        for batch in feed.batches(size, views=views, seed=run.seed, epoch=run.epoch, skip=done):
            run.step(batch, teach(batch))
            yield
        run.end_epoch(dataset)
        yield


def train(run: Run, teacher: Network | None, dataset: Dataset) -> None:
    """Train a run to its end, in place; for callers that never leave it. Arguments and errors as for `steps`."""
    for _ in steps(run, teacher, dataset):
        pass


def _beyond(tensors: Mapping[str, Tensor], limit: float) -> str | None:
    """The first tensor that holds a value which is no number, or larger than the limit, for a message."""
    for name, value in tensors.items():
        if value.is_floating_point() and not (largest := value.detach().abs().max().item()) <= limit:
            return f"{name} holds {largest:.3g}"
    return None
