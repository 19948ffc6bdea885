"""The training loop: gradient descent over augmented batches, the same for teachers, baselines and distilled students.

Deterministic: all randomness comes from (seed, epoch, index). Nothing is read back from the device inside an epoch.
A cell's card holds a fingerprint of this module and of what it imports (`kdcore.matrix.cards.Code.trainer`): what
changes a number belongs here, what does not belongs elsewhere.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from kdcore import networks
from kdcore.data import subsets
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import Batch, Feed
from kdcore.matrix.train_card import is_measured, measured_on
from kdcore.matrix.train_recipe import Augmentation
from kdcore.matrix.train_section import TrainSettings
from kdcore.networks.contract import Network
from kdcore.objective import PLAIN, Objective, build
from kdcore.parts import BatchContext, Parts, TeacherOutput
from kdcore.training import teacher_outputs
from kdcore.training.compiled import CompiledPasses, passes
from kdcore.training.device import autocast, compute_dtype, prepare_torch
from kdcore.training.distributed import ALONE, World
from kdcore.training.ema import Average
from kdcore.training.finite import Losses, infinite_buffers
from kdcore.training.inference import predict
from kdcore.training.kept import Keeper
from kdcore.training.optimizers import DOT, learning_rate, make_optimizer
from kdcore.training.random import device_generator, restore_drawn, seed_dropout

Row = dict[str, float]
"""One epoch of a history: epoch, lr, loss, ce, the unweighted loss of each method by its name (means over the steps),
train_top1 (of weak views), and val_top1 and test_top1 as far as the run is measured on validation and test images
(shares of images, in percent); where weights are averaged, the same of the average as ema_val_top1 and ema_test_top1.
After an epoch in which nothing is measured (`train.evaluate_every`), these are NaN.
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
        measured: the images that the student is measured on after an epoch: "val", "test" or both.
        compiled: whether steps are compiled (`kdcore.training.compiler.chosen`); in one process alone.
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
        measured: Sequence[str] = ("test",),
        compiled: bool = False,
    ) -> None:
        self.measured = measured
        self.student = world.synchronised(student, device)
        self.objective = world.synchronised(objective, device)
        self.settings, self.seed, self.device, self.name, self.world = settings, seed, device, name, world
        self.callbacks = callbacks or Callbacks()
        self.optimizer = make_optimizer(settings, student, objective)
        self.average = Average(self.student, settings.ema) if settings.ema else None
        self.dtype = compute_dtype(settings.precision, device)
        self.compiled = compiled
        self.passes = CompiledPasses(settings.batch_size, device, name) if compiled else passes
        self.history: list[Row] = []
        self.infinite = infinite_buffers(self.student)
        self.predicted = 0
        """How many classes the student names for the images of the last of `measured`, when it was measured last."""
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
        lesson = self.objective.lesson(teacher, batch.target, context, batch.soft)
        with autocast(self.device, self.dtype):
            views = batch.views[: self.objective.views]
            logits, ce, losses = self.passes(self.student, self.objective, views, lesson)
            parts = self.objective.weighed(ce, losses, context)
        share = len(batch.target) / batch.whole
        self._minimise(parts, share * self.world.size)
        if self.average is not None:
            self.average.update(self.student)
        correct = (logits.argmax(dim=1) == batch.target).sum()
        self.sums.add({"loss": parts.loss, "ce": parts.ce, **parts.losses}, correct, share, batch.whole)
        self.callbacks.on_step(batch.whole)

    def end_epoch(self, dataset: Dataset) -> None:
        """Finish the epoch: evaluate the student, where that is due, and add a row to the history."""
        values = self.world.total(self.sums.values() * torch.tensor(self.sums.shares, device=self.device)).cpu()
        losses = Losses(self.name, self.epoch, list(self.sums.losses), values)
        losses.check()
        losses.check_weights((self.student, self.objective), self.infinite)
        due = is_measured(self.epoch, epochs=self.settings.epochs, every=self.settings.evaluate_every)
        measured = {name: self._measure(name, dataset, losses) if due else math.nan for name in self.measured}
        averaged = {
            name: self._of_average(name, dataset) if due else math.nan for name in self.measured if self.average
        }
        row = {
            "epoch": self.epoch,
            "lr": learning_rate(self.settings, self.epoch),
            **dict(zip(self.sums.losses, values.mean(dim=1).tolist(), strict=True)),
            "train_top1": 100 * self.world.total(torch.stack(self.sums.correct).sum()).item() / self.sums.images,
            **{f"{name}_top1": value for name, value in measured.items()},
            **{f"ema_{name}_top1": value for name, value in averaged.items()},
        }
        self.history.append(row)
        self.sums = EpochSums()
        self.callbacks.on_epoch(row)

    def _measure(self, name: str, dataset: Dataset, losses: Losses) -> float:
        """Return the student's accuracy in percent on the images of "val" or "test", after an epoch of these losses."""
        logits, top1 = self._predicted(self.student, name, dataset)
        if self.world.total((~torch.isfinite(logits)).sum()):
            losses.refuse(f"logits of {name} images are not finite")
        predicted = logits.argmax(dim=1)
        self.predicted = int((self.world.total(predicted.bincount(minlength=logits.shape[1])) > 0).sum())
        return top1

    def _of_average(self, name: str, dataset: Dataset) -> float:
        """Return the accuracy of the averaged weights, as `_measure` does for the student."""
        return self._predicted(cast("Average[Network]", self.average).network, name, dataset)[1]

    def _predicted(self, network: Network, name: str, dataset: Dataset) -> tuple[Tensor, float]:
        """Return a network's logits of this process's "val" or "test" images, and its accuracy on all, in percent."""
        images = cast(Split | Encoded, {"val": dataset.validation, "test": dataset.test}[name])
        with autocast(self.device, self.dtype):
            logits = predict(network, images, dataset, self.device, self.world)
        labels = torch.from_numpy(images.labels).to(self.device)
        correct = self.world.total((logits.argmax(dim=1) == self.world.share(labels)).sum()).item()
        return logits, 100 * (correct / len(labels))

    def _minimise(self, parts: Parts, weight: float) -> None:
        """One step of the optimiser; `weight` is that of this process's loss in the mean over the processes."""
        if isinstance(self.optimizer, DOT):  # in one process, and without a longest gradient: both are refused before
            self.optimizer.minimise(parts.task, parts.distillation)
        else:
            self.optimizer.minimise(
                weight * parts.loss, longest=self.settings.grad_clip_norm, average=self.world.average_gradients
            )


