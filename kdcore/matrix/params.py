"""Read params.yaml into typed, validated objects. No other module reads that file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kdcore import catalog
from kdcore.matrix.axes import Axes
from kdcore.matrix.cell import BASE, Cell
from kdcore.matrix.data_section import Data
from kdcore.matrix.networks_section import NamedNetwork
from kdcore.matrix.networks_section import check_name as check_network_name
from kdcore.matrix.problems import DATA_OPTIONS, describe, explained
from kdcore.matrix.recipes import overridden
from kdcore.matrix.robustness_section import Robustness
from kdcore.matrix.section import Mean, Section, Std, Text
from kdcore.matrix.selector import Selector
from kdcore.matrix.tables_section import Diagnosed, TableOptions
from kdcore.matrix.train_card import cell_settings
from kdcore.matrix.train_recipe import Augmentation
from kdcore.matrix.train_section import Train, TrainSettings
from kdcore.matrix.transfer_section import TransferSections
from kdcore.matrix.tune_section import Tune
from kdcore.matrix.variants import Variant, check_base, check_name
from kdcore.system import workspace, yamlfile
from kdcore.system.errors import check_address, shown, suggest


def _check_network(name: str) -> str:
    catalog.check_known(name, catalog.network_names(), "network")
    return name


def _check_teacher_name(name: str) -> str:
    if not catalog.NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{shown(name)} must be a network, or a name of your own: lower-case letters, digits and _, a letter "
            f"first, at most {LONGEST_NAME} characters"
        )
    return name


def _check_no_share(top1: float) -> float:
    if 0 < top1 <= 1:
        raise ValueError(f"{top1:g}: is in percent: write {100 * top1:g}")
    return top1


MOST_CELLS = 100_000
AXES = ("pairs", "methods", "scales", "stand", "baselines", "variants", "seeds")
LONGEST_NAME = 64
Percent = Annotated[float, Field(ge=0, le=100), AfterValidator(_check_no_share)]
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
    """The checkpoint's path inside an archive; absent if `source` is the checkpoint itself."""
    sha256: Sha256 | None = None
    """The SHA-256 of the file at `source`. An address requires it; for a path it is computed if it is absent. With
    "published" it is that of the checkpoint, whichever source the checkpoint comes from.
    """
    otherwise: Literal["train"] | None = None
    """What to do if no source of a published teacher can be had: "train" trains it here; absent, the run stops."""
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
    """The deviation that goes with `mean`."""

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
        if self.train is not None and self.train.optimizer == "dot":
            raise ValueError("train.optimizer: a teacher is trained alone, which leaves dot nothing to tell apart; sgd")
        return self


def _names_in(content: Any) -> list[str]:
    """List the names in section `networks` of a params file, which is not checked yet."""
    named = content.get("networks") if isinstance(content, dict) else None
    return [name for name in named if isinstance(name, str)] if isinstance(named, dict) else []


