"""What a git revision, a DVC experiment, the files here or publications say of every experiment of a matrix."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from kdcore.catalog import levels
from kdcore.results import published
from kdcore.results.published import Figure
from kdcore.results.rows import Row, by_size, figure_of, rows
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.git import git

WORKSPACE, PUBLISHED = "workspace", "published"
CELLS, METRICS, PARAMS = "tables/cells.csv", "tables/metrics.json", "params.yaml"
FIGURES = "data/published.yaml"
COLUMNS = ("pair", "method", "seed")
"""Of `CELLS`, beside the accuracy; logit methods have scale and stand, too."""
REMEDY = f"name a commit, branch or tag (git log --oneline -- {CELLS}), an experiment (dvc exp list), {WORKSPACE} or "
REMEDY += PUBLISHED
SECTIONS = ("data", "train")
"""Of params.yaml: what cells were trained on, and how."""
Seeds = dict[int, float]
"""Seed -> accuracy in percent."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    data: str
    """The data set's name."""
    rows: dict[tuple[str, Row], Seeds]
    """Pair and row -> what was measured; of publications the one figure, under seed 0."""
    metrics: dict[str, Any]
    """As in tables/metrics.json."""
    is_published: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    """`SECTIONS`, flat: train.epochs -> 18; empty where that is not known."""
    epochs: dict[tuple[str, Row], set[int]] = field(default_factory=dict)
    """That cells were trained for; empty where the table does not say."""
    figures: dict[tuple[str, Row], Figure] = field(default_factory=dict)
    """Of publications: where rows come from."""

    def headline(self, pair: str, method: str) -> Row | None:
        """The row that metrics.json calls so: highest scale of the matrix, standardised if stand is in it; None where
        there is none, or it is not whole.
        """
        if self.metrics.get(pair, {}).get(method, {}).get("headline") is None:
            return None
        scale, stand = self._highest
        found = (row for of, row in self.rows if (of, row.method, row.scale, row.stand) == (pair, method, scale, stand))
        return next(found, None)

    @cached_property
    def _highest(self) -> tuple[int | str | None, bool]:
        scales = [row.scale for _, row in self.rows if row.scale is not None]
        return max(scales, key=by_size, default=None), any(row.stand for _, row in self.rows)


