"""What a cell minimises: cross-entropy plus the losses of its method, or of the methods of a sum.

A logit method composes three independent parts: its loss, of standardised or plain logits (LSKD), over the regions of
a pyramid (SDD). Every logit method takes every combination; M=[1] without standardisation is the plain method.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import catalog, methods
from kdcore.methods import _schedule
from kdcore.methods.contract import Keep, Setting, Step
from kdcore.networks.contract import Network, Output
from kdcore.numerics import widen
from kdcore.parts import BatchContext, Lesson, Parts, TeacherLogits, TeacherOutput
from kdcore.scales import decouple, decouple_as_fusion_published, grid_logits, pyramid_logits, region_logits
from kdcore.standardize import standardize

PLAIN = (1,)


class Term(nn.Module):
    """The loss of one method within an objective.

    Args:
        name: of the method.
        recipe: its hyper-parameters, with kd_weight (times min(epoch / warmup, 1)) and warmup (epochs), and where it is
            not constant, schedule and decay_from (see `kdcore.methods._schedule`).
        setting: what an adapter is made from; None for methods without one.
        epochs: of the whole training; needed by a schedule alone.
    """

    def __init__(
        self, name: str, recipe: Mapping[str, Any], setting: Setting | None = None, *, epochs: int | None = None
    ) -> None:
        super().__init__()
        self.schedule = recipe.get("schedule", catalog.UNSAID["schedule"])
        if self.schedule != "constant" and epochs is None:
            raise ValueError(f"{name} needs the number of epochs for its schedule {self.schedule}")
        self.epochs = epochs
        self.entry = catalog.methods()[name]
        self.method = methods.get(name)
        self.recipe = recipe
        applied_here = {*catalog.COMMON, *catalog.DECOUPLED}
        self.keywords = {key: value for key, value in recipe.items() if key not in applied_here}
        self.adapter: nn.Module | None = None
        if has_adapter(name):
            if setting is None:
                raise ValueError(f"{name} needs a setting to build its adapter from")
            self.adapter = self.method.Adapter(setting, **self.keywords)

    @property
    def teacher_in_training_mode(self) -> bool:
        """Whether the method wants the teacher to normalise by each batch."""
        return getattr(self.adapter, "teacher_in_training_mode", False)

    @property
    def asks_for_logits_alone(self) -> bool:
        """Whether the teacher's logits of weak views are all that the method needs."""
        return self.entry.kind == "logit" and len(self.entry.views) == 1

    def weight(self, context: BatchContext | None) -> float:
        """The weight of the method's loss: kd_weight, rising over the first `warmup` epochs, times its schedule."""
        warmup, weight = self.recipe["warmup"], self.recipe["kd_weight"]
        if warmup:
            weight *= min(self.required(context).epoch / warmup, 1.0)
        if self.schedule != "constant":
            decay_from = self.recipe.get("decay_from", catalog.UNSAID["decay_from"])
            epoch, epochs = self.required(context).epoch, cast(int, self.epochs)
            weight *= _schedule.factor(self.schedule, epoch, epochs, decay_from=decay_from)
        return weight

    def prepare(self, target: Tensor, context: BatchContext | None) -> Any:
        """What the adapter draws for a batch with classes `target` (B,), or takes from the epoch, before its loss is
        computed (see `kdcore.methods.contract`); None where it does neither.
        """
        if not hasattr(self.adapter, "prepare"):
            return None
        now = self.required(context)
        return cast(Any, self.adapter).prepare(target, epoch=now.epoch, generator=now.generator)

    def required(self, context: BatchContext | None) -> BatchContext:
        """The context of a batch, where the method cannot do without.

        Raises:
            ValueError: it was not given.
        """
        if context is None:
            raise ValueError(f"{self.entry.name} depends on epoch, images or a generator; give it the batch's context")
        return context


