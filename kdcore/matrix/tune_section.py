"""Section `tune` of params.yaml: what `python -m stages.tune` searches, and on which part of the training images."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.problems import describe
from kdcore.matrix.section import Count, Fraction, Section, is_number
from kdcore.matrix.selector import Scale, check_pair
from kdcore.matrix.train_images import ImageKeys
from kdcore.matrix.train_section import TrainSettings
from kdcore.matrix.variants import LONGEST_NAME, Variant, check_name
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown, suggest

if TYPE_CHECKING:
    from kdcore.matrix.params import Params

PREFIX = "tuned_"
"""Begins the name of the variant that holds the best values of a search."""
FORMS = "[low, high], log [low, high], or one of [a, b]"
EXAMPLE = (
    "tune: {pairs: [resnet20-resnet8], method: kd, space: {kd.temperature: [1, 8], train.lr: 'log [0.005, 0.1]'}, "
    "trials: 30, validation: 0.1, pruner: median}"
)
INTEGERS = ("batch_size", "per_class", "warmup_epochs")
"""Settings of training whose ranges hold whole numbers."""
FIXED = ("epochs", "exceptions", "milestones", "threads", "betas", "evaluate_every", *ImageKeys.model_fields)
"""Settings of training that no search chooses: the budget and the regime of training data, which are every trial's,
what is no single value, and what changes no weight.
"""
DIGITS = 3
"""Significant digits of a value of a range. It is rounded before it is tried, so that the best is what was tried."""
MOST_CORNERS = 256
"""How many combinations of the ends of the settings of training are checked before a search."""
_FORM = re.compile(r"(?P<kind>log|one of)\s*(?P<values>\[.*\])", re.DOTALL)
Content = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """The values that one parameter may have: a range, evenly or on a logarithmic scale, or choices."""

    low: float = 0
    high: float = 0
    is_log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Both ends of a range, or all choices."""
        return self.choices or (self.low, self.high)

    def rounded(self, value: Any) -> Any:
        """Return the value that is tried where the search asks for one; it stays within the range."""
        if self.choices or isinstance(value, int):
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), float(self.low)), float(self.high))

    def __str__(self) -> str:
        """Write it as params.yaml has it."""
        if self.choices:
            return f"one of [{', '.join(map(str, self.choices))}]"
        return f"{'log ' if self.is_log else ''}[{self.low}, {self.high}]"


def dimension(given: Any) -> Dimension:
    """Read what section `space` gives a parameter.

    Raises:
        ValueError: it is of none of the `FORMS`, or holds no value.
    """
    found = _FORM.fullmatch(given.strip()) if isinstance(given, str) else None
    values = given
    if found is not None:
        try:
            values = yamlfile.parse(f"values: {found['values']}", "space")["values"]
        except UserError as error:
            raise ValueError(f"{shown(given)}: must be {FORMS}") from error
    if found is not None and found["kind"] == "one of":
        return _choices(values, given)
    if not isinstance(values, list) or len(values) != 2 or not all(is_number(value, int | float) for value in values):
        raise ValueError(f"{shown(given)}: must be {FORMS}, with two numbers for low and high")
    low, high = values
    if not low < high:
        raise ValueError(f"{shown(given)}: the low end must be below the high end; swap them, or write one of [{low}]")
    if found is not None and low <= 0:
        raise ValueError(f"{shown(given)}: a logarithmic range must begin above 0; raise {low}, or leave out log")
    return Dimension(low, high, is_log=found is not None)


def _choices(values: list[Any], given: Any) -> Dimension:
    if not values:
        raise ValueError(f"{shown(given)}: holds no choice; write at least one")
    if not all(isinstance(value, bool | int | float | str) for value in values):
        raise ValueError(f"{shown(given)}: choices must be numbers, words, true or false")
    if len({repr(value) for value in values}) < len(values):
        raise ValueError(f"{shown(given)}: names a choice more than once; keep one of each")
    return Dimension(choices=tuple(values))


def _check_space(space: dict[str, Any]) -> dict[str, Any]:
    if not space:
        raise ValueError("is empty; name a parameter, for example kd.temperature: [1, 8]")
    return space


def _check_method(name: str) -> str:
    if not catalog.terms(name):
        raise ValueError(f"{name}: distils nothing, and has no hyper-parameter to search; name a method")
    return name


def _check_pairs(pairs: list[str]) -> list[str]:
    if not pairs or len(set(pairs)) < len(pairs):
        raise ValueError(f"{shown(pairs)}: must name one pair of the matrix or several, each once")
    return pairs