@dataclass(frozen=True)
class Files:
    """The project's files, here or at a commit."""

    name: str
    """As the user has it."""
    commit: str | None
    """None for the files here."""

    @classmethod
    def of(cls, name: str) -> "Files":
        """Those of a revision, an experiment, or `WORKSPACE`.

        Raises:
            UserError: there is no such revision.
        """
        return cls(name, None if name == WORKSPACE else _commit(name))

    def read(self, path: str) -> str | None:
        """The text of a file, by its path relative to the project; None where there is none.

        Raises:
            UserError: it is no text.
        """
        try:
            if self.commit is None:
                return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
            return git("show", f"{self.commit}:./{path}")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: {path}: is not UTF-8 text (byte {error.start})") from error

    def data(self) -> str:
        """The data set that the tables are of: the name of the one table that is there as Markdown, LaTeX and CSV.

        Raises:
            UserError: there are no tables.
        """
        if self.commit is None:
            names = [path.as_posix() for path in Path("tables").glob("*.*")]
        else:
            names = (git("ls-tree", "--name-only", self.commit, "./tables/") or "").splitlines()
        whole = (f"tables/{Path(name).stem}" for name in names if name.endswith(".csv"))
        found = [Path(stem).name for stem in whole if {f"{stem}.md", f"{stem}.tex"} <= set(names)]
        if found:
            return found[0]
        if not Path(PARAMS).is_file():
            raise UserError(f"{self.name}: no tables, and {Path.cwd()} has no {PARAMS}: run it in the project's root")
        raise UserError(f"{self.name}: has no tables; {self._remedy()}")

    def cells(self, accuracy: str) -> pd.DataFrame:
        """A line per cell: pair, method, seed, scale, stand (None for baselines), epochs (None: not known) and top1.

        Args:
            accuracy: the column that top1 is taken from.

        Raises:
            UserError: there is no such table, or it is not as stage tables writes it.
        """
        text = self.read(CELLS)
        if not (text or "").strip():
            raise UserError(f"{self.name}: has no {CELLS}, or an empty one; {self._remedy()}")
        try:
            frame = pd.read_csv(io.StringIO(text), dtype={"scale": str, "stand": str})
        except ValueError as error:
            raise UserError(f"{self.name}: {CELLS} is no table ({error}); {self._remedy()}") from error
        missing = [column for column in (*COLUMNS, accuracy) if column not in frame]
        if missing or pd.to_numeric(frame[accuracy], errors="coerce").isna().any():
            what = f"lacks {', '.join(missing)}" if missing else f"has cells without {accuracy}"
            raise UserError(f"{self.name}: {CELLS} {what}; {self._remedy()}")
        frame = frame.reindex(columns=[*COLUMNS, "scale", "stand", "epochs", accuracy]).astype(object)
        return frame.where(frame.notna(), None).rename(columns={accuracy: "top1"})

    def metrics(self) -> dict[str, Any]:
        """What tables/metrics.json says."""
        try:
            return json.loads(self.read(METRICS) or "{}")
        except ValueError as error:
            raise UserError(f"{self.name}: {METRICS} is damaged ({error}); {self._remedy()}") from error

    def params(self) -> dict[str, Any]:
        """What params.yaml says, hardly validated: another version of this project may have written it.

        Raises:
            UserError: it is not YAML, or it or one of the sections, which may be missing, is no mapping.
        """
        text = self.read(PARAMS) or ""
        found = yamlfile.parse(text, f"{self.name}: {PARAMS}", bounded=True) if text.strip() else {}
        sections = {name: found.get(name) or {} for name in SECTIONS}
        wrong = [name for name, section in sections.items() if not isinstance(section, dict)]
        if wrong:
            raise UserError(f"{self.name}: {PARAMS}: {' and '.join(wrong)} must hold keys and values")
        return {**found, **sections}

    def _remedy(self) -> str:
        return "run 'dvc repro'" if self.commit is None else f"run 'dvc repro' there and commit tables/, or {REMEDY}"


def load(old: str, new: str, accuracy: str) -> tuple[Side, Side]:
    """Both sides of a comparison.

    Args:
        old: a git revision, a DVC experiment, `WORKSPACE` or `PUBLISHED`.
        new: likewise.
        accuracy: "top1" or "top1_best" (see `kdcore.results.evaluation`).

    Raises:
        UserError: a side cannot be had, or the two are of different data sets.
    """
    if old == new == PUBLISHED:
        raise UserError(f"{PUBLISHED} {PUBLISHED}: one side must have been measured; {REMEDY} for one side")
    files = {name: Files.of(name) for name in (old, new) if name != PUBLISHED}
    sides = {name: _measured(found, accuracy) for name, found in files.items()}
    if PUBLISHED in (old, new):
        ((name, found),) = files.items()
        sides[PUBLISHED] = _published(sides[name], found)
    first, second = sides[old], sides[new]
    if first.data != second.data:
        raise UserError(
            f"{old} has results on {first.data}, {new} on {second.data}: accuracies on different data sets cannot be "
            f"compared; find revisions of one data set with 'git log --oneline -- tables/{first.data}.csv'"
        )
    return first, second


def _measured(files: Files, accuracy: str) -> Side:
    data, frame = files.data(), files.cells(accuracy)
    cells = [_identified(cell, files) for cell in cast(list[dict[str, Any]], frame.to_dict("records"))]
    found: dict[tuple[str, Row], Seeds] = {}
    epochs: dict[tuple[str, Row], set[int]] = {}
    declared = rows(_axes(cells))
    for pair in dict.fromkeys(cell["pair"] for cell in cells):
        for row in declared:
            held = [cell for cell in cells if cell["pair"] == pair and row.holds(cell)]
            if held:
                found[pair, row] = dict(sorted((cell["seed"], cell["top1"]) for cell in held))
                epochs[pair, row] = {int(cell["epochs"]) for cell in held if cell["epochs"] is not None}
    return Side(files.name, data, found, files.metrics(), settings=_settings(files.params()), epochs=epochs)


