"""Whether a published trainer and this project's take the same steps: both from the same weights on the same batches.

Theirs is the trainer of a checkout (see `benchmarks.checkout`) with its own models, distillers and optimiser; its
`train_iter` takes each step. Ours is a cell's `Run` with its objective, its optimiser and its folded teacher. Both
compute in float64, so that what is left of a difference is no rounding: a cast to float32, theirs or ours, makes a
float64 tensor here. Rounding grows from step to step, as differences of weights do in any training.

Networks and what a method trains beside the student begin as ours: the networks' weights go over by their names, those
of adapters part by part in order (`benchmarks.counterparts`), and every shape is checked. CRD's memories go over too,
and the negatives that ours draws are given to both. Settings of the checkout that the recipe here has otherwise are set
to the recipe's, and listed. The teacher has never been trained, but has running statistics; a quarter of the labels is
random, the others are what it says of the image or of a part of it, so that it is right and wrong of both. Every image
is seen several times, as in several epochs, but all steps are of one epoch within the warm-up.

Run: python -m benchmarks.lockstep CHECKOUT [METHODS [STEPS [PAIR]]]

METHODS are labels or distillers, separated by semicolons; "all" is the default.
"""

import io
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.checkout import Checkout
from benchmarks.common import Case
from benchmarks.counterparts import CHECKOUTS, Counterpart, Table, parts, settings
from kdcore.catalog import levels
from kdcore.catalog import methods as catalogued
from kdcore.data.dataset import Dataset, Split
from kdcore.data.feed import Batch, Feed
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.networks.contract import Network
from kdcore.scales import pyramid_logits
from kdcore.system import command, yamlfile
from kdcore.system.errors import RunError, UserError
from kdcore.training import loop, teacher_outputs
from kdcore.training.distributed import ALONE

CPU = torch.device("cpu")
PAIR = "resnet20-resnet8"
BATCH, BATCHES = 16, 4
EPOCH = 10
"""Half of the usual warm-up of 20 epochs."""
REPORTED = (1, 2, 3, 5, 10, 19)
DECIDING, ALLOWED = 5, 1e-9
"""The step whose losses decide, and by which share of the loss they may differ."""
UNEXPLAINED = "not explained"
LONGEST = 40.0
"""The norm to which SDD-CVPR2024 scales longer gradients down."""


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside the block new tensors are float64, and what would become float32 does too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
            mock.patch.object(torch, "FloatTensor", torch.DoubleTensor),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Images:
    """The images that both see, float64."""

    views: tuple[Tensor, Tensor]
    """(N, 3, S, S) each: weak and strong, both random."""
    labels: Tensor
    """(N,) int64."""
    dataset: Dataset
    """What a cell is prepared with: its training labels are these, its pictures are never seen."""

    def batches(self) -> Iterator[Batch]:
        """The batches, again and again."""
        for number in itertools.count():
            index = torch.arange(BATCH) + BATCH * (number % BATCHES)
            views = tuple(view[index] for view in self.views)
            yield Batch(views, self.labels[index], index, None, BATCH, (EPOCH, number))


def images(teacher: Network) -> Images:
    """The images and labels for a teacher (see the module)."""
    drawn = torch.Generator().manual_seed(0)
    count = BATCH * BATCHES
    weak, strong = (torch.randn(count, 3, common.SIDE, common.SIDE, generator=drawn) for _ in range(2))
    dataset = common.noise(count)
    train = cast(Split, dataset.train)
    labels = torch.from_numpy(train.labels).clone()
    with torch.no_grad():
        said = pyramid_logits(teacher(weak).final_map, teacher.classifier, levels(4)).argmax(dim=2)
    labels[::2] = said[::2, 0]
    labels[1::4] = said[1::4, -1]
    return Images((weak, strong), labels, replace(dataset, train=Split(train.images, labels.numpy())))


