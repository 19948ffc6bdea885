"""Read the results of every experiment from a git revision, a DVC experiment, the files here, or publications."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from kdcore.catalog import levels
from kdcore.matrix.cell import BASE
from kdcore.matrix.recipes import OWN
from kdcore.results import published
from kdcore.results.published import Figure
from kdcore.results.row import Row, by_size, rows
from kdcore.results.rows import figure_of
from kdcore.system import dvc_lock, yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests
from kdcore.system.git import git

WORKSPACE, PUBLISHED = "workspace", "published"
CELLS, METRICS, PARAMS = "tables/cells.csv", "tables/metrics.json", "params.yaml"
COLUMNS = ("pair", "method", "seed")
"""Columns that `CELLS` must have besides the accuracy; logit methods also have scale and stand. A table
without the column variant is older than variants: all its cells are of `BASE`.
"""
AS_THEY_ARE = ("variant", "change", "recipe_sources")
"""Columns whose texts are never numbers or gaps, even if a variant is called 1 or NA."""
REMEDY = f"name a commit, branch or tag (git log --oneline -- {CELLS}), an experiment (dvc exp list), {WORKSPACE} or "
REMEDY += PUBLISHED
SECTIONS = ("data", "train", "teachers", "variants", "methods_config", "networks")
"""Sections of params.yaml that say on what cells were trained, how, who taught, and what variants, methods and networks
of one name are.
"""
Seeds = dict[int, float]
"""Accuracy in percent by seed."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    data: str
    """The data set's name."""
    rows: dict[tuple[str, Row], Seeds]
    """Accuracies by pair and row; a published one is under seed 0."""
    metrics: dict[str, Any]
    """Content of tables/metrics.json."""
    is_published: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    """Settings in `SECTIONS` by their path, such as train.epochs; empty where they are not known."""
    epochs: dict[tuple[str, Row], set[int]] = field(default_factory=dict)
    """How many epochs cells were trained for; empty where the table does not say."""
    own: set[tuple[str, Row]] = field(default_factory=set)
    """The rows with a recipe that params.yaml changes, with which no published figure is compared."""
    digest: str | None = None
    """Of the data set's files, as dvc.lock has it; None where it is not known."""
    figures: dict[tuple[str, Row], Figure] = field(default_factory=dict)
    """The published figures by pair and row; empty for a side that was measured."""

    def headline(self, pair: str, method: str) -> Row | None:
        """Find the row under `headline` in metrics.json (see `tables.metrics`); None where it lacks a seed."""
        if self.metrics.get(pair, {}).get(method, {}).get("headline") is None:
            return None
        scale, stand = self._highest
        row = Row(method, scale, stand)
        return row if (pair, row) in self.rows else None

    @cached_property
    def _highest(self) -> tuple[int | str | None, bool]:
        scales = [row.scale for _, row in self.rows if row.scale is not None]
        return max(scales, key=by_size, default=None), any(row.stand for _, row in self.rows)


