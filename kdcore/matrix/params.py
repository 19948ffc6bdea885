"""Read params.yaml into typed, validated objects. No other module reads that file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.cell import Cell
from kdcore.matrix.data_section import KNOWN, OWN, Data
from kdcore.matrix.section import Mean, Section, Std, Text
from kdcore.matrix.train_section import Train, TrainSettings
from kdcore.system import workspace, yamlfile
from kdcore.system.errors import SHOWN, UserError, check_address, named, shown, suggest


def of_kind(kind: str) -> AfterValidator:
    """Make a validator that accepts only methods of one kind ("logit" or "feature"), and sums of that kind."""

    def check(name: str) -> str:
        catalog.check_method(name, kind)
        return name

    return AfterValidator(check)


def _check_network(name: str) -> str:
    catalog.check_known(name, list(catalog.networks()), "network")
    return name


def _check_teacher_name(name: str) -> str:
    if not catalog.NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{shown(name)} must be a network, or a name of your own: lower-case letters, digits and _, a letter "
            f"first, at most {LONGEST_NAME} characters"
        )
    return name


def _check_pair(pair: str) -> str:
    catalog.check_pair(pair, [pair.partition("-")[0]])  # its teacher is looked up in `Params`
    return pair


def _check_scale(scale: Any) -> Any:
    levels(scale)
    return scale


def _check_axis(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("is empty; an axis of the matrix needs at least one value")
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"names {', '.join(twice[:5])} more than once; keep one of each")
    return values


def _check_scales(scales: list[int | str]) -> list[int | str]:
    named: dict[tuple[int, ...], int | str] = {}
    for scale in scales:
        other = named.setdefault(levels(scale), scale)
        if other is not scale:
            raise ValueError(f"{other!r} and {scale!r} are the same set of levels")
    return scales


TAGS = ("int", "str", OWN, *KNOWN)
"""What pydantic puts into the path of a problem beside keys: the member of a union that it tried."""
DATA_OPTIONS = MappingProxyType({"name": "--dataset", "source": "--source", "image_size": "--image-size"})
"""Key of section data -> its option, for commands that measure."""
MOST_CELLS = 100_000
LONGEST_NAME = 64
MOST_PROBLEMS = 20
"""The most problems that one message lists."""
Axis = AfterValidator(_check_axis)
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _check_no_slip(source: str) -> str:
    known = ("train", "published")
    hint = suggest(source, known)
    if hint and source not in known and not workspace.find(source).exists():
        raise ValueError(f"{shown(source)}: there is no such file.{hint}")
    return source


OF_CHECKPOINTS = ("sha256", "member", "published_top1", "weights_key", "rename", "mean", "std")
"""The keys of a teacher that only a checkpoint has."""


class Teacher(Section):
    """Where a teacher's weights come from, and how it is trained if it is trained here."""

    network: Annotated[str, AfterValidator(_check_network)] | None = None
    """The teacher's network; if absent, the teacher's name is that of its network."""
    source: Annotated[Text, AfterValidator(_check_no_slip)]
    """ "train": it is trained here. "published": it is one that data/teachers.yaml lists. Other values are the path or
    http(s) address of a checkpoint, or of an archive that holds it.
    """
    member: Text | None = None
    """The checkpoint's path inside an archive; None if `source` is the checkpoint itself."""
    sha256: Sha256 | None = None
    """The SHA-256 of the file at `source`. An address requires it; for a path it is computed if it is absent. With
    "published" it is that of the checkpoint, whichever source the checkpoint comes from.
    """
    otherwise: Literal["train"] | None = None
    """What to do if no source of a published teacher can be had: "train" trains it here, None stops with an error."""
    train: TrainSettings | None = None
    """How the teacher is trained, for source train and otherwise: train. Section `train` has no effect on it."""
    published_top1: Percent | None = None
    """The published top-1 accuracy, in percent; if absent, the one that data/teachers.yaml lists for the network. Where
    that is not known either, a checkpoint is measured and taken with a warning.
    """
    weights_key: Text | None = None
    """Names the state dict that is meant, where a checkpoint holds several: "ema", or "state_dict/student." """
    rename: dict[Text, Text] | None = None
    """The name of a part of the network in a checkpoint -> its name in our network, such as {linear: fc}."""
    mean: Mean | None = None
    """The mean that a checkpoint was trained with, if it is not that of the data set; needs `std` too."""
    std: Std | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Teacher":
        given = [key for key in OF_CHECKPOINTS if getattr(self, key) is not None]
        if self.source == "train" and given:
            raise ValueError(f"source train takes no {', '.join(given)}: that is for checkpoints; remove it")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both, or none")
        if self.source != "published" and self.otherwise:
            raise ValueError(f"otherwise is for source published, not for {self.source}")
        if self.source == "published" and self.member:
            raise ValueError("member is for the path or address of an archive; source published knows its own")
        if "://" in self.source:
            check_address(self.source)
            if self.sha256 is None:
                raise ValueError(f"source {shown(self.source)} is an address and needs the file's sha256")
        return self

    @model_validator(mode="after")
    def _trained_by_its_own_settings(self) -> "Teacher":
        if "train" in (self.source, self.otherwise) and self.train is None:
            raise ValueError(
                "is trained here and needs settings of its own (section train is for students): add for example "
                "train: {epochs: 240, batch_size: 64, lr: 0.05, milestones: [150, 180, 210], lr_decay: 0.1}"
            )
        if "train" not in (self.source, self.otherwise) and self.train is not None:
            raise ValueError("train is for source train and for otherwise: train; a checkpoint is not trained")
        if self.train is not None and self.train.optimizer != "sgd":
            raise ValueError("train.optimizer: a teacher is trained alone, which leaves dot nothing to tell apart; sgd")
        return self


