"""List the params files in presets/, with what each would train and cost, and copy one of them to params.yaml."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from kdcore import catalog
from kdcore.matrix import networks_section, params
from kdcore.matrix.cards import resolve_recipes
from kdcore.matrix.data_section import Data
from kdcore.matrix.params import Params
from kdcore.matrix.teacher_cards import check_teachers
from kdcore.matrix.train_recipe import Augmentation
from kdcore.matrix.train_section import TrainSettings
from kdcore.system.errors import UserError, suggest
from kdcore.system.files import replace_text
from kdcore.system.git import git

FOLDER = Path("presets")
PARAMS = Path("params.yaml")
SOURCE = "# Source: "
"""The start of the line in a preset's header that names its source."""

# This is how the cost of a training is estimated: a step takes as long as its arithmetic, but at least STEP_SECONDS;
# reading images and evaluation are left out. The constants are assumptions for one present data-centre GPU, not
# measurements. They agree with the 11 ms per batch of 64 that SDD's paper has for KD from ResNet32x4 to ResNet8x4
# (arXiv:2403.13512, table 9).
OPERATIONS_PER_SECOND = 2e13
"""How many floating-point operations convolutions reach per second; a multiply-add counts as two."""
STEP_SECONDS = 0.01
"""The least time of a step, in seconds: kernels of small networks take longer to launch than to run."""
TRAINING_PASSES = 3
"""What training costs, in forward passes: one forward, one for the gradients of maps, one for those of weights."""

IMAGES = {
    "cifar100": (50_000, 100, 32),
    "cub200": (5_994, 200, 224),
    "imagenet": (1_281_167, 1000, 224),
    "tiny_imagenet": (100_000, 200, 64),
}
"""Published data set -> its numbers of training images and of classes, and its images' height and width in pixels."""
SMALL = 64
"""The largest height and width of images, in pixels, for which networks keep their published first layer."""

FOOTER = (
    "Teachers are those to train here, at most: where published weights come first, they may do. GPU hours are "
    f"estimated for one GPU of {OPERATIONS_PER_SECOND / 1e12:g} TFLOP/s and {1000 * STEP_SECONDS:g} ms per step at "
    "least, teachers and baselines included (kdcore/matrix/presets.py). Install one: make preset NAME=<preset>"
)


@dataclass(frozen=True)
class Training:
    """A network that a preset trains."""

    settings: TrainSettings
    student: str
    teacher: str | None
    """The name of the teacher; None for a network that is trained alone."""
    views: int
    """How many views of each image both networks see."""


@dataclass(frozen=True)
class Summary:
    """The number and cost of the trainings of a preset."""

    name: str
    pairs: int
    cells: int
    teachers: int
    """How many teachers are trained here at most; fewer if published weights can be had."""
    epochs: tuple[int, int]
    """The least and the most epochs of any cell."""
    hours: float | None
    """The GPU hours that `hours` estimates; None if it cannot."""
    source: str


