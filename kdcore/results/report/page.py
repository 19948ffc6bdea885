"""The report: all that a matrix measured on one page, which needs no network and can be sent around as one file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdcore.results import captions, tables
from kdcore.results.report import charts
from kdcore.results.rows import Entry, Results, Row

NAME = "report.html"
FOLDER = Path(__file__).parent
MINUS, NOTHING, MISSING = "\N{MINUS SIGN}", "–", "missing"
STRONGEST = 0.95
"""Quantile of all absolute gains from which on colours grow no stronger: one failed cell must not pale the others."""
NOISE: dict[str, Any] = {"sign": "≈", "about": "within noise: seeds cannot tell it from the published figure"}
PROVENANCE = {
    "name": "Cell",
    "seed": "Seed",
    "commit": "Commit",
    "versions": "Versions",
    "device": "Device",
    "computed_in": "Precision",
    "recipe": "Recipe",
    "recipe_sources": "Sources of the recipe",
}
TIMED = "trained on this machine, from the first epoch to the last without a break"
Cell = dict[str, Any]


@dataclass(frozen=True)
class Value:
    """One cell of a table."""

    text: str
    key: float | None = None
    """What it is sorted by; None sorts by its text."""
    is_strong: bool = False
    is_absent: bool = False
    """Sorted last in either direction."""
    sign: str = ""
    """† § or ≈ behind the text, as the notes explain them."""
    about: str = ""
    """What the sign says of this value."""


@dataclass(frozen=True)
class Column:
    """Its head."""

    title: str
    is_number: bool = True
    about: str = ""
    """What it holds, where the title leaves that open."""


@dataclass(frozen=True)
class Sheet:
    """A table whose rows a reader can sort; the first `heads` columns name the row."""

    title: str
    columns: tuple[Column, ...]
    rows: list[list[Value]]
    heads: int = 1


@dataclass(frozen=True)
class Tile:
    """One gain in the heat map."""

    text: str
    about: str
    kind: str
    """gain, loss, plain, missing or nothing."""
    strength: int = 0
    """Of its colour, percent."""
    is_strong: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Pairs x (methods x stand x M)."""

    columns: list[Row]
    rows: dict[str, list[Tile]]
    limit: float
    """The gain with the strongest colour, percentage points."""

    def spans(self, *keys: str) -> list[tuple[Row, int]]:
        """Neighbouring columns that agree in some attributes: the first of them, and how many."""
        found: list[tuple[Row, int]] = []
        for row in self.columns:
            if found and all(getattr(found[-1][0], key) == getattr(row, key) for key in keys):
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((row, 1))
        return found


def write(results: Results, folder: Path) -> None:
    """Write the page into a folder."""
    (folder / NAME).write_text(render(results), encoding="utf-8")


