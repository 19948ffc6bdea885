"""The report: all that a matrix measured on one HTML page, a single file that loads nothing from elsewhere."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdcore.results import captions, tables
from kdcore.results.entry import KD, OVER, PLAIN, STUDENT, Entry
from kdcore.results.report import calibration, charts, diagnostics, robustness, tuning
from kdcore.results.report.filters import filters
from kdcore.results.report.heat import heat_maps
from kdcore.results.report.values import (
    ABSENT,
    Column,
    Sheet,
    Value,
    difference,
    number,
    p_value,
    signed,
    with_signs,
)
from kdcore.results.row import GROUPS, common_label
from kdcore.results.rows import Results
from kdcore.training.timings import Timing

NAME = "report.html"
FOLDER = Path(__file__).parent
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
TIMED = "trained on this machine, from the first epoch to the last without a break, by a process of their own"
GAINS = {STUDENT: "Over student", KD: "Over KD"}
"""Columns of gains besides that over the plain row."""
METRICS = {"agreement": 2, "ece": 2, "nll": 3, "top5": 2}
"""Metrics of every network besides top-1, and how many decimals are shown."""


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
    chosen = filters(results)
    return environment.get_template("report.html.jinja").render(
        filters=chosen,
        of=chosen.of,
        data=results.card["data"],
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        caption=captions.caption(results.card, results.evaluations),
        notes=captions.notes(results),
        incomplete=incomplete(results),
        counts=counts(results),
        heats=heat_maps(results),
        lines=lines(results),
        published=charts.published(results),
        ablations=charts.ablated(results),
        curves=charts.curves(results),
        points=charts.POINTS,
        agreement=charts.agreement(results),
        reliability=calibration.reliability(results),
        networks=networks(results),
        times=times(results),
        cells=cells(results),
        searches=tuning.searches(results.card),
        robustness=robustness.sets(results),
        probes=probes(results),
        diagnostics=diagnostics.figures(results),
        diagnosed_images=diagnostics.images(results),
        diagnosed_rows=diagnostics.rows(results),
        costs=diagnostics.costs(results),
        speeds=diagnostics.speeds(results),
        pareto=diagnostics.pareto_figures(results),
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
    if any(STUDENT in entry.gains for entry in results.entries):
        below = sum(entry.is_below_student for entry in results.entries)
        sums.append(("Rows below the student trained alone", Value(str(below))))
    if best is not None:
        sums.append((f"Largest gain: {best.pair}, {best.row.label}", with_signs(Value(signed(best.gain)), best)))
    return sums


def _done(results: Results) -> tuple[int, int]:
    """Count the cells that have a result, and those that have none."""
    entries = [entry for entry in results.entries if entry.row.method is not None]
    return sum(len(entry.values) for entry in entries), sum(len(entry.missing) for entry in entries)


def lines(results: Results) -> Sheet:
    """Return the table with every row of every pair."""
    accuracy = results.card["accuracy"]
    # Only the accuracy of the best epoch is known.
    last = "" if accuracy == "top1" else ", of the last epoch, not of the one that Top-1 is of"
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Kind", is_number=False),
        Column(
            "Top-1",
            about=f"{captions.protocol(results.card)}; mean over seeds, percent; ↓ below the student trained alone, "
            "§ with another budget",
        ),
        Column("Deviation", about="sample standard deviation over seeds, percentage points"),
        Column("n", about="seeds with a result"),
        Column("Missing", about="seeds without a result"),
        Column("Variant", is_number=False, about="name of the row's changes in params.yaml; base changes nothing"),
        Column(
            "Gain", about=f"over {OVER[PLAIN]} (M=[1], without stand), percentage points; bold where seeds support it"
        ),
        Column("Margin", about="half the 95% confidence interval of the gain, percentage points"),
        Column("p", about="p-value of the gain over the plain row, two-sided, before adjustment"),
        Column("p, adjusted", about="p-value adjusted by Holm's method for all gains of the pair"),
        *(
            Column(title, about=f"gain over {OVER[kind]}, percentage points; bold where seeds support it")
            for kind, title in GAINS.items()
        ),
        Column("Published", about="top-1, percent; † doubtful"),
        Column("Difference", about="measured minus published, percentage points; ≈ within noise"),
        Column("Within noise", is_number=False, about="yes where seeds cannot tell measured and published apart"),
        Column("Agreement", about=f"test images with the teacher's prediction, mean over seeds, percent{last}"),
        Column("ECE", about=f"expected calibration error, mean over seeds, percent{last}"),
        Column("NLL", about=f"negative log-likelihood, mean over seeds, nats{last}"),
        Column("Top-5", about=f"mean over seeds, percent{last}"),
    )
    entries = results.entries
    of = [(entry.place,) for entry in entries]
    groups = [(entry.pair, entry.row.group) for entry in entries]
    starts = frozenset(i for i, (before, group) in enumerate(pairwise(groups), 1) if group != before)
    return Sheet("All rows", columns, [_line(results, entry) for entry in entries], heads=2, of=of, starts=starts)


def probes(results: Results) -> list[Sheet]:
    """Return a table of all rows for each target and protocol of linear probes."""
    found = []
    for (target, protocol), one in results.transfer.items():
        whole = lines(one)
        rows = [row[: -len(METRICS)] for row in whole.rows]
        columns = whole.columns[: -len(METRICS)]
        found.append(replace(whole, title=f"{target}, protocol {protocol}", columns=columns, rows=rows))
    return found


def networks(results: Results) -> Sheet:
    """Return the cost of each pair's networks, and of training its cells where times are known. Below a pair are the
    methods that give the student another end, and with it another cost.
    """
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
    rows, of = [], []
    for evaluation in results.evaluations:
        pair = evaluation["pair"]
        sizes = [
            evaluation[who][what] / 1e6 for what in ("parameters", "multiply_adds") for who in ("teacher", "student")
        ]
        timed = [results.timings[cell["name"]] for cell in evaluation["cells"] if cell["name"] in results.timings]
        hours = number(sum(timing.seconds for timing in timed) / 3600 if timed else None)
        row = [Value(pair), *map(number, sizes), number(len(evaluation["cells"]), 0), hours]
        rows.append(row[: len(columns)])
        of.append(charts.places_of(results, pair))
        for some, cost, count in results.own_costs(pair):
            own = [part for what in ("parameters", "multiply_adds") for part in (ABSENT, number(cost[what] / 1e6))]
            named = Value(f"{pair}, {common_label(some)}")
            rows.append([named, *own, number(count, 0), ABSENT][: len(columns)])
            of.append(tuple((pair, row) for row in some))
    return Sheet(f"Networks{' and training time' if results.timings else ''} of pairs", tuple(columns), rows, of=of)


def times(results: Results) -> Sheet:
    """Return training times per pair and row; no rows where no times are known."""
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Cells", about=f"number of cells {TIMED}"),
        Column("Time per cell (min)", about="mean over seeds"),
        Column("Time, all cells (min)"),
        Column("Images/s", about="while training, mean over seeds; other cells at the same time slow it"),
        Column("Time per step (ms)", about="batch size over images/s, mean over seeds; evaluations included"),
    )
    rows, of = [], []
    for entry in results.entries:
        timed = [results.timings[name] for name in results.cells_of(entry) if name in results.timings]
        if timed:
            of.append((entry.place,))
            minutes = [timing.seconds / 60 for timing in timed]
            rows.append([
                Value(entry.pair), Value(entry.row.label), number(len(timed), 0), number(fmean(minutes)),
                number(sum(minutes)), number(fmean(timing.images_per_second for timing in timed), 0), _step(timed),
            ])  # fmt: skip
    return Sheet("Training time of rows", columns, rows, heads=2, of=of)


def _step(timed: list[Timing]) -> Value:
    steps = [step for timing in timed if (step := timing.step_milliseconds) is not None]
    return number(fmean(steps) if len(steps) == len(timed) else None)


def cells(results: Results) -> Sheet:
    """Return what each cell was trained with; the column of accepted changes is there only where there are some."""
    frame = tables.cells(results)
    kept = [key for key in PROVENANCE if key in frame and (key != "accepted" or frame[key].any())]
    columns = tuple(Column(PROVENANCE[key], is_number=key == "seed") for key in kept)
    rows = [
        [number(value, 0) if key == "seed" else Value(str(value)) for key, value in zip(kept, line, strict=True)]
        for line in frame[kept].itertuples(index=False)
    ]
    places = {name: (entry.place,) for entry in results.entries for name in results.cells_of(entry)}
    return Sheet("Provenance of cells", columns, rows, of=[places.get(name, ()) for name in frame.get("name", ())])


def _line(results: Results, entry: Entry) -> list[Value]:
    plain = entry.gains.get(PLAIN)
    compared = None if plain is None else plain.compared
    within = {None: ABSENT, True: Value("yes"), False: Value("no")}[entry.is_within_noise]
    return [
        Value(entry.pair),
        Value(entry.row.label),
        Value(GROUPS[entry.row.group]),
        Value(entry.lacks.partition(" ")[0], is_absent=True) if entry.lacks else with_signs(number(entry.mean), entry),
        number(entry.deviation),
        number(len(entry.values), 0),
        number(len(entry.missing), 0),
        Value(entry.row.variant),
        difference(entry.gain, is_strong=entry.is_significant),
        number(None if compared is None else compared.margin),
        p_value(None if compared is None else compared.p),
        p_value(None if plain is None else plain.adjusted),
        *(_gain(entry, kind) for kind in GAINS),
        _published(entry),
        replace(difference(entry.difference), **(NOISE if entry.is_within_noise else {})),
        within,
        *(number(_mean(results, entry, key), digits) for key, digits in METRICS.items()),
    ]


def _gain(entry: Entry, kind: str) -> Value:
    gain = entry.gains.get(kind)
    return ABSENT if gain is None else difference(gain.points, is_strong=gain.is_supported)


def _published(entry: Entry) -> Value:
    """Return the published figure, marked with † where it is doubtful."""
    if entry.figure is None:
        return number(None)
    value, doubt = number(entry.figure.top1), entry.figure.doubt
    return replace(value, sign="†", about=f"doubtful: {doubt}") if doubt else value


def _mean(results: Results, entry: Entry, key: str) -> float | None:
    """Average a metric over the seeds of a row; None where one is missing, because no seed is left out of a mean, and
    where all are excluded.
    """
    values = [network[key] for network in results.measured(entry) if key in network]
    return None if entry.lacks or len(values) < len(entry.values) else fmean(values)
