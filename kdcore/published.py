"""Published figures, to print beside the measured ones (data/published.yaml)."""

from dataclasses import dataclass
from typing import Any

SGD = "sgd"
"""The optimiser of figures that name none."""


@dataclass(frozen=True)
class Figure:
    """One published accuracy."""

    top1: float
    """Percent."""
    source: str
    """Key of `Published.sources`."""
    note: str | None = None
    """Where in its source it stands."""
    runs: int = 1
    """Of how many runs it is a mean; 1 where its source does not say."""
    doubt: str | None = None
    """Why it may be wrong, where its own source, or another one, says otherwise."""


@dataclass(frozen=True)
class Published:
    """The figures of one data set."""

    figures: dict[tuple[Any, ...], Figure]
    sources: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, content: dict[str, Any], dataset: str) -> "Published":
        """The figures of a data set among the content of data/published.yaml; none for an unpublished one."""
        figures = {}
        for record in content.get(dataset, []) if dataset != "sources" else []:
            key = _key(
                record["teacher"],
                record["student"],
                record["method"],
                record.get("levels"),
                record.get("stand"),
                optimizer=record.get("optimizer", SGD),
            )
            figures[key] = Figure(
                record["top1"],
                record["source"],
                record.get("note"),
                content["sources"].get(record["source"], {}).get("runs", 1),
                record.get("doubt"),
            )
        return cls(figures, content["sources"])

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
        """The figure of one experiment; `teacher` is None for a network trained alone."""
        return self.figures.get(_key(teacher, student, method, levels, stand, optimizer=optimizer))


def _key(
    teacher: str | None, student: str, method: str, levels: list[int] | None, stand: bool | None, *, optimizer: str
) -> tuple[Any, ...]:
    return teacher, student, method, tuple(levels or ()), stand, optimizer