class Ours:
    """A cell of this project, at the beginning of an epoch.

    Args:
        one: what is compared.
        pair: teacher and student.
        clipped: whether gradients are limited to `LONGEST`.
    """

    def __init__(self, one: Counterpart, pair: str, *, clipped: bool) -> None:
        self.teacher, _ = common.networks_of(pair, CPU)
        self.images = images(self.teacher)
        self.recipe = _recipe(one, pair)
        card = Case(pair, levels(one.scale), one.stand, epochs=240, precision="float32").card
        train = {**card["train"], "schedule": "step", "milestones": [150, 180, 210], "lr_decay": 0.1}
        train |= {"batch_size": BATCH, "grad_clip_norm": LONGEST if clipped else None}
        card |= {"method": one.method, "recipe": self.recipe, "train": train}
        self.run = loop.prepare(card, self.images.dataset, self.teacher, device=CPU)
        self.run.history = [{}] * (EPOCH - 1)
        self.run.begin_epoch()
        feed = Feed(self.images.dataset, CPU)
        with common.tables(None):
            self.teach = teacher_outputs.prepare(
                self.teacher, self.run.objective, feed, ALONE, torch.float64, batch_size=BATCH
            )

    @property
    def adapter(self) -> nn.Module:
        """What the method trains beside the student; empty where it trains nothing."""
        (term,) = self.run.objective.terms.values()
        return term.adapter or nn.Module()

    def drawn(self, batch: Batch) -> Any:
        """What the next step will draw for a batch; None where the method draws nothing."""
        if not hasattr(self.adapter, "prepare"):
            return None
        twin = torch.Generator().set_state(self.run.generator.get_state())
        return cast(Any, self.adapter).prepare(batch.target, epoch=EPOCH, generator=twin)

    def step(self, batch: Batch) -> float:
        """Take a step; returns the loss before it."""
        self.run.step(batch, self.teach(batch))
        return self.run.sums.losses["loss"][-1].item()


def _recipe(one: Counterpart, pair: str) -> dict[str, Any]:
    is_logit = catalogued()[one.method].kind == "logit"
    cell = Cell(pair, one.method, 0, one.scale if is_logit else None, one.stand if is_logit else None)
    found = recipes.resolve(
        cell,
        dataset="cifar100",
        published=_published(),
        overrides={one.method: dict(one.changes)},
        stand_recipe="paper",
    )
    return {key: value.value for key, value in found.items()}


@cache
def _published() -> dict[str, Any]:
    return yamlfile.read(ROOT / "data/recipes.yaml")


class Theirs:
    """The trainer of a checkout, with the weights of ours.

    Args:
        checkout: of which the trainer is.
        one: what is compared.
        ours: at its beginning.
        pair: teacher and student.
        out: the folder for what the trainer writes.
    """

    def __init__(self, checkout: Checkout, one: Counterpart, ours: Ours, pair: str, out: Path) -> None:
        regions = one.scale != 1
        teacher, student = (checkout.network(name, common.CLASSES, regions=regions) for name in pair.split("-"))
        _fill(teacher, ours.teacher)
        _fill(student, ours.run.student)
        was_training = ours.teacher.training
        with torch.no_grad():
            shapes = [network.eval()(ours.images.views[0][:1]) for network in (ours.run.student, ours.teacher)]
        ours.run.student.train()
        ours.teacher.train(was_training)
        chosen = settings(one, ours.recipe, *shapes)
        self.changed = {
            key: [checkout.default(key), value] for key, value in chosen.items() if checkout.default(key) != value
        }
        more = [len(ours.images.labels)] if one.distiller == "CRD" else []
        solver = {"SOLVER__WEIGHT_DECAY": ours.run.settings.weight_decay, "SOLVER__LR": ours.run.settings.lr}
        with _of_theirs(one.distiller):
            distiller = checkout.distiller(one.distiller, student, teacher, *more, regions=regions, **solver, **chosen)
        if one.restored:
            _fill(teacher, ours.teacher)
            _fill(student, ours.run.student)
        _fill_parts(distiller, ours.adapter, parts(one, ours.adapter))
        self.student, self.kind, self.label = student, one.trainer, one.distiller
        self.norms: list[float] = []
        """The length of every gradient that they limited, before they did."""
        self.trainer = checkout.stepper(one.trainer, distiller, out)
        self.trainer.distiller.train()
        meter = checkout.meter
        self.meters = {name: meter() for name in ("training_time", "data_time", "losses", "top1", "top5")}

    def step(self, batch: Batch, drawn: Tensor | None) -> float:
        """Take a step, with the negatives of CRD (B, K); returns the loss before it."""
        image: Any = list(batch.views) if self.kind == "ours" else batch.views[0]
        data = [image, batch.target, batch.index]
        if drawn is not None:
            data.append(torch.cat([batch.index[:, None], drawn], dim=1))
        with mock.patch.object(nn.utils, "clip_grad_norm_", self._clip), _of_theirs(self.label):
            self.trainer.train_iter(data, EPOCH, self.meters)
        return float(self.meters["losses"].val)

    def _clip(self, *arguments: Any, **options: Any) -> Tensor:
        norm = CLIP(*arguments, **options)
        self.norms.append(norm.item())
        return norm


