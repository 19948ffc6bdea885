"""The report: all that a matrix measured on one HTML page, a single file that loads nothing from elsewhere."""

from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdcore.results import captions, tables
from kdcore.results.report import charts
from kdcore.results.rows import Entry, Results, Row
from kdcore.results.tables import MISSING, NOTHING

NAME = "report.html"
FOLDER = Path(__file__).parent
MINUS = "\N{MINUS SIGN}"
STRONGEST = 0.95
"""Quantile of absolute gains that has the strongest colour, so that one failed cell does not make the others pale."""
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
    "accepted": "Accepted without training again",
}
"""Columns of cells.csv that the page shows, and their titles."""
TIMED = "trained on this machine, from the first epoch to the last without a break"
METRICS = {"agreement": 2, "ece": 2, "nll": 3, "top5": 2}
"""Metrics of every network besides top-1, and how many decimals are shown."""


@dataclass(frozen=True)
class Value:
    """One cell of a table."""

    text: str
    key: float | None = None
    """Number to sort by; None sorts by the text."""
    is_strong: bool = False
    """Whether it is printed bold."""
    is_absent: bool = False
    """Whether it is sorted last in either direction."""
    sign: str = ""
    """†, § or ≈ behind the text; the notes explain them."""
    about: str = ""
    """Explains the sign."""


ABSENT = Value(NOTHING, is_absent=True)


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    title: str
    is_number: bool = True
    about: str = ""
    """Explains the column, where its title does not."""


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
    """Strength of the colour in percent."""
    is_strong: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Pairs x (methods x stand x M)."""

    columns: list[Row]
    rows: dict[str, list[Tile]]
    limit: float
    """The gain with the strongest colour, percentage points."""

    def spans(self, *keys: str) -> list[tuple[Row, int]]:
        """Group neighbouring columns that agree in some attributes: the first of each group, and how many it has."""
        groups = (list(group) for _, group in groupby(self.columns, attrgetter(*keys)))
        return [(group[0], len(group)) for group in groups]


def write(results: Results, folder: Path) -> None:
    """Write the page into a folder."""
    (folder / NAME).write_text(render(results), encoding="utf-8")


def render(results: Results) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only these two files of this package are not escaped: nothing in them comes from params.yaml.
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
    """Say how many cells have a result, where some have none; empty for a complete matrix."""
    done, missing = _done(results)
    return f"Incomplete: {done} of {done + missing} cells have a result" if missing else ""


def counts(results: Results) -> list[tuple[str, Value]]:
    """Sum up the matrix in a few numbers, each with its title."""
    done, missing = _done(results)
    gains = [entry for entry in results.entries if entry.gain is not None]
    best = max(gains, key=lambda entry: entry.gain or 0, default=None)
    sums = [
        ("Pairs", Value(str(len(results.card["pairs"])))),
        ("Cells with a result", Value(f"{done} of {done + missing}" if missing else str(done))),
    ]
    if len(results.card["seeds"]) > 1:
        supported = sum(entry.is_significant for entry in gains)
        sums.append(("Gains that seeds support", Value(f"{supported} of {len(gains)}")))
    else:
        above = sum((entry.gain or 0) > 0 for entry in gains)
        sums.append(("Gains above 0; one seed tells none of them from noise", Value(f"{above} of {len(gains)}")))
    if best is not None:
        sums.append((f"Largest gain: {best.pair}, {best.row.label}", _with_budget(Value(signed(best.gain)), best)))
    return sums


def _done(results: Results) -> tuple[int, int]:
    """Count the cells that have a result, and those that have none."""
    entries = [entry for entry in results.entries if entry.row.method is not None]
    return sum(len(entry.values) for entry in entries), sum(len(entry.missing) for entry in entries)


def heat_map(results: Results) -> HeatMap | None:
    """Return the gains over the plain rows as a heat map; None for a matrix without logit methods."""
    first = results.card["pairs"][0]
    columns = [entry.row for entry in results.entries_of(first) if entry.row.scale is not None]
    if not columns:
        return None
    sizes = sorted(abs(entry.gain) for entry in results.entries if entry.gain is not None)
    limit = max(sizes[int(STRONGEST * (len(sizes) - 1))], 0.1) if sizes else 1.0
    rows = {
        pair: [_tile(entry, limit) for entry in results.entries_of(pair) if entry.row.scale is not None]
        for pair in results.card["pairs"]
    }
    return HeatMap(columns, rows, limit)


def lines(results: Results) -> Sheet:
    """Return the table with every row of every pair."""
    accuracy = results.card["accuracy"]
    # Only the accuracy of the best epoch is known.
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
        Column("p", about="p-value of the gain over the plain row, two-sided, before adjustment"),
        Column("p, adjusted", about="p-value adjusted by Holm's method for all gains of the pair"),
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
    """Return the cost of each pair's networks, and of training its cells where times are known."""
    columns = [
        Column("Pair", is_number=False),
        Column("Teacher parameters (M)"),
        Column("Student parameters (M)"),
        Column("Teacher multiply-adds (M)"),
        Column("Student multiply-adds (M)"),
        Column("Cells"),
    ]
    if results.timings:
        columns.append(Column("Training time (h)", about=f"sum over the cells {TIMED}"))
    rows = []
    for evaluation in results.evaluations:
        sizes = [
            evaluation[who][what] / 1e6 for what in ("parameters", "multiply_adds") for who in ("teacher", "student")
        ]
        timed = [results.timings[cell["name"]] for cell in evaluation["cells"] if cell["name"] in results.timings]
        hours = number(sum(timing.seconds for timing in timed) / 3600 if timed else None)
        row = [Value(evaluation["pair"]), *map(number, sizes), number(len(evaluation["cells"]), 0), hours]
        rows.append(row[: len(columns)])
    return Sheet(f"Networks{' and training time' if results.timings else ''} of pairs", tuple(columns), rows)