def create(
    name: str,
    num_classes: int,
    seed: int,
    device: torch.device,
    *,
    stem: str = "small",
    described: Mapping[str, Any] | None = None,
) -> Network:
    """A network whose initial weights depend on the seed alone, or are the published ones that its description asks
    for (see `kdcore.networks.create`).
    """
    torch.manual_seed(seed)
    network = networks.create(name, num_classes, stem=stem, described=described, pretrained=True)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def seen_by(card: dict[str, Any], dataset: Dataset) -> Dataset:
    """Return a data set as the network that a card describes sees it: where the card says so, with validation images
    apart from training images, with a part of the latter, or augmented otherwise.

    Raises:
        UserError: a class has too few images.
    """
    augmentation = card["train"].get("augmentation")
    seen = subsets.chosen(dataset, **subsets.part_of(card), augmented=augmentation != "none")
    return replace(seen, recipe=Augmentation.model_validate(augmentation)) if isinstance(augmentation, dict) else seen


def prepare(
    card: dict[str, Any],
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    callbacks: Callbacks | None = None,
    world: World = ALONE,
    compiled: bool = False,
) -> Run:
    """Create the student that a card describes, and the objective that it is trained with.

    Args:
        card: what to train: a teacher, a baseline or a cell (see `kdcore.matrix.cards`).
        dataset: the one that the card names, from `seen_by`.
        teacher: the one that the card names, on `device`; None for a network trained alone.
        device: where to compute.
        callbacks: report the progress.
        world: the processes that train together.
        compiled: as for `Run`.
    """
    settings = TrainSettings.model_validate(card["train"])
    named = card.get("networks")
    student = create(card["student"], len(dataset.classes), card["seed"], device, stem=dataset.stem, described=named)
    smoothing = settings.label_smoothing or 0.0
    objective = Objective(card["recipe"]["ce_weight"], label_smoothing=smoothing)
    if teacher is not None:
        objective, student = build(
            card["method"],
            card["recipe"],
            student=student,
            teacher=teacher,
            labels=torch.from_numpy(dataset.train.labels).to(device),
            image_size=dataset.image_size,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            levels=tuple(card.get("levels", PLAIN)),
            stand=card.get("stand", False),
            label_smoothing=smoothing,
            teacher_outputs=partial(teacher_outputs.of_training_images, teacher, dataset, device),
            kept=Keeper(teacher, dataset, device),
        )
    return Run(
        student,
        objective,
        settings,
        seed=card["seed"],
        device=device,
        name=card["name"],
        callbacks=callbacks,
        world=world,
        measured=measured_on(card),
        compiled=compiled,
    )


def steps(
    run: Run, teacher: Network | None, dataset: Dataset, *, teach: teacher_outputs.Teacher | None = None
) -> Iterator[None]:
    """Train a run to its end, in place; yields after every step and every epoch, where the caller may leave it.

    Args:
        run: new, or resumed.
        teacher: the one that the run was prepared with; None for a network trained alone.
        dataset: its training images are learnt, and its validation or test images evaluated after epochs.
        teach: gives the teacher's outputs; when absent, what `kdcore.training.teacher_outputs` prepares.

    Raises:
        NotFiniteError: a loss or a weight was not finite, or a weight absurdly large.
    """
    prepare_torch(run.device)
    feed, size = feed_of(run, dataset), run.settings.batch_size
    run.steps_per_epoch = len(feed.sizes(size))
    if teach is None:
        share = math.ceil(size / run.world.size)
        teach = teacher_outputs.prepare(
            teacher, run.objective, feed, run.world, run.dtype, batch_size=share, compiled=run.compiled
        )
    while run.epoch <= run.settings.epochs:
        run.begin_epoch()
        views, done = run.objective.views, run.sums.steps
        for batch in feed.batches(size, views=views, seed=run.seed, epoch=run.epoch, skip=done):
            run.step(batch, teach(batch))
            yield
        run.end_epoch(dataset)
        yield


def feed_of(run: Run, dataset: Dataset) -> Feed:
    """Return what yields the training images as a run sees them."""
    return Feed(dataset, run.device, run.world, mixup=run.settings.mixup, cutmix=run.settings.cutmix)


def train(run: Run, teacher: Network | None, dataset: Dataset) -> None:
    """Train a run to its end, in place; for callers that never leave it. Arguments and errors as for `steps`."""
    for _ in steps(run, teacher, dataset):
        pass