def render(results: Results) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Unescaped are only the two files of this package: nothing in them comes from parameters.
    style, script = ((FOLDER / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return environment.get_template("report.html.jinja").render(
        data=results.card["data"],
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        caption=captions.caption(results.card, results.evaluations),
        notes=captions.notes(results),
        incomplete=incomplete(results),
        counts=counts(results),
        heat=heat_map(results),
        lines=lines(results),
        published=charts.published(results),
        curves=charts.curves(results),
        points=charts.POINTS,
        agreement=charts.agreement(results),
        reliability=charts.reliability(results),
        networks=networks(results),
        times=times(results),
        cells=cells(results),
    )


def incomplete(results: Results) -> str:
    """What there is of a matrix of which something is missing; empty for a complete one."""
    done, missing = _done(results)
    return f"Incomplete: {done} of {done + missing} cells have a result" if missing else ""


def counts(results: Results) -> list[tuple[str, Value]]:
    """The matrix in a few numbers."""
    done, missing = _done(results)
    gains = [entry for entry in results.entries if entry.gain is not None]
    best = max(gains, key=lambda entry: entry.gain or 0, default=None)
    found = [
        ("Pairs", Value(str(len(results.card["pairs"])))),
        ("Cells with a result", Value(f"{done} of {done + missing}" if missing else str(done))),
    ]
    if len(results.card["seeds"]) > 1:
        supported = sum(entry.is_significant for entry in gains)
        found.append(("Gains that seeds support", Value(f"{supported} of {len(gains)}")))
    else:
        above = sum((entry.gain or 0) > 0 for entry in gains)
        found.append(("Gains above 0; one seed tells none of them from noise", Value(f"{above} of {len(gains)}")))
    if best is not None:
        found.append((f"Largest gain: {best.pair}, {best.row.label}", _with_budget(Value(signed(best.gain)), best)))
    return found


def _done(results: Results) -> tuple[int, int]:
    """How many cells have a result, and how many have none."""
    entries = [entry for entry in results.entries if entry.row.method is not None]
    return sum(len(entry.values) for entry in entries), sum(len(entry.missing) for entry in entries)


def heat_map(results: Results) -> HeatMap | None:
    """Gains over plain; None for a matrix without M."""
    first = results.card["pairs"][0]
    columns = [entry.row for entry in results.of_pair(first) if entry.row.scale is not None]
    if not columns:
        return None
    sizes = sorted(abs(entry.gain) for entry in results.entries if entry.gain is not None)
    limit = max(sizes[int(STRONGEST * (len(sizes) - 1))], 0.1) if sizes else 1.0
    rows = {
        pair: [_tile(entry, limit) for entry in results.of_pair(pair) if entry.row.scale is not None]
        for pair in results.card["pairs"]
    }
    return HeatMap(columns, rows, limit)


def lines(results: Results) -> Sheet:
    """Every row of every pair."""
    accuracy = results.card["accuracy"]
    # Nothing but accuracy is measured of the best epoch.
    last = "" if accuracy == "top1" else ", of the last epoch, not of the one that Top-1 is of"
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Top-1", about=f"{captions.PROTOCOLS[accuracy]}; mean over seeds, percent; § with another budget"),
        Column("Deviation", about="sample standard deviation over seeds, percentage points"),
        Column("n", about="seeds with a result"),
        Column("Missing", about="seeds without a result"),
        Column("Gain", about="over the method's plain row, percentage points; bold where seeds support it"),
        Column("Margin", about="half the 95% confidence interval of the gain, percentage points"),
        Column("p", about="of the comparison with the plain row, two-sided, before adjustment"),
        Column("p, adjusted", about="by Holm's method, for all gains of the pair"),
        Column("Published", about="top-1, percent; † doubtful"),
        Column("Difference", about="measured minus published, percentage points; ≈ within noise"),
        Column("Within noise", is_number=False, about="yes where seeds cannot tell measured and published apart"),
        Column("Agreement", about=f"test images with the teacher's prediction, mean over seeds, percent{last}"),
        Column("ECE", about=f"expected calibration error, mean over seeds, percent{last}"),
        Column("NLL", about=f"negative log-likelihood, mean over seeds, nats{last}"),
        Column("Top-5", about=f"mean over seeds, percent{last}"),
    )
    return Sheet("All rows", columns, [_line(results, entry) for entry in results.entries], heads=2)


def networks(results: Results) -> Sheet:
    """Cost of the networks, per pair, and of their training where somebody has a time."""
    columns = [
        Column("Pair", is_number=False),
        Column("Teacher parameters (M)"),
        Column("Student parameters (M)"),
        Column("Teacher multiply-adds (M)"),
        Column("Student multiply-adds (M)"),
        Column("Cells"),
    ]
    rows = []
    for evaluation in results.evaluations:
        sizes = [
            evaluation[of][what] / 1e6 for what in ("parameters", "multiply_adds") for of in ("teacher", "student")
        ]
        count = number(len(evaluation["cells"]), 0)
        rows.append([Value(evaluation["pair"]), *(number(size) for size in sizes), count])
    if not results.timings:
        return Sheet("Networks of pairs", tuple(columns), rows)
    for row, evaluation in zip(rows, results.evaluations, strict=True):
        timed = [results.timings[cell["name"]] for cell in evaluation["cells"] if cell["name"] in results.timings]
        row.append(number(sum(timing.seconds for timing in timed) / 3600 if timed else None))
    columns.append(Column("Training time (h)", about=f"of cells {TIMED}"))
    return Sheet("Networks and training time of pairs", tuple(columns), rows)


def times(results: Results) -> Sheet:
    """Time of training, per pair and row; no rows where nobody has a time."""
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Cells", about=TIMED),
        Column("Time per cell (min)", about="mean over seeds"),
        Column("Time, all cells (min)"),
        Column("Images/s", about="while training, mean over seeds"),
    )
    rows = []
    for entry in results.entries:
        found = [results.timings[name] for name in results.cells_of(entry) if name in results.timings]
        if found:
            minutes = [timing.seconds / 60 for timing in found]
            rows.append([
                Value(entry.pair), Value(entry.row.label), number(len(found), 0), number(fmean(minutes)),
                number(sum(minutes)), number(fmean(timing.images_per_second for timing in found), 0),
            ])  # fmt: skip
    return Sheet("Training time of rows", columns, rows, heads=2)