class TableOptions(Section):
    """Section `tables` of params.yaml: what the result tables show."""

    accuracy: Literal["top1", "top1_best"]
    """top1 is the accuracy after the last epoch; top1_best is that of the best epoch, chosen on the test images."""


class Params(Section):
    """All of params.yaml. The matrix is pairs x methods x scales x stand x seeds and pairs x baselines x seeds."""

    pairs: Annotated[list[Annotated[str, AfterValidator(_check_pair)]], Axis]
    methods: Annotated[list[Annotated[str, of_kind("logit")]], Axis]
    scales: Annotated[list[Annotated[int | str, BeforeValidator(_check_scale)]], Axis, AfterValidator(_check_scales)]
    stand: Annotated[list[bool], Axis]
    baselines: Annotated[list[Annotated[str, of_kind("feature")]], Axis]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Axis]
    teachers: dict[Annotated[str, AfterValidator(_check_teacher_name)], Teacher]
    data: Data
    train: Train
    stand_recipe: Literal["paper", "matched"]
    """What stand changes. paper: z-score, temperature and weight, as published. matched: only the z-score."""
    methods_config: dict[str, dict[str, Any]]
    """Values that override recipes: method -> parameter -> value. Those below pairs -> pair hold for that pair only,
    those below stand for standardised logits only.
    """
    tables: TableOptions

    @model_validator(mode="after")
    def _countable(self) -> "Params":
        axes = {
            axis: len(getattr(self, axis)) for axis in ("pairs", "methods", "scales", "stand", "baselines", "seeds")
        }
        pairs, methods, scales, stand, baselines, seeds = axes.values()
        cells = pairs * seeds * (methods * scales * stand + baselines)
        if cells > MOST_CELLS:
            lengths = ", ".join(f"{count:,} {axis}" for axis, count in axes.items())
            raise ValueError(
                f"{lengths}: pairs x methods x scales x stand x seeds and pairs x baselines x seeds make {cells:,} "
                f"cells; at most {MOST_CELLS:,} are allowed; shorten an axis"
            )
        return self

    @model_validator(mode="after")
    def _teachers_have_networks(self) -> "Params":
        known = list(catalog.networks())
        for name, teacher in self.teachers.items():
            if teacher.network is None and name not in known:
                raise ValueError(
                    f"teachers.{name}: unknown network {shown(name)}.{suggest(name, known)} A teacher with a name of "
                    f"its own needs a network, for example {name}: {{network: resnet20, ...}}. "
                    f"Networks: {', '.join(known)}"
                )
            if name in known and teacher.network not in (None, name):
                raise ValueError(
                    f"teachers.{name}.network: {teacher.network}: {name} is a network itself; give the teacher another "
                    f"name, for example {teacher.network}_of_mine"
                )
        return self

    @model_validator(mode="after")
    def _teachers_listed(self) -> "Params":
        for pair in self.pairs:
            teacher = pair.split("-")[0]
            if teacher not in self.teachers:
                known = [*self.teachers, *catalog.networks()]
                hint, example = "", f"{teacher}: {{source: published}}"
                if teacher not in known:
                    hint, example = suggest(teacher, known), f"{teacher}: {{network: resnet20, source: published}}"
                raise ValueError(
                    f"pairs: {pair} needs the teacher {teacher}, which teachers does not list.{hint} "
                    f"Name another, or add for example 'teachers: {{{example}}}'"
                )
        for number, exception in enumerate(self.train.exceptions):
            for pair in exception.pairs or []:
                try:
                    catalog.check_pair(pair, self.teachers)
                except ValueError as error:
                    raise ValueError(f"train.exceptions[{number}].pairs: {error}") from error
        return self

    def network_of(self, teacher: str) -> str:
        """The network of a teacher."""
        return self.teachers[teacher].network or teacher

    @model_validator(mode="after")
    def _exceptions_fit(self) -> "Params":
        runs = [
            (f"{method} for {pair}", {"student": pair.split("-")[1], "method": method, "pair": pair})
            for pair, method in product(self.pairs, [*self.methods, *self.baselines])
        ]
        for what, run in runs:
            try:
                self.train.of(**run)
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"train.exceptions: of {what}: {message}") from error
        return self

    def cells(self) -> Iterator[Cell]:
        """Yield every cell of the matrix in the order of the axes: first those of logit methods, then baselines."""
        named = {pair: self.teachers[pair.split("-")[0]].network for pair in self.pairs}
        for pair, method, scale, stand, seed in product(self.pairs, self.methods, self.scales, self.stand, self.seeds):
            yield Cell(pair, method, seed, scale, stand, named[pair])
        for pair, baseline, seed in product(self.pairs, self.baselines, self.seeds):
            yield Cell(pair, baseline, seed, named_network=named[pair])