def times(results: Results) -> Sheet:
    """Return training times per pair and row; no rows where no times are known."""
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Cells", about=f"number of cells {TIMED}"),
        Column("Time per cell (min)", about="mean over seeds"),
        Column("Time, all cells (min)"),
        Column("Images/s", about="while training, mean over seeds"),
    )
    rows = []
    for entry in results.entries:
        timed = [results.timings[name] for name in results.cells_of(entry) if name in results.timings]
        if timed:
            minutes = [timing.seconds / 60 for timing in timed]
            rows.append([
                Value(entry.pair), Value(entry.row.label), number(len(timed), 0), number(fmean(minutes)),
                number(sum(minutes)), number(fmean(timing.images_per_second for timing in timed), 0),
            ])  # fmt: skip
    return Sheet("Training time of rows", columns, rows, heads=2)


def cells(results: Results) -> Sheet:
    """Return what each cell was trained with; the column of accepted changes is there only where there are some."""
    frame = tables.cells(results)
    kept = [key for key in PROVENANCE if key in frame and (key != "accepted" or frame[key].any())]
    columns = tuple(Column(PROVENANCE[key], is_number=key == "seed") for key in kept)
    rows = [
        [number(value, 0) if key == "seed" else Value(str(value)) for key, value in zip(kept, line, strict=True)]
        for line in frame[kept].itertuples(index=False)
    ]
    return Sheet("Provenance of cells", columns, rows)


def number(value: float | None, digits: int = 2, *, is_strong: bool = False) -> Value:
    """Format a number for people, and keep it for sorting; None is a dash."""
    if value is None:
        return ABSENT
    return Value(f"{value:,.{digits}f}".replace("-", MINUS), float(value), is_strong)


def signed(value: float | None) -> str:
    """Format a difference with its sign; None is a dash."""
    return NOTHING if value is None else f"{value:+.2f}".replace("-", MINUS)


def _line(results: Results, entry: Entry) -> list[Value]:
    compared = entry.compared
    within = {None: ABSENT, True: Value("yes"), False: Value("no")}[entry.is_within_noise]
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
        *(number(_mean(results, entry, key), digits) for key, digits in METRICS.items()),
    ]


def _with_budget(value: Value, entry: Entry) -> Value:
    """Mark a value with § where the row was not trained with what the caption says."""
    return replace(value, sign="§", about=_budget(entry)) if entry.budget else value


def _budget(entry: Entry) -> str:
    return f"trained with another budget: {' and '.join(entry.budget)}"


def _published(entry: Entry) -> Value:
    """Return the published figure, marked with † where it is doubtful."""
    if entry.figure is None:
        return number(None)
    value, doubt = number(entry.figure.top1), entry.figure.doubt
    return replace(value, sign="†", about=f"doubtful: {doubt}") if doubt else value


def _mean(results: Results, entry: Entry, key: str) -> float | None:
    """Average a metric over the seeds of a row; None where one is missing, because no seed is left out of a mean."""
    values = [network[key] for network in results.measured(entry) if key in network]
    return None if entry.missing or len(values) < len(entry.values) else fmean(values)


def _difference(value: float | None, *, is_strong: bool = False) -> Value:
    return ABSENT if value is None else Value(signed(value), value, is_strong)


def _p_value(value: float | None) -> Value:
    return ABSENT if value is None else Value(_p(value), value)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _tile(entry: Entry, limit: float) -> Tile:
    where = f"{entry.pair}, {entry.row.label}"
    if entry.missing:
        return Tile(MISSING, f"{where}: {len(entry.missing)} of {entry.seeds} seeds have no result", "missing")
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