class FeatureTerm(Term):
    """A feature method: its loss relates the maps and vectors of two networks. Arguments are those of `Term`."""

    def forward(self, student: Sequence[Output], lesson: Lesson) -> Tensor:
        """The method's loss, unweighted, a scalar; arguments as for `Objective.losses`."""
        if self.adapter is None:
            return self.method.distill(student[0], lesson.teacher[0], **self.keywords)
        now = self.required(lesson.context)
        return self.adapter(
            Step(
                student=student[0],
                teacher=cast(Output, lesson.teacher[0]),
                target=lesson.target,
                index=now.index,
                epoch=now.epoch,
                generator=now.generator,
                prepared=lesson.prepared[self.entry.name],
            )
        )


class LogitTerm(Term):
    """A logit method: its loss of standardised or plain logits (LSKD), over the regions of a pyramid (SDD).

    Args:
        name: of the method.
        recipe: as for `Term`, and where regions are decoupled, complementary_weight and decoupling, and
            consistent_weight if it is not 1.
        setting: as for `Term`.
        epochs: as for `Term`.
        levels: pyramid levels; (1,) is the network's own logits.
        stand: whether logits are standardised.
        heads: the linear classifiers of student and teacher, for the logits of regions.
    """

    def __init__(
        self,
        name: str,
        recipe: Mapping[str, Any],
        setting: Setting | None = None,
        *,
        epochs: int | None = None,
        levels: tuple[int, ...] = PLAIN,
        stand: bool = False,
        heads: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__(name, recipe, setting, epochs=epochs)
        if levels != PLAIN and heads is None:
            raise ValueError(f"levels {levels} need the classifiers of student and teacher")
        self.levels, self.stand, self.heads = levels, stand, heads
        self.standardizes_itself = "standardize" in inspect.signature(self.method.loss).parameters

    def forward(self, student: Sequence[Output], lesson: Lesson) -> Tensor:
        """The method's loss, unweighted, a scalar; arguments as for `Objective.losses`."""
        views = range(len(self.entry.views))
        of_student = [self._student_regions(student[view]) for view in views]
        of_teacher = [self._teacher_regions(lesson.teacher[view]) for view in views]
        predictions = of_teacher[0]
        targets, prepared = lesson.target[:, None].expand(predictions.shape[:2]), lesson.prepared[self.entry.name]
        logits, keywords = [*of_student, *of_teacher], self.keywords
        if self.standardizes_itself:
            keywords = {**keywords, "standardize": self.stand}
        elif self.stand:
            logits = [standardize(values) for values in logits]
        if self.entry.across == "batch":  # relations of samples have no loss per region that could be weighted
            by_region = [values.transpose(0, 1).contiguous() for values in logits]
            return self.method.loss(*by_region, targets.T, **keywords).mean()
        if self.adapter is not None:
            when = {"epoch": self.required(lesson.context).epoch} if prepared is None else {"prepared": prepared}
            per_region = self.adapter(*logits, targets, **when)
        else:
            per_region = self.method.loss(*logits, targets, **keywords)
        if (
            per_region.shape != predictions.shape[:2]
        ):  # a mean over the batch would make the weights of regions a factor
            raise catalog.misshapen(self.entry, per_region.shape, predictions.shape)
        if self.levels == PLAIN:
            return per_region.mean()
        return self._decoupled(per_region, predictions, lesson.teacher[0], lesson.target)

    def _decoupled(self, per_region: Tensor, predictions: Tensor, teacher: TeacherOutput, target: Tensor) -> Tensor:
        """The mean of losses (B, N), those of complementary regions weighted; predictions (B, N, C) the teacher's."""
        if self.recipe["decoupling"] == "fusion_as_published":
            return decouple_as_fusion_published(per_region, predictions, target)
        return decouple(
            per_region,
            predictions,
            target,
            complementary_weight=self.recipe["complementary_weight"],
            consistent_weight=self.recipe.get("consistent_weight", catalog.UNSAID["consistent_weight"]),
            teacher_global=None if self.levels[0] == 1 else teacher.logits,
        )

    def _student_regions(self, output: Output) -> Tensor:
        """The student's logits (B, N, C) of the regions that the levels name; of the whole image those of its
        distillation token, where it has one.
        """
        if self.heads is None or self.levels == PLAIN:
            return (output.logits if output.distilled is None else output.distilled)[:, None]
        return pyramid_logits(output.final_map, self.heads[0], self.levels)

    def _teacher_regions(self, output: TeacherOutput) -> Tensor:
        """The teacher's logits (B, N, C) of the same regions: from the grid, as a table has it, so that a table
        changes no bit.
        """
        if self.heads is None or self.levels == PLAIN:
            return output.logits[:, None]
        grid = output.grid if isinstance(output, TeacherLogits) else grid_logits(output.final_map, self.heads[1])
        return region_logits(cast(Tensor, grid), self.levels)


class Objective(nn.Module):
    """The loss of one cell. Its parameters and buffers are those of the methods' adapters.

    Args:
        ce_weight: the weight of cross-entropy.
        terms: one per method; none for a network trained alone.
        label_smoothing: the share of a label that cross-entropy spreads evenly over all classes.
    """

    def __init__(self, ce_weight: float, terms: Sequence[Term] = (), *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.ce_weight, self.label_smoothing = ce_weight, label_smoothing
        self.by_name = nn.ModuleDict({term.entry.name: term for term in terms})

    @property
    def terms(self) -> dict[str, Term]:
        """The terms by the names of their methods."""
        return cast(dict[str, Term], dict(self.by_name.items()))

    def _task_logits(self, logits: Tensor) -> Tensor:
        """What cross-entropy sees: the student's logits (B, C), or what an adapter makes of them."""
        for term in self.terms.values():
            if hasattr(term.adapter, "task_logits"):
                logits = cast(Any, term.adapter).task_logits(logits)
        return logits

    @property
    def views(self) -> int:
        """How many views of each image are needed: 1, weak, or 2, weak and strong."""
        return max((len(term.entry.views) for term in self.terms.values()), default=1)

    @property
    def asks_for_logits_alone(self) -> bool:
        """Whether the teacher's logits of weak views are all that is needed of it."""
        return all(term.asks_for_logits_alone for term in self.terms.values())

    @property
    def asks_for_regions(self) -> bool:
        """Whether logits of other regions than the whole image are needed."""
        return any(isinstance(term, LogitTerm) and term.levels != PLAIN for term in self.terms.values())

    @property
    def teacher_in_training_mode(self) -> bool:
        """Whether a method wants the teacher to normalise by each batch; its weights are frozen in any case."""
        return any(term.teacher_in_training_mode for term in self.terms.values())

    def forward(
        self,
        student: Sequence[Output],
        teacher: Sequence[TeacherOutput],
        target: Tensor,
        context: BatchContext | None = None,
        soft: Tensor | None = None,
    ) -> Parts:
        """The loss of a batch.

        Args:
            student: its outputs for B images, one per view.
            teacher: the same without gradients; empty for a network trained alone.
            target: (B,) int64, class indices.
            context: which images these are, and when; None only where no method asks for it.
            soft: (B, C), the shares of the classes in mixed images, which cross-entropy sees instead of `target`.
        """
        lesson = self.lesson(teacher, target, context, soft)
        return self.weighed(*self.losses(student, lesson), context)

    def lesson(
        self,
        teacher: Sequence[TeacherOutput],
        target: Tensor,
        context: BatchContext | None = None,
        soft: Tensor | None = None,
    ) -> Lesson:
        """Bring together what `losses` needs, and let the methods draw; arguments as for `forward`."""
        prepared = {name: term.prepare(target, context) for name, term in self.terms.items()}
        return Lesson(teacher, target, context, soft, prepared)

    def losses(self, student: Sequence[Output], lesson: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, summed over views, and each method's loss by its name, unweighted scalars: what can be
        compiled, for nothing here draws or changes with the epoch.
        """
        labels = lesson.target if lesson.soft is None else lesson.soft
        logits = [widen(self._task_logits(output.logits)) for output in student]
        ce = torch.stack([F.cross_entropy(of, labels, label_smoothing=self.label_smoothing) for of in logits]).sum()
        return ce, {name: term(student, lesson) for name, term in self.terms.items()}

    def weighed(self, ce: Tensor, losses: dict[str, Tensor], context: BatchContext | None) -> Parts:
        """The terms of the loss from `losses`, with the weights of the epoch."""
        weighted = [term.weight(context) * losses[name] for name, term in self.terms.items()]
        return Parts(self.ce_weight * ce, torch.stack(weighted).sum() if weighted else None, ce, losses)


def build(
    method: str,
    recipe: Mapping[str, Any],
    *,
    student: Network,
    teacher: Network,
    labels: Tensor,
    image_size: int,
    batch_size: int,
    epochs: int,
    levels: tuple[int, ...] = PLAIN,
    stand: bool = False,
    label_smoothing: float = 0.0,
    teacher_outputs: Callable[[], Iterator[Output]] = lambda: iter(()),
    kept: Keep = lambda _name, compute: compute(),
) -> tuple[Objective, Network]:
    """The objective of a distilled cell, and the network to train with it.

    Args:
        method: a method or a sum; its feature terms take no levels and no stand.
        recipe: as the cell's card has it; that of a sum has its terms' names before their keys, "crd.kd_weight".
        student: the network to train, on the device; a method that gives it another end takes it over.
        teacher: the frozen network, on the same device.
        labels: (N,) int64 on the device, the classes of all training images.
        image_size: height and width, in pixels.
        batch_size: images of a step, of all processes together.
        epochs: of the whole training.
        levels: pyramid levels of the logit terms.
        stand: whether their logits are standardised.
        label_smoothing: as for `Objective`.
        teacher_outputs: yields the teacher's outputs for the training images, as `Setting.teacher_outputs` says.
        kept: keeps what a method computes of the teacher and the training images, as `Setting.kept` says.

    Returns:
        The objective on the device of the labels, and the student, or what its method makes of it. Initial weights of
        adapters and of new ends come from torch's global generator.
    """
    entries = catalog.terms(method)
    made: dict[str, Term] = {}
    training: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "epochs": epochs}
    training |= {"teacher_outputs": teacher_outputs, "kept": kept}
    # The method that gives the student another end is made first, for the others see the student with it.
    for entry in sorted(entries, key=lambda entry: not entry.replaces_student):
        setting = None
        if has_adapter(entry.name):
            setting = _setting(student, teacher, image_size, **training)
        prefix = "" if len(entries) == 1 else f"{entry.name}."
        own = {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}
        if entry.kind == "logit":
            heads = (student.classifier, teacher.classifier)
            made[entry.name] = LogitTerm(
                entry.name, own, setting, epochs=epochs, levels=levels, stand=stand, heads=heads
            )
        else:
            made[entry.name] = FeatureTerm(entry.name, own, setting, epochs=epochs)
        if entry.replaces_student:
            student = cast(Any, made[entry.name].adapter).as_student(student)
            student = student.to(labels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    goal = Objective(recipe["ce_weight"], [made[entry.name] for entry in entries], label_smoothing=label_smoothing)
    return goal.to(labels.device), student


def has_adapter(name: str) -> bool:
    """Whether a method trains more than the student."""
    return hasattr(methods.get(name), "Adapter")


def _setting(student: Network, teacher: Network, image_size: int, **others: Any) -> Setting:
    labels: Tensor = others["labels"]
    image = torch.zeros(1, 3, image_size, image_size, device=labels.device)
    was_training = student.training
    with torch.no_grad():
        of_student, of_teacher = student.eval()(image), teacher.eval()(image)
    student.train(was_training)
    return Setting(
        student=of_student,
        teacher=of_teacher,
        teacher_norms=teacher.norms,
        classifiers=(student.classifier, teacher.classifier),
        **others,
    )