class Params(Robustness, TransferSections, Axes):
    """All of params.yaml. The matrix is pairs x methods x scales x stand x variants x seeds and pairs x baselines x
    variants x seeds.
    """

    diagnostics: Diagnosed
    """Some of `pairs`, whose students are compared with their teacher beyond accuracy; empty compares none."""
    variants: Annotated[dict[Annotated[str, AfterValidator(check_name)], Variant], AfterValidator(check_base)]
    """An axis of the user's own: name -> changes of recipes and of training. `base: {}` changes nothing."""
    exclude: list[Selector] = Field(default_factory=list)
    """Names the cells that the matrix leaves out."""
    networks: dict[Annotated[str, AfterValidator(check_network_name)], NamedNetwork] = Field(default_factory=dict)
    """Networks that the zoo does not have, or not of this size, by names of the user's."""
    teachers: dict[Annotated[str, AfterValidator(_check_teacher_name)], Teacher]
    """Where each teacher's weights come from, by the name that pairs give it."""
    data: Data
    """The data set that teachers and students are trained and measured on."""
    train: Train
    """How students are trained."""
    stand_recipe: Literal["paper", "matched"]
    """What stand changes. paper: z-score, temperature and weight, as published. matched: only the z-score."""
    methods_config: dict[str, dict[str, Any]]
    """Values that override recipes: method -> parameter -> value. Those below pairs -> pair hold for that pair only,
    those below stand for standardised logits only.
    """
    tables: TableOptions
    """What the tables show."""
    tune: Tune | None = None
    """What `python -m stages.tune` searches; no stage depends on it."""

    @model_validator(mode="wrap")
    @classmethod
    def _knows_its_networks(cls, content: Any, handler: ModelWrapValidatorHandler["Params"]) -> "Params":
        """Let all sections name the networks of section `networks`; validators of the whole look there themselves."""
        with catalog.naming(_names_in(content)):
            return handler(content)

    @model_validator(mode="after")
    def _countable(self) -> "Params":
        axes = {axis: len(getattr(self, axis)) for axis in AXES}
        pairs, methods, scales, stand, baselines, variants, seeds = axes.values()
        cells = pairs * variants * seeds * (methods * scales * stand + baselines)
        if cells > MOST_CELLS:
            lengths = ", ".join(f"{count:,} {axis}" for axis, count in axes.items())
            raise ValueError(
                f"{lengths}: pairs x methods x scales x stand x variants x seeds and pairs x baselines x variants x "
                f"seeds make {cells:,} cells; at most {MOST_CELLS:,} are allowed; shorten an axis"
            )
        return self

    @model_validator(mode="after")
    def _teachers_have_networks(self) -> "Params":
        known = [*catalog.networks(), *self.networks]
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
                known = [*self.teachers, *catalog.networks(), *self.networks]
                hint, example = "", f"{teacher}: {{source: published}}"
                if teacher not in known:
                    hint, example = suggest(teacher, known), f"{teacher}: {{network: resnet20, source: published}}"
                raise ValueError(
                    f"pairs: {pair} needs the teacher {teacher}, which teachers does not list.{hint} "
                    f"Name another, or add for example 'teachers: {{{example}}}'"
                )
        return self

    def network_of(self, teacher: str) -> str:
        """The network of a teacher."""
        return self.teachers[teacher].network or teacher

    def published_as(self, teacher: str) -> str:
        """The name under which data/teachers.yaml may list a teacher's network: of one of the zoo, its name there."""
        network = self.network_of(teacher)
        return (network in self.networks and self.networks[network].zoo) or network

    @model_validator(mode="after")
    def _selectors_name_something(self) -> "Params":
        selectors = {f"exclude[{number}]": selector for number, selector in enumerate(self.exclude)}
        selectors |= {f"train.exceptions[{number}]": case for number, case in enumerate(self.train.exceptions)}
        selectors |= {f"variants.{name}.only": of.only for name, of in self.variants.items() if of.only is not None}
        for key, selector in selectors.items():
            try:
                with catalog.naming(self.networks):
                    selector.check_named(teachers=list(self.teachers), variants=list(self.variants))
            except ValueError as error:
                raise ValueError(f"{key}.{error}") from error
        return self

    @model_validator(mode="after")
    def _settings_fit(self) -> "Params":
        for cell in filter(self.is_declared, self.points()):
            variant = self.variants[cell.variant]
            try:
                self.settings(cell)
            except ValueError as error:
                problem = describe(error.errors()[0], "") if isinstance(error, ValidationError) else str(error)
                if variant.train and self._fits(replace(cell, variant=BASE)):
                    raise ValueError(f"variants.{cell.variant}.train.{problem.removeprefix('train.')}") from error
                raise ValueError(f"train.exceptions: of {cell.method} for {cell.pair}: {problem}") from error
        return self

    @model_validator(mode="after")
    def _crops_fit(self) -> "Params":
        if getattr(self.data, "augmentation", None) != "random_resized_crop" and self.data.name != "imagenet":
            return self
        of: dict[str, Any] = {"train": self.train.augmentation}
        of |= {f"train.exceptions[{number}]": case.augmentation for number, case in enumerate(self.train.exceptions)}
        of |= {f"teachers.{name}.train": one.train.augmentation for name, one in self.teachers.items() if one.train}
        for where, augmentation in of.items():
            if isinstance(augmentation, Augmentation) and augmentation.crop == "padded":
                raise ValueError(
                    f"{where}.augmentation.crop: padded: the images of {self.data.name} are decoded as they are "
                    "needed, at any size; remove it"
                )
        return self

    def _fits(self, cell: Cell) -> bool:
        try:
            self.settings(cell)
        except ValueError:
            return False
        return True

    def points(self) -> Iterator[Cell]:
        """Yield every point of the matrix in the order of the axes: first those of logit methods, then baselines. DVC
        has a stage for each of them.
        """
        named = {pair: self.teachers[pair.split("-")[0]].network for pair in self.pairs}
        for pair, method, scale, stand, variant, seed in product(
            self.pairs, self.methods, self.scales, self.stand, self.variants, self.seeds
        ):
            yield Cell(pair, method, seed, scale, stand, named[pair], variant)
        for pair, baseline, variant, seed in product(self.pairs, self.baselines, self.variants, self.seeds):
            yield Cell(pair, baseline, seed, named_network=named[pair], variant=variant)

    def cells(self) -> Iterator[Cell]:
        """Yield the points that are trained: those that the variant changes, and that `exclude` does not name."""
        return filter(self.is_trained, self.points())

    def is_declared(self, cell: Cell) -> bool:
        """Whether a point of the matrix is an experiment of its own, excluded or not: its variant is for it, and gives
        it a hyper-parameter that it uses, or training settings that take effect and differ.
        """
        variant = self.variants[cell.variant]
        if cell.variant == BASE or not variant.is_for(cell):
            return cell.variant == BASE
        return bool(overridden(cell, variant.recipes)) or (bool(variant.train) and self._is_trained_otherwise(cell))

    def _is_trained_otherwise(self, cell: Cell) -> bool:
        """Whether training settings that take effect differ from those of `BASE`, or contradict each other."""
        try:
            settings, base = (cell_settings(one, self.settings(one)) for one in (cell, replace(cell, variant=BASE)))
        except ValueError:
            return True
        return settings != base

    def is_trained(self, cell: Cell) -> bool:
        """Whether a point of the matrix is trained."""
        return self.is_declared(cell) and not any(selector.covers(cell) for selector in self.exclude)

    def settings(self, cell: Cell) -> TrainSettings:
        """Return how a cell is trained: by section `train`, its exceptions, and the changes of the cell's variant.

        Raises:
            ValueError: they contradict each other, or the method's views.
        """
        return self.train.of(cell, self.variants[cell.variant].train)


def network_names(file: str) -> list[str]:
    """List the names in section `networks` of a params file, which is not checked here."""
    return _names_in(yamlfile.read(file, bounded=True))


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