CLIP = nn.utils.clip_grad_norm_


@contextmanager
def _of_theirs(label: str) -> Iterator[None]:
    """Name the distiller whose code fails inside the block, whatever it raises for networks that it does not know."""
    try:
        yield
    except Exception as error:
        raise RunError(
            f"{label}: the checkout's own code fails ({type(error).__name__}: {error}); leave it out of METHODS, or "
            "take another PAIR"
        ) from error


def _fill(theirs: nn.Module, ours: nn.Module) -> None:
    """Give a network of theirs the weights of ours, by name, or where names differ in order."""
    wanted, given = theirs.state_dict(), ours.state_dict()
    names = list(wanted) if wanted.keys() == given.keys() else list(given)
    if [wanted_value.shape for wanted_value in wanted.values()] != [given[name].shape for name in names]:
        raise ValueError(f"{type(theirs).__name__} has other weights than {type(ours).__name__}")
    theirs.load_state_dict({key: given[name] for key, name in zip(wanted, names, strict=True)})


def _fill_parts(distiller: nn.Module, adapter: nn.Module, named: Mapping[str, str]) -> None:
    """Give the trained parts of a distiller the weights and memories of an adapter's parts."""
    own, filled = distiller.state_dict(), set[str]()
    for theirs, ours in named.items():
        into = [key for key in own if f"{key}.".startswith(f"{theirs}.")]
        values = [value for key, value in adapter.state_dict().items() if f"{key}.".startswith(f"{ours}.")]
        if [own[key].shape for key in into] != [value.shape for value in values]:
            raise RunError(
                f"{type(distiller).__name__}: {theirs} has other weights than {ours} here, since other maps of this "
                "pair are compared (docs/differences.md); leave it out of METHODS, or take another PAIR"
            )
        for key, value in zip(into, values, strict=True):
            own[key].copy_(value)
        filled |= set(into)
    trained = {name for name, _ in distiller.named_parameters() if not name.startswith(("student.", "teacher."))}
    if trained - filled:
        raise ValueError(f"{sorted(trained - filled)} have no counterpart here")


def compare(checkout: Checkout, one: Counterpart, pair: str, steps: int) -> dict[str, Any]:
    """Take both through the steps; returns what is kept of them."""
    with (
        in_float64(),
        tempfile.TemporaryDirectory() as out,
        redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        one.as_compared(),
    ):
        warnings.simplefilter("ignore")  # theirs calls what torch deprecates
        ours = Ours(one, pair, clipped=checkout.has_regions)
        theirs = Theirs(checkout, one, ours, pair, Path(out))
        begun = _weights(ours.run.student)
        losses = []
        for batch in itertools.islice(ours.images.batches(), steps):
            drawn = ours.drawn(batch)
            losses.append((theirs.step(batch, drawn), ours.step(batch)))
    ended, shown = _weights(ours.run.student), [step for step in REPORTED if step <= steps]
    return {
        "distiller": one.distiller,
        "method": one.method,
        "levels": levels(one.scale),
        "stand": one.stand,
        "recipe": ours.recipe,
        "set otherwise than the checkout has it": theirs.changed,
        "loss": {str(step): losses[step - 1][1] for step in shown},
        "difference": {str(step): _relative(*losses[step - 1]) for step in shown},
        "weights": ((_weights(theirs.student) - ended).norm() / (ended - begun).norm()).item(),
        "moved": ((ended - begun).norm() / begun.norm()).item(),
        "longest gradient": max(theirs.norms, default=None),
        "clipped steps": sum(norm > LONGEST for norm in theirs.norms) if theirs.norms else None,
        "why": one.why,
    }


