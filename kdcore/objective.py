"""What a cell minimises: cross-entropy plus the losses of its method, or of the methods of a sum.

A logit method composes three independent parts: its loss, of standardised or plain logits (LSKD), over the regions of
a pyramid (SDD). Every logit method takes every combination; M=[1] without standardisation is the plain method.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
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
STUDENT, TEACHER = range(2)


@dataclass(frozen=True)
class Batch:
    """B training images of a step."""

    views: tuple[Tensor, ...]
    """(B, 3, H, W) each: the weak view, and the strong one where a method needs it."""
    target: Tensor
    """(B,) int64, class indices."""
    index: Tensor
    """(B,) int64, which of the training images they are."""
    epoch: int
    """Counted from 1."""
    generator: torch.Generator
    """For what methods draw, on the device."""


@dataclass(frozen=True)
class Known:
    """What a teacher says of B images, as far as logit methods ask."""

    logits: Tensor
    """(B, C), of the whole image."""
    grid: Tensor | None
    """(B, 16, C), of the cells of the 4 x 4 grid; None where no regions are asked for."""


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
    """Each method's, unweighted."""

    @property
    def loss(self) -> Tensor:
        """What is minimised."""
        return self.task if self.distillation is None else self.task + self.distillation


class Term(nn.Module):
    """One method within an objective.

    Args:
        name: of the method.
        recipe: its parameters, with kd_weight (times min(epoch / warmup, 1)) and warmup (epochs), and, where regions
            are decoupled, complementary_weight and decoupling.
        setting: what an adapter is made from; None for methods without one.
        levels: pyramid levels of a logit method; (1,) is the network's own logits.
        stand: whether a logit method's logits are standardised.
        heads: the linear classifiers of student and teacher, for the logits of regions.
    """

    def __init__(
        self,
        name: str,
        recipe: Mapping[str, Any],
        *,
        setting: Setting | None = None,
        levels: tuple[int, ...] = PLAIN,
        stand: bool = False,
        heads: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if levels != PLAIN and heads is None:
            raise ValueError(f"levels {levels} need the classifiers of student and teacher")
        self.entry = catalog.methods()[name]
        self.method = methods.get(name)
        self.recipe = recipe
        applied_here = {*catalog.COMMON, *catalog.DECOUPLED}
        self.keywords = {key: value for key, value in recipe.items() if key not in applied_here}
        self.levels, self.stand, self.heads = levels, stand, heads
        self.standardizes_itself = "standardize" in inspect.signature(self.method.loss).parameters
        self.adapter: nn.Module | None = None
        if has_adapter(name):
            if setting is None:
                raise ValueError(f"{name} needs a setting to build its adapter from")
            self.adapter = self.method.Adapter(setting, **self.keywords)

    @property
    def teacher_in_training_mode(self) -> bool:
        """Whether the method wants the teacher to normalise by each batch."""
        return getattr(self.adapter, "teacher_in_training_mode", False)

    def weight(self, epoch: int) -> float:
        """Weight of the method's loss in an epoch, counted from 1."""
        warmup = self.recipe["warmup"]
        return self.recipe["kd_weight"] * (min(epoch / warmup, 1.0) if warmup else 1.0)

    def forward(self, student: Sequence[Output], teacher: Sequence[Output | Known], batch: Batch) -> Tensor:
        """The method's loss, unweighted; outputs per view."""
        if self.entry.kind == "logit":
            return self._of_logits(student, teacher, batch)
        taught = cast(Output, teacher[0])
        if self.adapter is None:
            return self.method.distill(student[0], taught, **self.keywords)
        return self.adapter(Step(student[0], taught, batch.target, batch.index, batch.epoch, batch.generator))

    def _of_logits(self, student: Sequence[Output], teacher: Sequence[Output | Known], batch: Batch) -> Tensor:
        views = range(len(self.entry.views))
        logits = [self._regions(student[view], STUDENT) for view in views]
        logits += [self._regions(teacher[view], TEACHER) for view in views]
        predictions = logits[len(views)]
        target = batch.target[:, None].expand(predictions.shape[:2])
        keywords = self.keywords
        if self.standardizes_itself:
            keywords = {**keywords, "standardize": self.stand}
        elif self.stand:
            logits = [standardize(of_view) for of_view in logits]
        if self.entry.across == "batch":
            by_region = [of_view.transpose(0, 1).contiguous() for of_view in logits]
            return self.method.loss(*by_region, target.T, **keywords).mean()
        if self.adapter is not None:
            per_region = self.adapter(*logits, target, epoch=batch.epoch)
        else:
            per_region = self.method.loss(*logits, target, **keywords)
        if self.levels == PLAIN:
            return per_region.mean()
        return self._decoupled(per_region, predictions, teacher[0], batch)

    def _decoupled(self, per_region: Tensor, predictions: Tensor, teacher: Output | Known, batch: Batch) -> Tensor:
        if self.recipe["decoupling"] == "fusion_as_published":
            return decouple_as_fusion_published(per_region, predictions, batch.target)
        return decouple(
            per_region,
            predictions,
            batch.target,
            complementary_weight=self.recipe["complementary_weight"],
            teacher_global=None if self.levels[0] == 1 else teacher.logits,
        )

    def _regions(self, output: Output | Known, role: int) -> Tensor:
        """Logits (B, N, C) of the regions that the levels name."""
        if self.heads is None or self.levels == PLAIN:
            return output.logits[:, None]
        if role == STUDENT:
            return pyramid_logits(cast(Output, output).final_map, self.heads[role], self.levels)
        if isinstance(output, Known):
            return region_logits(cast(Tensor, output.grid), self.levels)
        # From the grid, as a table has it, so that a table changes no bit.
        return region_logits(grid_logits(output.final_map, self.heads[role]), self.levels)


class Objective(nn.Module):
    """The loss of one cell. Its parameters and buffers are those of the methods' adapters.

    Args:
        ce_weight: of cross-entropy.
        terms: one per method; none for a network trained alone.
    """

    def __init__(self, ce_weight: float, terms: Sequence[Term] = ()) -> None:
        super().__init__()
        self.ce_weight = ce_weight
        self.by_name = nn.ModuleDict({term.entry.name: term for term in terms})

    @property
    def terms(self) -> Iterator[tuple[str, Term]]:
        """The methods by name."""
        return cast(Iterator[tuple[str, Term]], iter(self.by_name.items()))

    @property
    def views(self) -> int:
        """How many views of each image it needs: 1 weak, or 2, weak and strong."""
        return max((len(term.entry.views) for _, term in self.terms), default=1)

    @property
    def asks_for_logits_alone(self) -> bool:
        """Whether all that it wants of a teacher are the logits of weak views."""
        return self.views == 1 and all(term.entry.kind == "logit" for _, term in self.terms)

    @property
    def asks_for_regions(self) -> bool:
        """Whether it wants the logits of other regions than the whole image."""
        return any(term.entry.kind == "logit" and term.levels != PLAIN for _, term in self.terms)

    @property
    def teacher_in_training_mode(self) -> bool:
        """Whether a method wants the teacher to normalise by each batch; its weights are frozen in any case."""
        return any(term.teacher_in_training_mode for _, term in self.terms)

    def losses(self, student: Sequence[Output], teacher: Sequence[Output | Known], batch: Batch) -> dict[str, Tensor]:
        """Each method's loss, unweighted. Arguments as of `forward`."""
        return {name: term(student, teacher, batch) for name, term in self.terms}

    def forward(self, student: Sequence[Output], teacher: Sequence[Output | Known], batch: Batch) -> Parts:
        """The loss of a batch.

        Args:
            student: its outputs for B images, per view.
            teacher: the same, without gradients; not looked at for a network trained alone.
            batch: classes, indices and epoch.
        """
        ce = torch.stack([F.cross_entropy(widen(output.logits), batch.target) for output in student]).sum()
        losses = self.losses(student, teacher, batch)
        weighted = [term.weight(batch.epoch) * losses[name] for name, term in self.terms]
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
        student: on the device.
        teacher: likewise.
        labels: (N,) int64 on the device, the classes of all training images.
        image_size: height and width, in pixels.
        levels: pyramid levels of the logit terms.
        stand: whether their logits are standardised.

    Returns:
        On the device of the labels; the initial weights of its adapters are drawn from torch's global generator.
    """
    names = [entry.name for entry in catalog.terms(method)]
    setting = _setting(student, teacher, labels, image_size) if any(map(has_adapter, names)) else None
    heads = (student.classifier, teacher.classifier)
    terms = []
    for name in names:
        prefix = "" if len(names) == 1 else f"{name}."
        own = {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}
        terms.append(Term(name, own, setting=setting, levels=levels, stand=stand, heads=heads))
    return Objective(recipe["ce_weight"], terms).to(labels.device)


def has_adapter(name: str) -> bool:
    """Whether a method trains more than the student."""
    return hasattr(methods.get(name), "Adapter")


def _setting(student: Network, teacher: Network, labels: Tensor, image_size: int) -> Setting:
    image = torch.zeros(1, 3, image_size, image_size, device=labels.device)
    was_training = student.training
    with torch.no_grad():
        outputs = student.eval()(image), teacher.eval()(image)
    student.train(was_training)
    return Setting(*outputs, teacher.norms, labels)