def load(
    path: Path | str = "params.yaml", *, options: Mapping[str, str] = MappingProxyType({}), **changes: Any
) -> Params:
    """Read and validate a params file.

    Args:
        path: path of the file.
        options: section -> the command line's option that it comes from, for messages.
        changes: sections that replace those of the file.

    Raises:
        UserError: lists the problems, each with its key, its value and what is allowed.
    """
    content = {**yamlfile.read(path, bounded=True), **changes}
    with explained(f"{path} with other {', '.join(changes)}" if changes else str(path), options):
        return Params.model_validate(content)


def data_section(**values: Any) -> dict[str, Any]:
    """Validate values from a command line as section `data` of params.yaml.

    Raises:
        UserError: lists the problems, as `load` does.
    """
    with explained("--dataset, --source", DATA_OPTIONS):
        return TypeAdapter(Data).validate_python(values).model_dump()


@contextmanager
def explained(where: str, options: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Turn pydantic's validation error inside the block into a `UserError` in our own words.

    Args:
        where: the file or the options that hold the values, for messages.
        options: key -> the command line's option that it comes from, which messages name instead.

    Raises:
        UserError: lists up to `MOST_PROBLEMS` problems, and how many more there are.
    """
    try:
        yield
    except ValidationError as error:
        problems = list(dict.fromkeys(_located(problem, where, options) for problem in error.errors()))
        more = len(problems) - MOST_PROBLEMS
        rest = [f"and {more:,} more"] if more > 0 else []
        raise UserError("\n".join([*problems[:MOST_PROBLEMS], *rest])) from error


def _located(problem: Any, where: str, options: Mapping[str, str]) -> str:
    """Describe a problem, and where it is: in a file, or in an option of the command line."""
    first = str(next((part for part in problem["loc"] if part not in TAGS), ""))
    if first not in options:
        no_option = "; there is no option for it: name a params file that has it with --params"
        is_missing = problem["type"] == "missing" and options is DATA_OPTIONS
        return f"{where}: {first}: is missing{no_option}" if is_missing else f"{where}: {_describe(problem)}"
    if problem["type"] == "extra_forbidden":
        return f"{options[first]} {shown(problem['input'])}: this data set takes none; leave it out"
    return f"{options[first]}: {_describe({**problem, 'loc': ()})}"


def _as_list(key: str, given: Any) -> str:
    """Say how a list is written: with this value, and behind -S too, where it is one line of text."""
    text = json.dumps(given) if isinstance(given, bool) else str(given)
    if not isinstance(given, bool | int | float | str) or len(text) > SHOWN or not text.isprintable() or not text:
        return " ([a, b, ...])"
    is_set_by_s = key.partition(".")[0] in Params.model_fields and "[" not in key
    behind_s = f" (-S '{key}=[{text}]')" if is_set_by_s else ""
    name = key.rpartition(".")[2]
    return f"; write {name}{': ' if name else ''}[{text}]{behind_s}"


def _describe(problem: Any) -> str:
    key = ""
    for part in problem["loc"]:
        if part not in TAGS:
            key += f"[{part}]" if isinstance(part, int) else f".{named(part)}" if key else named(part)
    key = key.removesuffix(".[key]")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown key; remove it or correct its name"
    elif problem["type"] == "missing":
        message = "is missing; give it a value"
    elif problem["type"] in ("dict_type", "model_type"):
        message = f"{shown(problem['input'])}: must be keys and values (key: value)"
    elif problem["type"] == "list_type":
        message = f"{shown(problem['input'])}: must be a list{_as_list(key, problem['input'])}"
    elif problem["type"] != "value_error":
        message = f"{shown(problem['input'])}: {message}"
    return f"{key}: {message}" if key else message
