"""What a reader can choose rows of the page by, and how its script knows which rows a part of the page shows."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from kdcore import catalog
from kdcore.results.entry import Entry, Place
from kdcore.results.row import GROUPS
from kdcore.results.rows import Results

NO_SCALE = "none"
"""Value of M of rows without scales."""


@dataclass(frozen=True)
class Facet:
    """One property of rows, of which a reader chooses some values."""

    name: str
    """Its key in the page's address."""
    title: str
    choices: dict[str, str]
    """Value -> what is shown, in the order of the rows."""


@dataclass(frozen=True)
class Filters:
    """All rows of all pairs by their numbers, with their properties."""

    entries: Sequence[Entry]

    @cached_property
    def facets(self) -> list[Facet]:
        """The properties of which the rows have several values."""
        titles = {"pair": "Pair", "kind": "Kind", "variant": "Variant", "stand": "Stand", "m": "M"}
        words = {"kind": GROUPS, "stand": {"yes": "with stand", "no": "without stand"}, "m": {NO_SCALE: "no scales"}}
        found = []
        for name, title in titles.items():
            values = list(dict.fromkeys(str(row[name]) for row in self.rows))
            if len(values) > 1:
                found.append(Facet(name, title, {value: words.get(name, {}).get(value, value) for value in values}))
        return found

    @cached_property
    def rows(self) -> list[dict[str, str | list[str]]]:
        """The properties of every row; `methods` are the words by which a search finds it."""
        return [
            {
                "pair": entry.pair,
                "kind": entry.row.group,
                "variant": entry.row.variant,
                "stand": "yes" if entry.row.stand else "no",
                "m": NO_SCALE if entry.row.scale is None else entry.row.m,
                "methods": _names(entry.row.method),
            }
            for entry in self.entries
        ]

    @property
    def methods(self) -> list[str]:
        """All words by which a search finds a row, sorted."""
        return sorted({name for row in self.rows for name in row["methods"]})

    @property
    def json(self) -> str:
        """`rows` for the script."""
        return json.dumps(self.rows, separators=(",", ":"))

    def of(self, places: Iterable[Place]) -> Markup:
        """Return the attribute that names the rows which an element shows; nothing for one that is of no row."""
        numbers = " ".join(str(self._numbers[place]) for place in places if place in self._numbers)
        return Markup(f' data-of="{numbers}"' if numbers else "")  # noqa: S704 - digits and spaces

    @cached_property
    def _numbers(self) -> dict[Place, int]:
        return {entry.place: number for number, entry in enumerate(self.entries)}


def filters(results: Results) -> Filters:
    """Return the filters of a page."""
    return Filters(results.entries)


def _names(method: str | None) -> list[str]:
    """List what a method is found by: its name, and those of its terms."""
    if method is None:
        return ["teacher"]
    if method == catalog.VANILLA:
        return ["student", method]
    return list(dict.fromkeys([method, *method.split(catalog.PLUS)]))