def names() -> list[str]:
    """List the names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, recipes: dict[str, Any], teachers: dict[str, Any]) -> Params:
    """Load a preset, and check everything that needs neither its data nor its teachers' weights.

    Args:
        name: one of `names()`.
        recipes: content of data/recipes.yaml.
        teachers: content of data/teachers.yaml.

    Raises:
        UserError: there is no preset of this name; or `params.load`, `teacher_cards.check_teachers` or
            `cards.resolve_recipes` raises it.
    """
    if name not in names():
        raise UserError(
            f"there is no preset {name!r}.{suggest(name, names(), most=3)} "
            f"Say make preset NAME=<preset>, one of {', '.join(names())}"
        )
    matrix = params.load(_path(name))
    check_teachers(matrix, teachers, str(_path(name)))
    resolve_recipes(matrix, recipes, str(_path(name)))
    return matrix


def summarise(name: str, recipes: dict[str, Any], teachers: dict[str, Any]) -> Summary:
    """Summarise what a preset would train. Takes the arguments of `load`.

    Raises:
        UserError: `load` raises it, or the preset's header does not name exactly one source.
    """
    matrix = load(name, recipes, teachers)
    lines = _path(name).read_text(encoding="utf-8").splitlines()
    sources = [line.removeprefix(SOURCE) for line in lines if line.startswith(SOURCE)]
    if len(sources) != 1:
        raise UserError(f"{_path(name)}: needs one line {SOURCE!r} in its header, which says what it follows")
    cells, trained = list(of_cells(matrix)), list(of_teachers(matrix))
    epochs = [cell.settings.epochs for cell in cells]
    return Summary(
        name=name,
        pairs=len(matrix.pairs),
        cells=len(cells),
        teachers=len(trained),
        epochs=(min(epochs), max(epochs)),
        hours=hours([*cells, *trained], matrix.data, networks_section.described(matrix, str(_path(name)))),
        source=sources[0],
    )


def summarise_all(recipes: dict[str, Any], teachers: dict[str, Any]) -> tuple[list[Summary], list[str]]:
    """Summarise the presets that can be used, and list what is wrong with the others. Takes the arguments of `load`."""
    summaries, problems = [], []
    for name in names():
        try:
            summaries.append(summarise(name, recipes, teachers))
        except UserError as error:
            problems.append(str(error))
    return summaries, problems


def table(summaries: list[Summary]) -> Table:
    """Build a table with one row per preset."""
    shown = Table()
    for heading in ("preset", "pairs", "cells", "teachers", "epochs", "GPU hours"):
        shown.add_column(heading, no_wrap=True, justify="left" if heading == "preset" else "right")
    shown.add_column("source", overflow="fold")
    for of in summaries:
        least, most = of.epochs
        epochs = f"{least}" if least == most else f"{least} to {most}"
        shown.add_row(of.name, str(of.pairs), str(of.cells), str(of.teachers), epochs, _rounded(of.hours), of.source)
    return shown


def of_cells(matrix: Params) -> Iterator[Training]:
    """Yield the training of every cell."""
    for cell in matrix.cells():
        settings = matrix.settings(cell)
        views = max((len(entry.views) for entry in catalog.terms(cell.method)), default=1)
        yield Training(settings, cell.student, None if cell.method == catalog.VANILLA else cell.teacher_network, views)


def of_teachers(matrix: Params) -> Iterator[Training]:
    """Yield the training of every teacher that is, or may have to be, trained here."""
    for name, teacher in matrix.teachers.items():
        if teacher.train is not None:
            yield Training(teacher.train, matrix.network_of(name), None, 1)


def hours(trainings: list[Training], data: Data, described: Mapping[str, Any] = MappingProxyType({})) -> float | None:
    """Estimate how many hours one GPU needs for all trainings; None for a data set that is not in `IMAGES`.

    Args:
        trainings: of one preset.
        data: its data set.
        described: its own networks, see `kdcore.matrix.networks_section`.
    """
    if data.name not in IMAGES:
        return None
    published, classes, pixels = IMAGES[data.name]
    seconds, named = 0.0, json.dumps(dict(described))
    for of in trainings:
        passes = TRAINING_PASSES * multiply_adds(of.student, classes, pixels, named)
        if of.teacher is not None:
            passes += multiply_adds(of.teacher, classes, pixels, named)
        batch, augmentation = of.settings.batch_size, of.settings.augmentation
        per_class = of.settings.per_class or getattr(data, "train_per_class", None)
        images = (classes * per_class if per_class else published) * _part(of.settings, classes)
        if isinstance(augmentation, Augmentation) and augmentation.joined:
            images *= 2
        seconds += of.settings.epochs * ceil(images / batch) * step_seconds(batch * of.views * passes)
    return seconds / 3600


def _part(settings: TrainSettings, classes: int) -> float:
    """Return which part of the training images is used with a share or a long tail, about; 1 without either."""
    if settings.long_tail:
        return sum(settings.long_tail ** (-k / max(1, classes - 1)) for k in range(classes)) / classes
    return settings.share or 1


def step_seconds(multiply_adds_of_step: float) -> float:
    """Estimate how many seconds a step with this number of multiply-adds takes."""
    return max(2 * multiply_adds_of_step / OPERATIONS_PER_SECOND, STEP_SECONDS)


@cache
def multiply_adds(network: str, classes: int, pixels: int, described: str = "{}") -> int:
    """Count a network's multiply-adds in the forward pass of one image; those of the zoo from shapes only.

    Args:
        network: its name.
        classes: of the data set.
        pixels: height and width of its images.
        described: the descriptions of networks that the preset names itself, as JSON.
    """
    import torch

    from kdcore import networks
    from kdcore.networks import cost

    named, stem = json.loads(described), "small" if pixels <= SMALL else "large"
    with torch.device("cpu" if network in named else "meta"):
        created = networks.create(network, classes, stem=stem, described=named)
    return cost.multiply_adds(created, pixels)


def difference(name: str) -> list[str]:
    """Compare params.yaml with a preset; returns the lines of a unified diff, which is empty if they are the same."""
    old, new = (path.read_text(encoding="utf-8") if path.exists() else "" for path in (PARAMS, _path(name)))
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), str(PARAMS), str(_path(name)), lineterm=""))


def install(name: str, *, force: bool) -> None:
    """Replace params.yaml by a preset.

    Args:
        name: one of `names()`.
        force: whether to replace a params.yaml whose changes are not committed, and would be lost.

    Raises:
        UserError: there are such changes, or git cannot tell, and `force` is False.
    """
    if PARAMS.exists() and not force:
        _check_committed()
    replace_text(PARAMS, _path(name).read_text(encoding="utf-8"))


def _check_committed() -> None:
    changed = git("status", "--porcelain", "--ignored", "--", str(PARAMS))
    if changed is None:
        raise UserError(
            f"{PARAMS}: git cannot tell here whether it has changes that would be lost; keep a copy of it, and add "
            "FORCE=1 to replace it"
        )
    if changed:
        raise UserError(
            f"{PARAMS}: has changes that are not committed and would be lost; commit them (git commit {PARAMS}), set "
            f"them aside (git stash push {PARAMS}), or add FORCE=1 to lose them"
        )


def _rounded(number: float | None) -> str:
    if number is None:
        return "?"
    return "< 0.1" if number < 0.05 else f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def _path(name: str) -> Path:
    return FOLDER / f"{name}.yaml"
