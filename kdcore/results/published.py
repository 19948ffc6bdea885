"""Published accuracies, to print beside the measured ones (data/published.yaml)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from kdcore.matrix.params import Percent, explained
from kdcore.matrix.section import Count, Section, Text
from kdcore.system.errors import UserError, named, shown

FILE = "data/published.yaml"
SGD = "sgd"
"""The optimiser of records that name none."""


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
    top1: Percent
    source: Text
    note: Text | None = None
    doubt: Text | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Key of the experiment in `Published.figures`."""
        return _key(self.teacher, self.student, self.method, self.levels, self.stand, optimizer=self.optimizer)


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
    """Why it may be wrong, where its own source or another one contradicts it."""


@dataclass(frozen=True)
class Published:
    """The figures of one data set."""

    figures: dict[tuple[Any, ...], Figure]
    sources: dict[str, Source]

    @classmethod
    def of(cls, content: dict[str, Any], dataset: str) -> "Published":
        """Take the figures of a data set from the content of data/published.yaml; there may be none.

        Raises:
            UserError: the content is wrong (see `check`).
        """
        sources, records = _checked(content)
        figures = {
            record.key: Figure(record.top1, record.source, record.note, sources[record.source].runs, record.doubt)
            for record in records.get(dataset, [])
        }
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
    ) -> Figure | None:
        """Find the figure of one experiment; `teacher` is None for a network trained alone."""
        return self.figures.get(_key(teacher, student, method, levels, stand, optimizer=optimizer))


def check(content: dict[str, Any]) -> None:
    """Refuse a data/published.yaml with unknown keys, wrong values, or two figures of one experiment.

    Raises:
        UserError: lists the problems of the sources, or of the first data set that has some.
    """
    _checked(content)


def _checked(content: dict[str, Any]) -> tuple[dict[str, Source], dict[str, list[_Record]]]:
    """Validate the content; returns the sources, and the records of every data set."""
    datasets = dict(content)
    with explained(FILE):
        sources = _Sources.model_validate({"sources": datasets.pop("sources")} if "sources" in content else {}).sources
    return sources, {name: _records(name, records, sources) for name, records in datasets.items()}


def _records(dataset: str, content: Any, sources: dict[str, Source]) -> list[_Record]:
    where = f"{FILE}: {named(dataset)}"
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
    teacher: str | None, student: str, method: str, levels: list[int] | None, stand: bool | None, *, optimizer: str
) -> tuple[Any, ...]:
    return teacher, student, method, tuple(levels or ()), stand, optimizer