def cells(results: Results) -> Sheet:
    """What made every cell."""
    frame = tables.cells(results)
    kept = [key for key in PROVENANCE if key in frame]
    columns = tuple(Column(PROVENANCE[key], is_number=key == "seed") for key in kept)
    rows = [
        [number(value, 0) if key == "seed" else Value(str(value)) for key, value in zip(kept, line, strict=True)]
        for line in frame[kept].itertuples(index=False)
    ]
    return Sheet("Provenance of cells", columns, rows)


def number(value: float | None, digits: int = 2, *, is_strong: bool = False) -> Value:
    """A number for people, and for sorting."""
    if value is None:
        return Value(NOTHING, is_absent=True)
    return Value(f"{value:,.{digits}f}".replace("-", MINUS), float(value), is_strong)


def signed(value: float | None) -> str:
    """A difference."""
    return NOTHING if value is None else f"{value:+.2f}".replace("-", MINUS)


def _line(results: Results, entry: Entry) -> list[Value]:
    compared = entry.compared
    within = {None: Value(NOTHING, is_absent=True), True: Value("yes"), False: Value("no")}[entry.is_within_noise]
    return [
        Value(entry.pair),
        Value(entry.row.label),
        Value(MISSING, is_absent=True) if entry.mean is None else _with_budget(number(entry.mean), entry),
        number(entry.deviation),
        number(len(entry.values), 0),
        number(len(entry.missing), 0),
        _difference(entry.gain, is_strong=entry.is_significant),
        number(None if compared is None else compared.margin),
        _p_value(None if compared is None else compared.p),
        _p_value(entry.adjusted),
        _published(entry),
        replace(_difference(entry.difference), **(NOISE if entry.is_within_noise else {})),
        within,
        *(number(_mean(results, entry, key), digits) for key, digits in _METRICS.items()),
    ]


def _with_budget(value: Value, entry: Entry) -> Value:
    """Marked where the caption does not say what the row was trained with."""
    return replace(value, sign="§", about=_budget(entry)) if entry.budget else value


def _budget(entry: Entry) -> str:
    return f"trained with another budget: {' and '.join(entry.budget)}"


def _published(entry: Entry) -> Value:
    """The published figure, marked where it is doubtful."""
    if entry.figure is None:
        return number(None)
    value, doubt = number(entry.figure.top1), entry.figure.doubt
    return replace(value, sign="†", about=f"doubtful: {doubt}") if doubt else value


_METRICS = {"agreement": 2, "ece": 2, "nll": 3, "top5": 2}


def _mean(results: Results, entry: Entry, key: str) -> float | None:
    """Over the seeds of a row; None where one is missing, for no seed is left out of a mean."""
    found = [cell[key] for cell in _cells(results, entry) if key in cell]
    return None if entry.missing or len(found) < len(entry.values) else fmean(found)


def _cells(results: Results, entry: Entry) -> Sequence[Cell]:
    """What was measured of a row: its seeds' cells, or the teacher."""
    for evaluation in results.evaluations:
        if evaluation["pair"] == entry.pair:
            if entry.row.method is None:
                return [evaluation["teacher"]]
            return [cell for cell in evaluation["cells"] if entry.row.holds(cell)]
    return []


def _difference(value: float | None, *, is_strong: bool = False) -> Value:
    return Value(NOTHING, is_absent=True) if value is None else Value(signed(value), value, is_strong)


def _p_value(value: float | None) -> Value:
    return Value(NOTHING, is_absent=True) if value is None else Value(_p(value), value)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _tile(entry: Entry, limit: float) -> Tile:
    where = f"{entry.pair}, {entry.row.label}"
    if entry.missing:
        seeds = len(entry.missing) + len(entry.values)
        return Tile(MISSING, f"{where}: {len(entry.missing)} of {seeds} seeds have no result", "missing")
    noise = "" if entry.deviation is None else f" ± {entry.deviation:.2f}"
    about = f"{where}: top-1 {entry.mean:.2f}{noise}"
    about += f", {_budget(entry)}" if entry.budget else ""
    sign = " §" if entry.budget else ""
    if entry.row.is_plain:
        return Tile(f"{entry.mean:.2f}{sign}", f"{about}, the plain row", "plain")
    if entry.gain is None:
        return Tile(NOTHING, f"{about}; no complete plain row to compare with", "nothing")
    about += f", gain {signed(entry.gain)}"
    if entry.compared is not None:
        about += f" ± {entry.compared.margin:.2f}, p {_p(entry.compared.p)}"
    if entry.adjusted is not None:
        about += f", adjusted {_p(entry.adjusted)}"
    about += ", which seeds support" if entry.is_significant else ""
    strength = round(100 * min(1.0, abs(entry.gain) / limit))
    kind = "loss" if entry.gain < 0 else "gain"
    return Tile(signed(entry.gain) + sign, about, kind, strength, entry.is_significant)
