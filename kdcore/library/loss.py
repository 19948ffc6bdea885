"""The loss of kdcore's cells for the trainers of others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdcore import catalog
from kdcore.catalog import MethodEntry
from kdcore.library import recipe as recipes
from kdcore.library.given import TELL, Given, asked
from kdcore.library.outputs import as_output, check_needs, detached, device_of, probe
from kdcore.networks.contract import Network, Output
from kdcore.networks.regions import check_regions
from kdcore.objective import PLAIN, FeatureTerm, LogitTerm, Objective, Term, has_adapter
from kdcore.parts import BatchContext, Parts
from kdcore.system.errors import UserError, shown


class DistillationLoss(nn.Module):
    """Cross-entropy plus the loss of a method, a sum of methods, over regions (SDD), of standardised logits (LSKD).

    `loss = objective(student(images), teacher(images), target)`, where `objective` is such a loss. Networks are those
    of `kdcore.networks.create`, wrapped ones (`kdcore.wrap`), or any others whose logits, or pairs of logits and maps,
    are given. Methods that compare logits alone, without regions, need no networks here.

    Some methods train more than the student. Their weights and memories are the parameters and buffers of this module:
    give `objective.parameters()` to the optimiser too, and save `objective.state_dict()` to go on with a training. Some
    methods give the student another end: train, evaluate and save `objective.student`, which is the student itself
    with all other methods. The teacher is frozen and set to evaluation mode.

    Args:
        method: a method, such as "dkd", or a sum, such as "crd+kd"; `python -m kdcore.methods` lists them.
        recipe: a data set, such as "cifar100", for the hyper-parameters that are published for it; or a dictionary of
            them in the form of `kdcore.recipe`.
        teacher: the network that is learned from, with `student`. Both are needed where regions are cut, and where a
            method has layers of its own or gives the student another end.
        student: the network that will be trained, on its device.
        pair: names of teacher and student, such as "resnet32x4-resnet8x4", where a recipe has values of this pair.
        levels: SDD's pyramid levels, a rising choice of 1, 2 and 4; level m cuts the final map into m x m regions.
        stand: whether logits are standardised.
        image_size: height and width of the images, in pixels; needed with `teacher` and `student` where these are.
        labels: (N,), the classes of all training images; a method that remembers images needs it.
        batch_size: images of a step, where a method's weights depend on it.
        epochs: of the whole training, where a weight changes over it.
        teacher_outputs: returns what yields the teacher's outputs for all training images, not augmented, batch by
            batch in the order of `labels`, where a method looks at all of them before training.
        label_smoothing: the share of a label that cross-entropy spreads evenly over all classes.
        small_maps: "repeat" allows final maps with fewer cells than regions, as SDD published it for MobileNetV2.
        seed: of what methods draw, with the number of the epoch.

    Raises:
        UserError: an argument is wrong, or one that the method needs is not given.
    """

    def __init__(
        self,
        method: str,
        recipe: str | Mapping[str, Any],
        *,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        pair: str | None = None,
        levels: Sequence[int] = PLAIN,
        stand: bool = False,
        image_size: int | None = None,
        labels: Tensor | Sequence[int] | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        teacher_outputs: Callable[[], Iterable[Any]] | None = None,
        label_smoothing: float = 0.0,
        small_maps: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        cell = recipes.cell(method, pair=pair, levels=levels, stand=stand)
        values = recipes.published(cell, recipe) if isinstance(recipe, str) else recipes.own(cell, recipe)
        self.entries, self.levels, self.seed = catalog.terms(method), tuple(levels), seed
        self.epoch: int | None = None
        self._generator: torch.Generator | None = None
        if (teacher is None) != (student is None):
            raise UserError("teacher and student: one of them is missing; give both, or none")
        needing = next((entry.name for entry in self.entries if has_adapter(entry.name)), None)
        regions = self.levels != PLAIN and any(entry.kind == "logit" for entry in self.entries)
        if (needing or regions) and (teacher is None or image_size is None):
            what = f"{needing} is" if needing else f"regions of levels {self.levels} are"
            raise UserError(f"{what} made for the maps of both networks; give teacher=, student= and image_size=")
        known = _labels(labels)
        self.images = None if known is None else len(known)
        training: dict[str, Any] = {"labels": known, "batch_size": batch_size, "epochs": epochs}
        training["teacher_outputs"] = None if teacher_outputs is None else lambda: _outputs_of(teacher_outputs)
        made = _Made(student, teacher, image_size, training)
        if regions:
            made.check_regions(self.levels, small_maps)
        terms = made.terms(self.entries, values, self.levels, stand)
        self.objective = Objective(values["ce_weight"], terms, label_smoothing=label_smoothing)
        self._networks = (made.student, teacher)  # a tuple, so that they are no parts of this module
        if student is not None and teacher is not None:
            self.objective.to(device_of(student))
            teacher.train(self.objective.teacher_in_training_mode).requires_grad_(False)
        self._asked = {name: term.entry.name for term in terms for name in asked(term)}

    @property
    def student(self) -> Any:
        """The network to train, evaluate and save: the student, or what the method makes of it; None without one."""
        return self._networks[0]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 1. Weights may depend on it, and what methods draw is seeded by it."""
        if type(epoch) is not int or epoch < 1:
            raise UserError(f"epoch: {shown(epoch)} must be a whole number, 1 for the first epoch")
        self.epoch, self._generator = epoch, None

    def forward(self, student: Any, teacher: Any, target: Tensor, *, index: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            student: what the student returned for B images, see `kdcore.library.outputs.FORMS`; for a method that sees
                a weak and a strong view of each image, the list of both outputs.
            teacher: the same of the teacher; it gets no gradients.
            target: (B,), classes; or (B, C), the shares of the classes in mixed images.
            index: (B,), positions of the images in the training set, where a method remembers images.

        Raises:
            UserError: something is of another form, or the method needs more; says what.
        """
        return self.parts(student, teacher, target, index=index).loss

    def parts(self, student: Any, teacher: Any, target: Tensor, *, index: Tensor | None = None) -> Parts:
        """Return the terms of the loss; `.loss` is their sum, `.ce` and `.losses` are unweighted. As `forward`."""
        self._check_mode()
        of_student = self._views(student, "student")
        of_teacher = [detached(output) for output in self._views(teacher, "teacher")]
        logits = of_student[0].logits
        if logits.shape != of_teacher[0].logits.shape:
            raise UserError(
                f"the logits of student {tuple(logits.shape)} and teacher {tuple(of_teacher[0].logits.shape)} must be "
                "of one shape (B, C)"
            )
        hard, soft = self._targets(target, logits)
        return self.objective(of_student, of_teacher, hard, self._context(hard, index), soft)

    def _check_mode(self) -> None:
        teacher, wanted = self._networks[1], self.objective.teacher_in_training_mode
        if teacher is not None and teacher.training != wanted:
            call = "train()" if wanted else "eval()"
            raise UserError(
                f"the teacher is in {'evaluation' if wanted else 'training'} mode; call teacher.{call}, also after a "
                "train() or eval() of a module that holds it"
            )

    def _views(self, given: Any, role: str) -> list[Output]:
        """Return the outputs of a role, one per view that the method sees."""
        count = self.objective.views
        views = [given] if count == 1 else given
        if count > 1 and (not isinstance(given, tuple | list) or isinstance(given, Output) or len(given) != count):
            names = " and ".join(next(entry.views for entry in self.entries if len(entry.views) == count))
            raise UserError(
                f"{'+'.join(entry.name for entry in self.entries)} sees {names} views of each image: give the list of "
                f"the {role}'s outputs for both"
            )
        outputs = [as_output(view, role) for view in views]
        for output in outputs:
            check_needs(self.entries, output, role, regions=self.objective.asks_for_regions)
        for entry in self.entries if role == "student" else ():
            if entry.replaces_student and not _has_end(self.student, outputs[0]):
                raise UserError(f"{entry.name} gives the student another end: train objective.student, not student")
        return outputs

    def _targets(self, target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the classes (B,), and of mixed images the shares (B, C) of classes."""
        if isinstance(target, Tensor) and target.shape == logits.shape and target.is_floating_point():
            refusing = [entry.name for entry in self.entries if entry.target == "refused"]
            if refusing:
                raise UserError(f"{refusing[0]} asks for the class of an image, and mixed images have two; do not mix")
            return target.argmax(dim=1), target
        if not isinstance(target, Tensor) or target.shape != logits.shape[:1] or target.is_floating_point():
            what = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise UserError(
                f"target: {what} must be the classes of the images, whole numbers {tuple(logits.shape[:1])}, or the "
                f"shares of classes in mixed images, {tuple(logits.shape)}"
            )
        return target.long(), None

    def _context(self, target: Tensor, index: Tensor | None) -> BatchContext:
        if "epoch" in self._asked and self.epoch is None:
            raise UserError(
                f"{self._asked['epoch']} changes with the epochs (a warm-up, a schedule, or what it draws): call "
                "objective.set_epoch(epoch), 1 for the first, when an epoch begins"
            )
        if "index" in self._asked:
            if not isinstance(index, Tensor) or index.shape != target.shape or index.is_floating_point():
                raise UserError(
                    f"{self._asked['index']} remembers images: give index=, the positions of the batch's images in the "
                    f"training set, whole numbers {tuple(target.shape)}"
                )
            if self.images is not None and index.device.type == "cpu":  # elsewhere the device would be waited for
                first, last = int(index.min()), int(index.max())
                if first < 0 or last >= self.images:
                    raise UserError(f"index: is from {first} to {last}, and labels are of {self.images} images")
            index = index.to(target.device, torch.int64, non_blocking=True)
        if self.epoch is not None and (self._generator is None or self._generator.device != target.device):
            self._generator = torch.Generator(target.device).manual_seed(drawing_seed(self.seed, self.epoch))
        return BatchContext(cast(Tensor, index), self.epoch or 0, cast(torch.Generator, self._generator))


class _Made:
    """Makes the terms of a loss from what is known of networks and training.

    Args:
        student: the network to train; it may get another end.
        teacher: the frozen network.
        image_size: height and width, in pixels.
        training: labels, batch_size, epochs and teacher_outputs, as far as they are known.
    """

    def __init__(
        self, student: nn.Module | None, teacher: nn.Module | None, image_size: int | None, training: dict[str, Any]
    ) -> None:
        self.student, self.teacher = student, teacher
        self.image_size, self.training = image_size, training

    def check_regions(self, levels: tuple[int, ...], small_maps: str | None) -> None:
        """Refuse networks without logits of regions."""
        for role, network in (("student", self.student), ("teacher", self.teacher)):
            if not isinstance(network, Network):
                raise UserError(
                    f"levels {levels}: the maps and the classifier of the {role} must be known; give "
                    f"{role}=kdcore.wrap({role}, image_size=...), and give the loss what that returns"
                )
            named = f"{role} {type(getattr(network, 'module', network)).__name__}"
            size = cast(int, self.image_size)
            check_regions(network, named, levels, image_size=size, small_maps=small_maps, remedy="Leave out levels")

    def terms(
        self, entries: Sequence[MethodEntry], recipe: Mapping[str, Any], levels: tuple[int, ...], stand: bool
    ) -> list[Term]:
        """Make a term per method, in their order; afterwards `student` is the network to train.

        Args:
            entries: the methods.
            recipe: the terms of a sum have their names before their keys.
            levels: of the logit terms.
            stand: whether their logits are standardised.
        """
        made: dict[str, Term] = {}
        epochs = self.training["epochs"]
        # The method that gives the student another end is made first, for the others see the student with it.
        for entry in sorted(entries, key=lambda entry: not entry.replaces_student):
            prefix = "" if len(entries) == 1 else f"{entry.name}."
            own = {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}
            if own.get("schedule", "constant") != "constant" and epochs is None:
                raise UserError(f"{entry.name} needs epochs for its schedule: {TELL['epochs']}; give epochs=...")
            setting = self._setting(entry) if has_adapter(entry.name) else None
            if entry.kind == "logit":
                heads = (getattr(self.student, "classifier", None), getattr(self.teacher, "classifier", None))
                known = cast(Any, heads) if levels != PLAIN else None
                made[entry.name] = LogitTerm(
                    entry.name, own, setting, epochs=epochs, levels=levels, stand=bool(stand), heads=known
                )
            else:
                made[entry.name] = FeatureTerm(entry.name, own, setting, epochs=epochs)
            if entry.replaces_student:
                student = cast(Any, made[entry.name].adapter).as_student(self.student)
                self.student = student.to(device_of(cast(nn.Module, self.student)))
        return [made[entry.name] for entry in entries]

    def _setting(self, entry: MethodEntry) -> Given:
        outputs, heads = {}, {}
        for role, network in (("student", self.student), ("teacher", self.teacher)):
            network = cast(nn.Module, network)
            outputs[role] = as_output(probe(network, cast(int, self.image_size)), role)
            heads[role] = getattr(network, "classifier", None)
            check_needs([entry], outputs[role], role, regions=False)
            if {"classifier", f"{role}.classifier"} & {*entry.needs} and not isinstance(heads[role], nn.Linear):
                raise UserError(f"{entry.name} needs a linear classifier, which the {role} does not have")
        labels = self.training["labels"]
        training = {**self.training, "labels": None if labels is None else labels.to(outputs["student"].logits.device)}
        return Given(
            student=outputs["student"],
            teacher=outputs["teacher"],
            teacher_norms=getattr(self.teacher, "norms", ()),
            classifiers=cast(Any, (heads["student"], heads["teacher"])),
            kept=lambda _name, compute: compute(),
            method=entry.name,
            **training,
        )


def _labels(given: Any) -> Tensor | None:
    if given is None:
        return None
    labels = torch.as_tensor(given)
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise UserError(f"labels: {labels.dtype} {tuple(labels.shape)} must be {TELL['labels']}")
    return labels.long()


def _outputs_of(yielding: Callable[[], Iterable[Any]]) -> Iterator[Output]:
    """Yield the teacher's outputs for all training images."""
    with torch.no_grad():
        yield from (as_output(given, "teacher") for given in yielding())


def drawing_seed(seed: int, epoch: int) -> int:
    """Return a seed of 32 bits, which are all that a generator on the CPU takes."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _has_end(student: Any, output: Output) -> bool:
    """Whether an output is that of a student with the end that its method wants."""
    head = student.classifier
    widths = (output.final_map.shape[1], output.logits.shape[1])
    return widths == (head.in_features, head.out_features)
