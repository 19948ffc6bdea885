"""Published accuracies, to print beside the measured ones (data/published.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from kdcore.matrix.params import Percent
from kdcore.matrix.problems import explained
from kdcore.matrix.section import Count, Section, Text
from kdcore.system.errors import UserError, named, shown

FILE = "data/published.yaml"
TRANSFER = "data/published_transfer.yaml"
"""The same for linear probes, by <data set>_to_<data set of the probes>."""
SGD, DOT = "sgd", "dot"
"""Only DOT is part of an experiment; records that name no optimiser are of what their publication trains with."""


class Source(Section):
    """A publication."""

    title: Text
    file: Text
    """Where its figures can be read."""
    protocol: Text
    """Which epoch the figures are of, and how many runs they average."""
    runs: Count = 1
    doubt: Text | None = None
    """Why all its figures may be wrong."""


class _Sources(Section):
    sources: dict[str, Source]


class _Record(Section):
    """An experiment and its published accuracy, as data/published.yaml has them."""

    teacher: Text | None
    student: Text
    method: Text
    levels: Annotated[list[Count], Field(min_length=1)] | None = None
    stand: bool | None = None
    optimizer: Literal["sgd", "dot"] = "sgd"
    values: Annotated[dict[Text, float | int | bool | str], Field(min_length=1)] | None = None
    """Values of the recipe that are not the method's own ones, as in ablations: {complementary_weight: 4}."""
    top1: Percent
    source: Text
    note: Text | None = None
    doubt: Text | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Key of the experiment in `Published.figures`."""
        return _key(
            self.teacher,
            self.student,
            self.method,
            self.levels,
            self.stand,
            optimizer=self.optimizer,
            values=self.values or {},
        )


_RECORDS = TypeAdapter(list[_Record])


@dataclass(frozen=True)
class Figure:
    """One published accuracy."""

    top1: float
    """Percent."""
    source: str
    """Key of `Published.sources`."""
    note: str | None = None
    """Where in the source it is printed."""
    runs: int = 1
    """How many runs it averages; 1 where the source does not say."""
    doubt: str | None = None
    """Why it may be wrong: its own source or another one contradicts it, or all figures of its source are doubtful."""


@dataclass(frozen=True)
class Published:
    """The figures of one data set."""

    figures: dict[tuple[Any, ...], Figure]
    sources: dict[str, Source]

    @classmethod
    def of(cls, content: dict[str, Any], dataset: str, file: str = FILE) -> "Published":
        """Take the figures of a data set from the content of data/published.yaml, or of `file`; there may be none.

        Raises:
            UserError: the content is wrong (see `check`).
        """
        sources, records = _checked(content, file)
        figures = {}
        for record in records.get(dataset, []):
            source = sources[record.source]
            doubt = record.doubt or source.doubt
            figures[record.key] = Figure(record.top1, record.source, record.note, source.runs, doubt)
        return cls(figures, sources)

    def find(
        self,
        teacher: str | None,
        student: str,
        method: str,
        levels: list[int] | None = None,
        stand: bool | None = None,
        *,
        optimizer: str = SGD,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Figure | None:
        """Find the figure of one experiment; `teacher` is None for a network trained alone, and `values` are those of
        the recipe that are not the method's own ones. All optimisers but DOT count as SGD.
        """
        optimizer = DOT if optimizer == DOT else SGD
        return self.figures.get(_key(teacher, student, method, levels, stand, optimizer=optimizer, values=values))


def check(content: dict[str, Any], file: str = FILE) -> None:
    """Refuse a data/published.yaml, or a `file` of its form, with unknown keys, wrong values, or two figures of one
    experiment.

    Raises:
        UserError: lists the problems of the sources, or of the first data set that has some.
    """
    _checked(content, file)


def _checked(content: dict[str, Any], file: str) -> tuple[dict[str, Source], dict[str, list[_Record]]]:
    """Validate the content; returns the sources, and the records of every data set."""
    datasets = dict(content)
    with explained(file):
        sources = _Sources.model_validate({"sources": datasets.pop("sources")} if "sources" in content else {}).sources
    return sources, {name: _records(name, records, sources, file) for name, records in datasets.items()}


def _records(dataset: str, content: Any, sources: dict[str, Source], file: str) -> list[_Record]:
    where = f"{file}: {named(dataset)}"
    with explained(where):
        records = _RECORDS.validate_python(content)
    seen: dict[tuple[Any, ...], int] = {}
    for number, record in enumerate(records):
        if record.source not in sources:
            known = ", ".join(sources) or "none"
            raise UserError(
                f"{where}: [{number}].source: {shown(record.source)} is not among the sources ({known}); add it there"
            )
        first = seen.setdefault(record.key, number)
        if first != number:
            what = f"{record.teacher or 'no teacher'}, {record.student}, {record.method}"
            raise UserError(f"{where}: [{first}] and [{number}] are of one experiment ({what}); keep only one of them")
    return records


def _key(
    teacher: str | None,
    student: str,
    method: str,
    levels: list[int] | None,
    stand: bool | None,
    *,
    optimizer: str,
    values: Mapping[str, Any],
) -> tuple[Any, ...]:
    key = teacher, student, method, tuple(levels or ()), stand, optimizer
    return (*key, frozenset(values.items())) if values else key