@dataclass(frozen=True)
class Files:
    """The project's files, here or at a commit."""

    name: str
    """The name that the user gave."""
    commit: str | None
    """The commit; None for the files here."""

    @classmethod
    def of(cls, name: str) -> "Files":
        """Name the files of a revision, an experiment, or `WORKSPACE`.

        Raises:
            UserError: there is no such revision.
        """
        return cls(name, None if name == WORKSPACE else _commit(name))

    def read(self, path: str) -> str | None:
        """Read a file by its path in the project; None where there is none.

        Raises:
            UserError: the file is not UTF-8 text.
        """
        try:
            if self.commit is None:
                return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
            return git("show", f"{self.commit}:./{path}")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: {path}: is not UTF-8 text (byte {error.start})") from error

    def data(self) -> str:
        """Find the data set of the tables: the name of the one table that is there as Markdown, LaTeX and CSV.

        Raises:
            UserError: there are no tables.
        """
        if self.commit is None:
            names = [path.as_posix() for path in Path("tables").glob("*.*")]
        else:
            names = (git("ls-tree", "--name-only", self.commit, "./tables/") or "").splitlines()
        whole = (f"tables/{Path(name).stem}" for name in names if name.endswith(".csv"))
        datasets = [Path(stem).name for stem in whole if {f"{stem}.md", f"{stem}.tex"} <= set(names)]
        if datasets:
            return datasets[0]
        if not Path(PARAMS).is_file():
            raise UserError(f"{self.name}: no tables, and {Path.cwd()} has no {PARAMS}: run it in the project's root")
        raise UserError(f"{self.name}: has no tables; {self._remedy()}")

    def cells(self, accuracy: str) -> pd.DataFrame:
        """Read a line per cell: pair, method, variant, change, seed, scale, stand, epochs, top1, and the sources of its
        recipe; None where the table does not say.

        Args:
            accuracy: the column of the file that becomes top1.

        Raises:
            UserError: there is no such table, or stage tables has not written it.
        """
        text = self.read(CELLS)
        if not (text or "").strip():
            raise UserError(f"{self.name}: has no {CELLS}, or an empty one; {self._remedy()}")
        try:
            texts = dict.fromkeys(("scale", "stand", *AS_THEY_ARE), str)
            gaps = {column: [""] for column in ("scale", "stand", "epochs", accuracy)}
            frame = pd.read_csv(io.StringIO(text), dtype=texts, na_values=gaps, keep_default_na=False)
        except ValueError as error:
            raise UserError(f"{self.name}: {CELLS} is no table ({error}); {self._remedy()}") from error
        missing = [column for column in (*COLUMNS, accuracy) if column not in frame]
        if missing or pd.to_numeric(frame[accuracy], errors="coerce").isna().any():
            what = f"lacks {', '.join(missing)}" if missing else f"has cells without {accuracy}"
            raise UserError(f"{self.name}: {CELLS} {what}; {self._remedy()}")
        frame = frame.reindex(columns=[*COLUMNS, *AS_THEY_ARE, "scale", "stand", "epochs", accuracy]).astype(object)
        return frame.where(frame.notna(), None).rename(columns={accuracy: "top1"})

    def metrics(self) -> dict[str, Any]:
        """Read tables/metrics.json; empty where there is none."""
        try:
            return json.loads(self.read(METRICS) or "{}")
        except ValueError as error:
            raise UserError(f"{self.name}: {METRICS} is damaged ({error}); {self._remedy()}") from error

    def params(self) -> dict[str, Any]:
        """Read params.yaml with few checks: another version of this project may have written it.

        Raises:
            UserError: it is not YAML, or it or one of the `SECTIONS` is not a mapping; a section may be missing.
        """
        text = self.read(PARAMS) or ""
        content = yamlfile.parse(text, f"{self.name}: {PARAMS}", bounded=True) if text.strip() else {}
        sections = {name: content.get(name) or {} for name in SECTIONS}
        wrong = [name for name, section in sections.items() if not isinstance(section, dict)]
        if wrong:
            raise UserError(f"{self.name}: {PARAMS}: {' and '.join(wrong)} must hold keys and values")
        return {**content, **sections}

    def check_tables(self) -> None:
        """Refuse tables that are older than the settings beside them, as far as dvc.lock tells.

        Raises:
            UserError: params.yaml, or the card of a stage, has changed since.
        """
        lock, params = self.read(dvc_lock.LOCK.as_posix()) or "", self.read(PARAMS)
        planned = dvc_lock.recorded("plan", lock).get(PARAMS)
        is_other = planned and params is not None and hashlib.md5(params.encode()).hexdigest() != planned  # noqa: S324
        cards = {Path(card): md5 for card, md5 in dvc_lock.read_cards(lock).items()} if self.commit is None else {}
        changed = [card for card, md5 in cards.items() if card.is_file() and file_digests(card, "md5")["md5"] != md5]
        if is_other or changed:
            since = PARAMS if is_other else f"{changed[0]}, which the plan has written from {PARAMS},"
            raise UserError(f"{self.name}: {since} has changed since its tables were made; {self._remedy()}")

    def _remedy(self) -> str:
        return "run 'dvc repro'" if self.commit is None else f"run 'dvc repro' there and commit tables/, or {REMEDY}"


def load(old: str, new: str, accuracy: str) -> tuple[Side, Side]:
    """Read both sides of a comparison.

    Args:
        old: a git revision, a DVC experiment, `WORKSPACE` or `PUBLISHED`.
        new: another one of these.
        accuracy: "top1" or "top1_best" (see `kdcore.results.evaluation`).

    Raises:
        UserError: a side cannot be read, or the two have different data sets.
    """
    if old == new == PUBLISHED:
        raise UserError(f"{PUBLISHED} {PUBLISHED}: one side must have been measured; {REMEDY} for one side")
    files = {name: Files.of(name) for name in (old, new) if name != PUBLISHED}
    sides = {name: _measured(here, accuracy) for name, here in files.items()}
    if PUBLISHED in (old, new):
        ((name, here),) = files.items()
        sides[PUBLISHED] = _published(sides[name], here)
    first, second = sides[old], sides[new]
    if first.data != second.data:
        raise UserError(
            f"{old} has results on {first.data}, {new} on {second.data}: accuracies on different data sets cannot be "
            f"compared; find revisions of one data set with 'git log --oneline -- tables/{first.data}.csv'"
        )
    return first, second


def _measured(files: Files, accuracy: str) -> Side:
    data, frame = files.data(), files.cells(accuracy)
    files.check_tables()
    cells = [_identified(cell, files) for cell in cast(list[dict[str, Any]], frame.to_dict("records"))]
    accuracies: dict[tuple[str, Row], Seeds] = {}
    epochs: dict[tuple[str, Row], set[int]] = {}
    own: set[tuple[str, Row]] = set()
    declared = rows(_axes(cells))
    for pair in dict.fromkeys(cell["pair"] for cell in cells):
        for axes in declared:
            held = [cell for cell in cells if cell["pair"] == pair and axes.holds(cell)]
            if held:
                row = replace(axes, change=held[0]["change"])
                accuracies[pair, row] = dict(sorted((cell["seed"], cell["top1"]) for cell in held))
                own |= {(pair, row)} if any(OWN in (cell.get("recipe_sources") or "") for cell in held) else set()
                epochs[pair, row] = {int(cell["epochs"]) for cell in held if cell["epochs"] is not None}
    lock = files.read(dvc_lock.LOCK.as_posix()) or ""
    return Side(
        files.name,
        data,
        accuracies,
        files.metrics(),
        settings=_settings(files.params()),
        epochs=epochs,
        own=own,
        digest=dvc_lock.recorded("data", lock).get(f"data/{data}"),
    )


