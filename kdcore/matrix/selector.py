"""Name cells by their axes: for exceptions of training, for cells to leave out, and for where a variant applies."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator
from typing_extensions import Self

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.cell import Cell
from kdcore.matrix.section import Section
from kdcore.system.errors import shown


def _check_student(name: str) -> str:
    catalog.check_known(name, catalog.network_names(), "network")
    return name


def _check_method(name: str) -> str:
    catalog.terms(name)
    return name


def check_pair(pair: str) -> str:
    """Refuse what is no teacher-student; `Params` looks up the teacher."""
    catalog.check_pair(pair, [pair.partition("-")[0]])
    return pair


def _check_scale(scale: Any) -> Any:
    levels(scale)
    return scale


def _check_not_empty(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("is empty and names no cell; remove it, or name some")
    return values


Some = AfterValidator(_check_not_empty)
Scale = Annotated[int | str, BeforeValidator(_check_scale)]


class Selector(Section):
    """Names the cells that all of its keys name: `{methods: [rld], scales: [4]}` are RLD's cells with M=[1,2,4]."""

    pairs: Annotated[list[Annotated[str, AfterValidator(check_pair)]], Some] | None = None
    """Pairs, as `pairs` has them."""
    teachers: Annotated[list[str], Some] | None = None
    """Names of teachers, as `teachers` has them."""
    students: Annotated[list[Annotated[str, AfterValidator(_check_student)]], Some] | None = None
    """Networks of students."""
    methods: Annotated[list[Annotated[str, AfterValidator(_check_method)]], Some] | None = None
    """Methods, baselines and sums, as `methods` and `baselines` have them."""
    scales: Annotated[list[Scale], Some] | None = None
    """Baselines have no scale, so this names none of them; neither does `stand`."""
    stand: Annotated[list[bool], Some] | None = None
    """With standardised logits, or without."""
    variants: Annotated[list[str], Some] | None = None
    """Names of variants, `base` among them."""
    seeds: Annotated[list[int], Some] | None = None
    """Seeds of training."""

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if not any(getattr(self, key) for key in SELECTORS):
            raise ValueError(f"needs a selector, one or more of {', '.join(SELECTORS)}")
        return self

    def covers(self, cell: Cell) -> bool:
        """Whether all of its keys name this cell."""
        chosen: tuple[tuple[list[Any] | None, Any], ...] = (
            (self.pairs, cell.pair),
            (self.teachers, cell.teacher),
            (self.students, cell.student),
            (self.methods, cell.method),
            (self.stand, cell.stand),
            (self.variants, cell.variant),
            (self.seeds, cell.seed),
        )
        if not all(names is None or value in names for names, value in chosen):
            return False
        if self.scales is None:
            return True
        return cell.scale is not None and levels(cell.scale) in [levels(scale) for scale in self.scales]

    def check_named(self, *, teachers: list[str], variants: list[str]) -> None:
        """Refuse teachers and variants that params.yaml does not have; other names are checked when it is read.

        Args:
            teachers: the names that section `teachers` lists.
            variants: the names of the variants.

        Raises:
            ValueError: names the key and what there is.
        """
        for key, names, known in (("teachers", self.teachers, teachers), ("variants", self.variants, variants)):
            for name in names or []:
                if name not in known:
                    raise ValueError(f"{key}: {shown(name)} is none of section {key}: {', '.join(known)}")
        for pair in self.pairs or []:
            try:
                catalog.check_pair(pair, teachers)
            except ValueError as error:
                raise ValueError(f"pairs: {error}") from error


SELECTORS = tuple(Selector.model_fields)
"""The keys that name cells."""