class Tune(Section):
    """Section `tune`: one search. Stage plan makes nothing of it, so nothing becomes stale by it."""

    pairs: Annotated[list[Annotated[str, AfterValidator(check_pair)]], AfterValidator(_check_pairs)]
    """A trial's score is the mean over these pairs and over `seeds`."""
    method: Annotated[str, AfterValidator(_check_method)]
    """The method, or sum, whose parameters are searched."""
    scale: Scale | None = None
    """SDD's M, as in section `scales`; absent, 1 for a logit method. Feature methods have none."""
    stand: bool | None = None
    """Whether logits are standardised; absent, they are not. Feature methods have none."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] = Field(default=[0])
    """Every trial is trained with each of these seeds."""
    space: Annotated[dict[str, Annotated[Any, AfterValidator(dimension)]], AfterValidator(_check_space)]
    """The parameters that are searched: `<method>.<parameter>` or `train.<setting>` -> its range, `[1, 8]` or
    `log [0.01, 0.1]`, or its choices, `one of [a, b]`.
    """
    trials: Count
    """How many trials there are in all, those included that were stopped early or diverged."""
    validation: Fraction | None = None
    """The share of the training images of every class that scores trials, where `data.validation` keeps none."""
    pruner: Literal["median", "none"]
    """median: a trial ends early that is worse after an epoch than half of those before it. none: no trial does."""
    name: Annotated[str, AfterValidator(check_name)] | None = None
    """The name of the study; absent, the method's."""

    @model_validator(mode="after")
    def _fits(self) -> "Tune":
        if catalog.kind(self.method) == "feature" and not (self.scale is None and self.stand is None):
            raise ValueError(f"{self.method} is a feature method and takes neither scale nor stand; remove them")
        if len(self.variant) > LONGEST_NAME:
            raise ValueError(f"name: {self.study}: is too long; at most {LONGEST_NAME - len(PREFIX)} characters")
        return self

    @property
    def study(self) -> str:
        """The name of the study, and of its folder in scratch/tune."""
        return self.name or self.method.replace(catalog.PLUS, "_")

    @property
    def variant(self) -> str:
        """The name of the variant that will hold the best values."""
        return f"{PREFIX}{self.study}"

    @property
    def axes(self) -> tuple[int | str | None, bool | None]:
        """Scale and stand of its cells."""
        if catalog.kind(self.method) == "feature":
            return None, None
        return 1 if self.scale is None else self.scale, bool(self.stand)

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The space, as typed."""
        return dict(self.space)

    def cells(self, variant: str, params: "Params") -> list[Cell]:
        """List the cells that one trial trains."""
        scale, stand = self.axes
        return [
            Cell(pair, self.method, seed, scale, stand, params.teachers[pair.split("-")[0]].network, variant)
            for pair, seed in product(self.pairs, self.seeds)
        ]

    def only(self) -> Content:
        """Return the selector of the cells that the best values are for."""
        scale, stand = self.axes
        rows = {} if scale is None else {"scales": [scale], "stand": [stand]}
        return {"pairs": self.pairs, "methods": [self.method], **rows}

    def is_integer(self, key: str) -> bool:
        """Whether the range of a parameter holds whole numbers only."""
        owner, parameter = split(key)
        if owner == "train":
            return parameter in INTEGERS
        return str(recipes.domains(owner)[parameter]).startswith("integer")


def split(key: str) -> tuple[str, str]:
    """Split a key of the space: "crd+kd.kd.temperature" -> ("crd+kd", "kd.temperature")."""
    owner, _, parameter = key.partition(".")
    return owner, parameter


def content(values: Content) -> Content:
    """Return values as a variant has them: {"kd.temperature": 2} -> {"kd": {"temperature": 2}}."""
    nested: Content = {}
    for key, value in values.items():
        inner = nested
        *above, last = key.split(".")
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def check(tune: Tune, params: "Params", file: str = "params.yaml") -> None:
    """Refuse a search that contradicts its matrix, or the domains of the parameters.

    Args:
        tune: the section.
        params: the matrix that it stands beside.
        file: the file of both, for messages.

    Raises:
        UserError: names the key, its value, and what to do.
    """
    where = f"{file}: tune"
    _check_matrix(tune, params, where)
    _check_not_excluded(tune, params, where)
    for key, found in tune.dimensions.items():
        _check_dimension(tune, key, found, f"{where}.space")
    _check_training(tune, params, f"{where}.space")
    check_replaceable(tune, params, file)


def check_replaceable(tune: Tune, params: "Params", file: str = "params.yaml") -> None:
    """Refuse to write the best values over a variant that another hand has written.

    Raises:
        UserError: there is such a variant.
    """
    there = params.variants.get(tune.variant)
    if there is not None and there.tuned != tune.study:
        raise UserError(
            f"{file}: variants.{tune.variant}: is there already, and was not written by this search; rename that "
            "variant, or give the search another tune.name"
        )


def _check_matrix(tune: Tune, params: "Params", where: str) -> None:
    for pair in tune.pairs:
        if pair not in params.pairs:
            raise UserError(f"{where}.pairs: {pair} is no pair of the matrix; name some of {', '.join(params.pairs)}")
    scale, stand = tune.axes
    section = "baselines" if scale is None else "methods"
    if tune.method not in getattr(params, section):
        raise UserError(f"{where}.method: {tune.method} is not in section {section}; add it there, or name another")
    if scale is not None and levels(scale) not in [levels(other) for other in params.scales]:
        raise UserError(f"{where}.scale: {scale} is not in section scales; add it there, or choose {params.scales}")
    if stand is not None and stand not in params.stand:
        raise UserError(f"{where}.stand: {str(stand).lower()} is not in section stand; add it there, or change it")
    if params.data.validation is not None and tune.validation is not None:
        raise UserError(
            f"{where}.validation: {tune.validation}: data.validation ({params.data.validation}) keeps validation "
            "images already, and they are used; remove one of the two"
        )
    if params.data.validation is None and tune.validation is None:
        raise UserError(
            f"{where}.validation: is missing; give the share of the training images that scores trials, for example "
            "0.1, or set data.validation"
        )


def _check_not_excluded(tune: Tune, params: "Params", where: str) -> None:
    scale, stand = tune.axes
    cells = [Cell(pair, tune.method, seed, scale, stand) for pair in tune.pairs for seed in params.seeds]
    if all(any(selector.covers(cell) for selector in params.exclude) for cell in cells):
        raise UserError(
            f"{where}: exclude leaves out all cells of {tune.method} that the values would be for; lift it, or search "
            "for others"
        )


def _check_dimension(tune: Tune, key: str, found: Dimension, where: str) -> None:
    """Refuse a parameter that the search's cells do not use, and ends or choices outside its domain."""
    owner, parameter = split(key)
    names = [tune.method, *(entry.name for entry in catalog.terms(tune.method))]
    if owner not in ("train", *names) or not parameter:
        allowed = ", ".join(f"{name}.<parameter>" for name in dict.fromkeys(names))
        raise UserError(f"{where}.{key}: unknown parameter. Allowed: {allowed}, train.<setting>")
    if owner == "train":
        known = [name for name in TrainSettings.model_fields if name not in FIXED]
        if parameter not in known:
            hint = suggest(parameter, known)
            raise UserError(f"{where}.{key}: no search can choose this.{hint} Allowed: train. and {', '.join(known)}")
        domain: Any = ""
    else:
        allowed_values = recipes.domains(owner)
        if parameter not in allowed_values:
            hint = suggest(parameter, allowed_values)
            raise UserError(f"{where}.{key}: unknown parameter.{hint} Allowed: {', '.join(allowed_values)}")
        domain = allowed_values[parameter]
    if isinstance(domain, list) and not found.choices:
        raise UserError(f"{where}.{key}: {found}: has no range; write one of [{', '.join(map(str, domain))}]")
    if not found.choices and tune.is_integer(key) and not all(isinstance(end, int) for end in found.ends):
        raise UserError(f"{where}.{key}: {found}: holds whole numbers; write both ends as such")
    for end in found.ends if owner != "train" else ():
        recipes.check_overrides(content({key: end}), where)
    _check_effect(tune, key, found, where)


