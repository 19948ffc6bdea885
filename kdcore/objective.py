"""What a cell minimises: cross-entropy plus the losses of its method, or of the methods of a sum.

A logit method composes three independent parts: its loss, of standardised or plain logits (LSKD), over the regions of
a pyramid (SDD). Every logit method takes every combination; M=[1] without standardisation is the plain method.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import catalog, methods
from kdcore.methods.contract import Setting, Step
from kdcore.networks.contract import Network, Output
from kdcore.numerics import widen
from kdcore.scales import decouple, decouple_as_fusion_published, grid_logits, pyramid_logits, region_logits
from kdcore.standardize import standardize

PLAIN = (1,)


@dataclass(frozen=True)
class TeacherLogits:
    """What a table holds of a teacher's outputs for B images: all that logit methods ask for."""

    logits: Tensor
    """(B, C), of the whole image."""
    grid: Tensor | None
    """(B, 16, C), of the cells of the 4 x 4 grid; None where no regions are asked for."""


TeacherOutput = Output | TeacherLogits
"""What an objective may know of a teacher's view of a batch."""


@dataclass(frozen=True)
class BatchContext:
    """When a batch is seen, and which images it holds; methods that remember or draw need it."""

    index: Tensor
    """(B,) int64, positions of the images in the training set."""
    epoch: int
    """Counted from 1."""
    generator: torch.Generator
    """On the device, for what methods draw; determined by seed and epoch."""


@dataclass(frozen=True)
class Parts:
    """The terms of a loss, scalars."""

    task: Tensor
    """Cross-entropy, weighted."""
    distillation: Tensor | None
    """The weighted sum of the methods' losses; None for the student trained alone."""
    ce: Tensor
    """Cross-entropy, unweighted; the sum over views."""
    losses: dict[str, Tensor]
    """Each method's loss by its name, unweighted."""

    @property
    def loss(self) -> Tensor:
        """What is minimised."""
        return self.task if self.distillation is None else self.task + self.distillation


class Term(nn.Module):
    """The loss of one method within an objective.

    Args:
        name: of the method.
        recipe: its hyper-parameters, with kd_weight (times min(epoch / warmup, 1)) and warmup (epochs).
        setting: what an adapter is made from; None for methods without one.
    """

    def __init__(self, name: str, recipe: Mapping[str, Any], setting: Setting | None = None) -> None:
        super().__init__()
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
        """The weight of the method's loss: kd_weight, which rises over the first `warmup` epochs."""
        warmup = self.recipe["warmup"]
        return self.recipe["kd_weight"] * (min(self.required(context).epoch / warmup, 1.0) if warmup else 1.0)

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

    def forward(
        self, student: Sequence[Output], teacher: Sequence[TeacherOutput], target: Tensor, context: BatchContext | None
    ) -> Tensor:
        """The method's loss, unweighted, a scalar; arguments as for `Objective.forward`."""
        if self.adapter is None:
            return self.method.distill(student[0], teacher[0], **self.keywords)
        now = self.required(context)
        return self.adapter(
            Step(
                student=student[0],
                teacher=cast(Output, teacher[0]),
                target=target,
                index=now.index,
                epoch=now.epoch,
                generator=now.generator,
            )
        )