def _relative(theirs: float, ours: float) -> float:
    return abs(theirs - ours) / abs(ours)


def _weights(network: nn.Module) -> Tensor:
    """All trained weights of a network, (P,)."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def chosen(table: Table, names: str) -> Table:
    """The rows of a table that are named by label or distiller.

    Raises:
        UserError: there is none of a name.
    """
    if names == "all":
        return table
    found: Table = {}
    for name in names.split(";"):
        rows = {label: one for label, one in table.items() if name.strip() in (label, one.distiller)}
        if not rows:
            raise UserError(f"METHODS: {name.strip()!r}: this checkout is compared in {'; '.join(table)}")
        found |= rows
    return found


def verdict(row: Mapping[str, Any]) -> str:
    """Whether a comparison is as it should be, and why not."""
    last = [step for step in row["difference"] if int(step) <= DECIDING][-1]
    if row["why"]:
        return str(row["why"])
    return "" if row["difference"][last] <= ALLOWED else UNEXPLAINED


def main(checkout: str, names: str = "all", steps: str = str(REPORTED[-1]), pair: str = PAIR) -> None:
    """Print the differences, and keep them as a JSON file and a page.

    Raises:
        UserError: the folder is no checkout, METHODS names nothing, or STEPS is no number.
        RunError: a difference is too large, and `benchmarks.counterparts` does not say why.
    """
    if not steps.isdigit() or int(steps) < 1:
        raise UserError(f"STEPS: {steps!r} must be a whole number from 1 on")
    theirs = Checkout(Path(checkout).absolute())
    table = chosen(CHECKOUTS[theirs.repository], names)
    rows = {label: compare(theirs, one, pair, int(steps)) for label, one in table.items()}
    text = page(theirs, rows, pair)
    print(text)
    content = {
        "checkout": {"repository": theirs.repository, "commit": theirs.commit},
        "pair": pair,
        "dtype": "float64",
        "batch": BATCH,
        "images": BATCH * BATCHES,
        "epoch": EPOCH,
        "steps": int(steps),
        "compared": rows,
    }
    file = common.keep("lockstep", theirs.repository, pair, where=CPU, content=content)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    unexplained = [label for label, row in rows.items() if verdict(row) == UNEXPLAINED]
    if unexplained:
        raise RunError(f"{'; '.join(unexplained)}: the losses of step {DECIDING} differ by more than {ALLOWED:g}")


def page(checkout: Checkout, rows: Mapping[str, Mapping[str, Any]], pair: str) -> str:
    """Write the differences for people, in Markdown."""
    shown = list(next(iter(rows.values()))["difference"])
    head = [checkout.repository, *(f"step {step}" for step in shown), "weights", "why"]
    lines = [
        [label, *(f"{row['difference'][step]:.0e}" for step in shown), f"{row['weights']:.0e}", verdict(row)]
        for label, row in rows.items()
    ]
    with redirect_stdout(io.StringIO()) as text:
        common.show(head, lines)
    return (
        f"# {checkout.repository} at {checkout.commit}\n\n{pair}, float64, batch {BATCH}, SGD. How far the losses of a "
        "step are apart, as a share of the loss, and the student's weights at the end, as a share of the way that they "
        f"have gone.\n\n{text.getvalue()}"
    )


if __name__ == "__main__":
    command.run(main)