def _settings(params: dict[str, Any]) -> dict[str, str]:
    return {key: text for name in SECTIONS for key, text in _flat(name, params[name])}


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every setting below a name: its path, and its value as text."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(f"{name}.{key}", below)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _identified(cell: dict[str, Any], files: Files) -> dict[str, Any]:
    """Return a cell with its variant, whose scale and stand have the types that they have in params.yaml."""
    variant = cell["variant"] or BASE
    cell = {**cell, "variant": variant, "change": cell["change"] or ("" if variant == BASE else variant)}
    if cell["scale"] is None:
        return {**cell, "stand": None}
    scale = int(cell["scale"]) if cell["scale"].isdecimal() else cell["scale"]
    try:
        levels(scale)
    except ValueError as error:
        raise UserError(f"{files.name}: {CELLS}: scale {scale!r} is none ({error}); run 'dvc repro tables'") from error
    return {**cell, "scale": scale, "stand": cell["stand"] == "True"}


def _axes(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the matrix that has these cells, under the keys of the card of stage tables."""
    logit = [cell for cell in cells if cell["scale"] is not None]
    of_rows = [(Row(*(cell[key] for key in ("method", "scale", "stand", "variant"))), cell) for cell in cells]
    return {
        "pairs": list(dict.fromkeys(cell["pair"] for cell in cells)),
        "baselines": list(dict.fromkeys(cell["method"] for cell in cells if cell["scale"] is None)),
        "methods": list(dict.fromkeys(cell["method"] for cell in logit)),
        "scales": list(dict.fromkeys(cell["scale"] for cell in logit)),
        "stand": list(dict.fromkeys(cell["stand"] for cell in logit)),
        "variants": {cell["variant"]: {"train": {}, "recipes": {}} for cell in cells},
        "seeds": list(dict.fromkeys(cell["seed"] for cell in cells)),
        "recipes": {row.cell(cell["pair"], cell["seed"]): {} for row, cell in of_rows},
        "excluded": [],
    }


def _published(measured: Side, files: Files) -> Side:
    """Return the published figures for the rows of a measured side."""
    content, params = yamlfile.read(published.FILE), files.params()
    figures = published.Published.of(content, measured.data)
    if not figures.figures:
        known = ", ".join(name for name in content if name != "sources")
        raise UserError(
            f"{published.FILE}: holds no figures of {measured.data}, only of {known}; compare with a revision"
        )
    if params["data"].get("subset"):
        raise UserError(f"{measured.name}: is of a part of {measured.data}, of which nothing was published; {REMEDY}")
    if measured.own:
        labels = ", ".join(dict.fromkeys(row.label for pair, row in measured.rows if (pair, row) in measured.own))
        print(f"note: no figure is compared with recipes that {PARAMS} changes, those of {labels}", file=sys.stderr)
    optimizer = params["train"].get("optimizer", published.SGD)
    recipe = params.get("stand_recipe", "paper")
    shown = {
        (pair, row): figure
        for pair, row in measured.rows
        if (pair, row) not in measured.own
        and (figure := figure_of(pair, row, figures, optimizer=optimizer, stand_recipe=recipe)) is not None
    }
    top1 = {key: {0: figure.top1} for key, figure in shown.items()}
    return Side(PUBLISHED, measured.data, top1, {}, is_published=True, figures=shown)


def _commit(name: str) -> str:
    """Find the commit of a revision or experiment.

    Raises:
        UserError: there is none, or several experiments have this name.
    """
    if name.startswith(":"):  # git would take it for a file of the index, or search for some commit
        raise UserError(f"{name}: begins with ':', which names no revision; {REMEDY}")
    if git("rev-parse", "--git-dir") is None:
        raise UserError(f"{name}: revisions need git, and a project in a git repository; {WORKSPACE} needs none")
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is not None:
        return commit.strip()
    refs = (git("for-each-ref", "--format=%(refname)", "refs/exps") or "").splitlines()
    # refs/exps/<2 digits of the commit it began from>/<the other 38>/<name>; others, such as refs/exps/stash, are DVC's
    named = [ref for ref in refs if ref.count("/") == 4 and ref.split("/")[4] == name]
    head = (git("rev-parse", "HEAD") or "").strip()
    named = [ref for ref in named if "".join(ref.split("/")[2:4]) == head] or named
    if len(named) > 1:
        raise UserError(f"{name}: several experiments have this name; name one in full: {', '.join(named)}")
    if not named:
        raise UserError(f"{name}: is no revision and no experiment here ('dvc exp pull' fetches some); {REMEDY}")
    return str(git("rev-parse", "--verify", f"{named[0]}^{{commit}}")).strip()