class LogitTerm(Term):
    """A logit method: its loss of standardised or plain logits (LSKD), over the regions of a pyramid (SDD).

    Args:
        name: of the method.
        recipe: as for `Term`, and where regions are decoupled, complementary_weight and decoupling.
        setting: as for `Term`.
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
        levels: tuple[int, ...] = PLAIN,
        stand: bool = False,
        heads: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__(name, recipe, setting)
        if levels != PLAIN and heads is None:
            raise ValueError(f"levels {levels} need the classifiers of student and teacher")
        self.levels, self.stand, self.heads = levels, stand, heads
        self.standardizes_itself = "standardize" in inspect.signature(self.method.loss).parameters

    def forward(
        self, student: Sequence[Output], teacher: Sequence[TeacherOutput], target: Tensor, context: BatchContext | None
    ) -> Tensor:
        """The method's loss, unweighted, a scalar; arguments as for `Objective.forward`."""
        views = range(len(self.entry.views))
        of_student = [self._student_regions(student[view]) for view in views]
        of_teacher = [self._teacher_regions(teacher[view]) for view in views]
        predictions = of_teacher[0]
        targets = target[:, None].expand(predictions.shape[:2])
        logits, keywords = [*of_student, *of_teacher], self.keywords
        if self.standardizes_itself:
            keywords = {**keywords, "standardize": self.stand}
        elif self.stand:
            logits = [standardize(values) for values in logits]
        if self.entry.across == "batch":  # relations of samples have no loss per region that could be weighted
            by_region = [values.transpose(0, 1).contiguous() for values in logits]
            return self.method.loss(*by_region, targets.T, **keywords).mean()
        if self.adapter is not None:
            per_region = self.adapter(*logits, targets, epoch=self.required(context).epoch)
        else:
            per_region = self.method.loss(*logits, targets, **keywords)
        if self.levels == PLAIN:
            return per_region.mean()
        return self._decoupled(per_region, predictions, teacher[0], target)

    def _decoupled(self, per_region: Tensor, predictions: Tensor, teacher: TeacherOutput, target: Tensor) -> Tensor:
        """The mean of losses (B, N), those of complementary regions weighted; predictions (B, N, C) the teacher's."""
        if self.recipe["decoupling"] == "fusion_as_published":
            return decouple_as_fusion_published(per_region, predictions, target)
        return decouple(
            per_region,
            predictions,
            target,
            complementary_weight=self.recipe["complementary_weight"],
            teacher_global=None if self.levels[0] == 1 else teacher.logits,
        )

    def _student_regions(self, output: Output) -> Tensor:
        """The student's logits (B, N, C) of the regions that the levels name."""
        if self.heads is None or self.levels == PLAIN:
            return output.logits[:, None]
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
    """

    def __init__(self, ce_weight: float, terms: Sequence[Term] = ()) -> None:
        super().__init__()
        self.ce_weight = ce_weight
        self.by_name = nn.ModuleDict({term.entry.name: term for term in terms})

    @property
    def terms(self) -> dict[str, Term]:
        """The terms by the names of their methods."""
        return cast(dict[str, Term], dict(self.by_name.items()))

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
    ) -> Parts:
        """The loss of a batch.

        Args:
            student: its outputs for B images, one per view.
            teacher: the same without gradients; empty for a network trained alone.
            target: (B,) int64, class indices.
            context: which images these are, and when; None only where no method asks for it.
        """
        ce = torch.stack([F.cross_entropy(widen(output.logits), target) for output in student]).sum()
        losses = {name: term(student, teacher, target, context) for name, term in self.terms.items()}
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
    levels: tuple[int, ...] = PLAIN,
    stand: bool = False,
) -> Objective:
    """The objective of a distilled cell.

    Args:
        method: a method or a sum; its feature terms take no levels and no stand.
        recipe: as the cell's card has it; that of a sum has its terms' names before their keys, "crd.kd_weight".
        student: the network to train, on the device.
        teacher: the frozen network, on the same device.
        labels: (N,) int64 on the device, the classes of all training images.
        image_size: height and width, in pixels.
        levels: pyramid levels of the logit terms.
        stand: whether their logits are standardised.

    Returns:
        The objective on the device of the labels; initial weights of its adapters come from torch's global generator.
    """
    names = [entry.name for entry in catalog.terms(method)]
    setting = _setting(student, teacher, labels, image_size) if any(map(has_adapter, names)) else None
    heads = (student.classifier, teacher.classifier)
    terms: list[Term] = []
    for name in names:
        prefix = "" if len(names) == 1 else f"{name}."
        own = {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}
        if catalog.methods()[name].kind == "logit":
            terms.append(LogitTerm(name, own, setting, levels=levels, stand=stand, heads=heads))
        else:
            terms.append(FeatureTerm(name, own, setting))
    return Objective(recipe["ce_weight"], terms).to(labels.device)


def has_adapter(name: str) -> bool:
    """Whether a method trains more than the student."""
    return hasattr(methods.get(name), "Adapter")


def _setting(student: Network, teacher: Network, labels: Tensor, image_size: int) -> Setting:
    image = torch.zeros(1, 3, image_size, image_size, device=labels.device)
    was_training = student.training
    with torch.no_grad():
        of_student, of_teacher = student.eval()(image), teacher.eval()(image)
    student.train(was_training)
    return Setting(student=of_student, teacher=of_teacher, teacher_norms=teacher.norms, labels=labels)