def _settings(params: dict[str, Any]) -> dict[str, str]:
    return {key: text for name in SECTIONS for key, text in _flat(name, params[name])}


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Every setting below a name, by its path, its value as params.yaml has it."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(f"{name}.{key}", below)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _identified(cell: dict[str, Any], files: Files) -> dict[str, Any]:
    """A cell with its axes' values as params.yaml has them."""
    if cell["scale"] is None:
        return {**cell, "stand": None}
    scale = int(cell["scale"]) if cell["scale"].isdecimal() else cell["scale"]
    try:
        levels(scale)
    except ValueError as error:
        raise UserError(f"{files.name}: {CELLS}: scale {scale!r} is none ({error}); run 'dvc repro tables'") from error
    return {**cell, "scale": scale, "stand": cell["stand"] == "True"}


def _axes(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The matrix that cells are of, as in the card of stage tables."""
    logit = [cell for cell in cells if cell["scale"] is not None]
    return {
        "pairs": list(dict.fromkeys(cell["pair"] for cell in cells)),
        "baselines": list(dict.fromkeys(cell["method"] for cell in cells if cell["scale"] is None)),
        "methods": list(dict.fromkeys(cell["method"] for cell in logit)),
        "scales": list(dict.fromkeys(cell["scale"] for cell in logit)),
        "stand": list(dict.fromkeys(cell["stand"] for cell in logit)),
    }


def _published(measured: Side, files: Files) -> Side:
    """The figures for the rows of a side."""
    content, params = yamlfile.read(FIGURES), files.params()
    figures = published.Published.of(content, measured.data)
    if not figures.figures:
        known = ", ".join(name for name in content if name != "sources")
        raise UserError(f"{FIGURES}: holds no figures of {measured.data}, only of {known}; compare with a revision")
    if params["data"].get("subset"):
        raise UserError(f"{measured.name}: is of a part of {measured.data}, of which nothing was published; {REMEDY}")
    optimizer = params["train"].get("optimizer", published.SGD)
    recipe = params.get("stand_recipe", "paper")
    found = {
        (pair, row): figure
        for pair, row in measured.rows
        if (figure := figure_of(pair, row, figures, optimizer=optimizer, stand_recipe=recipe)) is not None
    }
    top1 = {of: {0: figure.top1} for of, figure in found.items()}
    return Side(PUBLISHED, measured.data, top1, {}, is_published=True, figures=found)


def _commit(name: str) -> str:
    """The commit of a revision or experiment.

    Raises:
        UserError: there is none, or several experiments of this name.
    """
    if name.startswith(":"):  # to git a file of the index, or a search that would find some commit
        raise UserError(f"{name}: begins with ':', which names no revision; {REMEDY}")
    if git("rev-parse", "--git-dir") is None:
        raise UserError(f"{name}: revisions need git, and a project in a git repository; {WORKSPACE} needs none")
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is not None:
        return commit.strip()
    refs = (git("for-each-ref", "--format=%(refname)", "refs/exps") or "").splitlines()
    # refs/exps/<2 digits of the commit it began from>/<the other 38>/<name>; others, such as refs/exps/stash, are DVC's
    found = [ref for ref in refs if ref.count("/") == 4 and ref.split("/")[4] == name]
    head = (git("rev-parse", "HEAD") or "").strip()
    found = [ref for ref in found if "".join(ref.split("/")[2:4]) == head] or found
    if len(found) > 1:
        raise UserError(f"{name}: several experiments have this name; name one in full: {', '.join(found)}")
    if not found:
        raise UserError(f"{name}: is no revision and no experiment here ('dvc exp pull' fetches some); {REMEDY}")
    return str(git("rev-parse", "--verify", f"{found[0]}^{{commit}}")).strip()