def _check_effect(tune: Tune, key: str, found: Dimension, where: str) -> None:
    scale, stand = tune.axes
    cell = Cell(tune.pairs[0], tune.method, 0, scale, stand)
    variant = Variant.model_validate(content({key: found.ends[0]}))
    if not variant.train and not recipes.overridden(cell, variant.recipes):
        needs = " (regions need tune.scale, such as 2)" if scale == 1 else ""
        raise UserError(f"{where}.{key}: changes nothing of {tune.method} here{needs}; remove it")


def _check_training(tune: Tune, params: "Params", where: str) -> None:
    """Refuse settings of training that contradict their domain or each other, at all combinations of their ends."""
    searched = {key: found for key, found in tune.dimensions.items() if split(key)[0] == "train"}
    for values in islice(product(*(found.ends for found in searched.values())), MOST_CORNERS):
        changes = {split(key)[1]: value for key, value in zip(searched, values, strict=True)}
        for cell in tune.cells("base", params):
            try:
                params.train.of(cell, changes)
            except ValidationError as error:
                problems = list(_problems(error, changes))
                raise UserError(f"{where}.train.{problems[0]}; correct the range or the choices") from error
            except ValueError as error:
                raise UserError(f"{where}.train: with {shown(changes)}: {error}") from error


def _problems(error: ValidationError, changes: Content) -> Iterator[str]:
    for problem in error.errors():
        text = describe(problem, "")
        yield text if text.split(":")[0] in changes else f"*: with {shown(changes)}: {text}"
