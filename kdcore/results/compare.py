"""Compare two revisions, experiments or publications: what changed, and whether it exceeds the noise of seeds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any, Literal

import pandas as pd
from scipy import stats

from kdcore.matrix.cell import BASE
from kdcore.results import significance
from kdcore.results.captions import counted
from kdcore.results.published import Figure
from kdcore.results.revisions import Side
from kdcore.results.row import Row
from kdcore.results.significance import ALPHA
from kdcore.system.errors import RunError, UserError

Kind = Literal["plain", "headline", "row"]
BETTER, WORSE, EQUAL, NOISE, UNKNOWN = "better", "worse", "equal", "not told from noise", "unknown"
PAIRED, WELCH, INTERVAL = "paired t-test", "Welch's t-test", "prediction interval"
INCONCLUSIVE = (NOISE, UNKNOWN)
HEADLINE = (
    "headline: the method with the highest M of its matrix, and with stand if the matrix has it, without a variant"
)


@dataclass(frozen=True)
class Line:
    """One experiment on both sides, or a method's headline rows where the sides have different ones."""

    pair: str
    method: str
    what: Kind
    """plain: the method with M=[1] and without stand. headline: see `HEADLINE`."""
    row: str
    """The row on the old side."""
    new_row: str
    """The row on the new side; it differs from `row` between headlines, and where a variant changes other values."""
    old: float
    """Mean over seeds, in percent."""
    new: float
    difference: float
    """New minus old, in percentage points."""
    margin: float | None
    """Half the width of the difference's interval, for this line alone (not adjusted): the confidence interval of a
    t-test, or the prediction interval around a figure; None where the seeds do not show their noise.
    """
    n_old: int | None
    """Number of seeds; None for a published figure."""
    n_new: int | None
    test: str | None = None
    """The test that decided on the verdict; None where none can."""
    p: float | None = None
    """The p-value of a t-test, adjusted for all lines (Holm); None for an interval."""
    verdict: str = UNKNOWN
    """Better or worse where the difference exceeds the noise of seeds, equal where all values are equal, not told from
    noise where the difference may be noise, unknown where the seeds do not show their noise.
    """
    doubt: str | None = None
    """Why the published figure may be wrong."""

    def as_record(self) -> dict[str, Any]:
        """Return rounded plain values for JSON; `beyond_noise` is null where it is unknown."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}
        beyond = None if self.verdict == UNKNOWN else self.verdict in (BETTER, WORSE)
        return {**rounded, "p": self.p, "beyond_noise": beyond}


@dataclass(frozen=True)
class Comparison:
    """All lines, with both sides."""

    old: Side
    new: Side
    lines: list[Line]

    @property
    def summary(self) -> str:
        """One line of text: how many lines got which verdict, how they were tested, what could not be compared."""
        counts = Counter(line.verdict for line in self.lines)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (BETTER, WORSE, EQUAL, NOISE, UNKNOWN))
        open_ = sum(counts[verdict] for verdict in INCONCLUSIVE)
        alone = [
            f"{len(set(side.rows) - set(other.rows))} of {side.name}"
            for side, other in ((self.old, self.new), (self.new, self.old))
            if set(side.rows) - set(other.rows)
        ]
        parts = [
            f"{self.old.name} -> {self.new.name}, {self.old.data}: {counted(len(self.lines), 'line')}: {told}",
            *([f"{open_} of {counted(len(self.lines), 'line')} inconclusive"] if open_ else []),
            *([f"rows of one side alone: {', '.join(alone)}"] if alone else []),
            *_on_tests(self.lines),
        ]
        return "; ".join(parts)

    @property
    def differs(self) -> str:
        """One line of text: known differences between the sides' budgets, data and teachers; empty where none are."""
        old, new = _settings(self.old, self.new), _settings(self.new, self.old)
        if not (old and new):
            return ""
        changed = [
            f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
            for key in dict.fromkeys((*old, *new))
            if old.get(key) != new.get(key)
        ]
        if self.old.digest and self.new.digest and self.old.digest != self.new.digest:
            changed.append(f"data/{self.new.data} holds other images or labels")
        return f"differs: {', '.join(changed)}" if changed else ""

    @property
    def doubts(self) -> list[str]:
        """Notes below the table about published figures that may be wrong: one per reason, with all its figures."""
        which: dict[str, list[str]] = {}
        for line in self.lines:
            if line.doubt:
                figure = line.old if line.n_old is None else line.new
                which.setdefault(line.doubt, []).append(f"{line.row}, {line.pair}, published {figure:.2f}")
        return [f"† {'; '.join(figures)}: {doubt}." for doubt, figures in which.items()]

    def markdown(self) -> str:
        """Return a table for an issue or a terminal."""
        columns = ["pair", "row", "", self.old.name, self.new.name, "difference", "margin", "n", "p", "verdict"]
        return pd.DataFrame([_texts(line) for line in self.lines], columns=pd.Index(columns)).to_markdown(
            index=False, disable_numparse=True
        )


def compare(old: Side, new: Side) -> Comparison:
    """Compare every experiment that both sides have, and the headlines where those are different experiments.

    With the same seeds on both sides, the paired t-test decides; with other seeds, Welch's. Their p are adjusted for
    all lines (Holm). Against a published figure, the prediction interval of the measured seeds decides.

    Raises:
        UserError: they have no experiment in common.
    """
    lines = list(_lines(old, new))
    if not lines:
        raise UserError(
            f"{old.name} has {_experiments(old)}, {new.name} {_experiments(new)}: none in common; name revisions whose "
            "matrices share a pair and a method"
        )
    adjusted = iter(significance.holm([line.p for line in lines if line.p is not None]))
    lines = [line if line.p is None else _judged(replace(line, p=next(adjusted))) for line in lines]
    return Comparison(old, new, lines)


def check_regressions(lines: Sequence[Line], tolerance: float | None) -> str:
    """Fail where a line got worse by more than noise explains.

    Args:
        lines: the lines of a comparison.
        tolerance: how many percentage points a line whose noise is unknown may lose; None allows any loss.

    Returns:
        A sentence that says how many lines were checked, and how many of them were inconclusive.

    Raises:
        RunError: lists the lines that got worse.
    """
    counts = Counter(line.verdict for line in lines)
    unknown = [line for line in lines if line.verdict == UNKNOWN]
    lost = [line for line in unknown if tolerance is not None and line.difference < -tolerance]
    worse = [line for line in lines if line.verdict == WORSE] + lost
    open_ = counts[NOISE] + counts[UNKNOWN] - len(lost)
    if worse:
        each = "".join(
            f"\n- {line.pair}, {line.new_row}: {line.difference:+.2f} "
            + ("beyond noise" if line.verdict == WORSE else f"with unknown noise, --tolerance {tolerance:g}")
            for line in worse
        )
        raise RunError(f"{counted(len(worse), 'line')} of {len(lines)} got worse, {open_} inconclusive:{each}")
    text = f"no regression found in {counted(len(lines), 'line')}"
    if not open_:
        return text
    remedy = " (see --tolerance)" if tolerance is None and unknown else ""
    return f"{text}, {open_} inconclusive: {counts[NOISE]} {NOISE}, {counts[UNKNOWN]} {UNKNOWN}{remedy}"


def _lines(old: Side, new: Side) -> Iterator[Line]:
    there = {key: key[1] for key in new.rows}
    kinds = list(dict.fromkeys((pair, str(row.method)) for pair, row in old.rows))
    for pair, method in kinds:
        for other, row in old.rows:
            if (other, row.method) == (pair, method) and (pair, row) in there:
                yield _line(old, new, pair, (row, there[pair, row]), _kind(row, pair, old, new))
        first, second = old.headline(pair, method), new.headline(pair, method)
        if first is not None and second is not None and first != second:
            yield _line(old, new, pair, (first, second), "headline")


def _kind(row: Row, pair: str, old: Side, new: Side) -> Kind:
    if row.variant != BASE:
        return "row"
    if row.is_plain or row.scale is None:
        return "plain"
    headlines = [side.headline(pair, str(row.method)) for side in (old, new) if not side.is_published]
    return "headline" if all(row == headline for headline in headlines) else "row"


def _line(old: Side, new: Side, pair: str, both: tuple[Row, Row], what: Kind) -> Line:
    first, second = old.rows[pair, both[0]], new.rows[pair, both[1]]
    before, after = list(first.values()), list(second.values())
    line = Line(
        pair,
        str(both[0].method),
        what,
        row=both[0].label,
        new_row=both[1].label,
        old=mean(before),
        new=mean(after),
        difference=mean(after) - mean(before),
        margin=None,
        n_old=None if old.is_published else len(before),
        n_new=None if new.is_published else len(after),
    )
    if old.is_published or new.is_published:
        figure = old.figures[pair, both[0]] if old.is_published else new.figures[pair, both[1]]
        line = _against_figure(line, before if new.is_published else after, figure)
    if before == after or len({*before, *after}) == 1:
        return replace(line, verdict=EQUAL)
    if old.is_published or new.is_published or min(len(before), len(after)) < 2:
        return line
    if set(first) == set(second):
        return _paired(line, [second[seed] for seed in first], before)
    return _welch(line, after, before)


def _paired(line: Line, after: list[float], before: list[float]) -> Line:
    (compared,) = significance.in_blocks([before, after])
    return line if compared is None else replace(line, test=PAIRED, p=compared.p, margin=compared.margin)


def _welch(line: Line, after: list[float], before: list[float]) -> Line:
    if significance.is_noiseless(after) and significance.is_noiseless(before):
        return line
    test = stats.ttest_ind(after, before, equal_var=False)
    low, high = test.confidence_interval(1 - ALPHA)
    return replace(line, test=WELCH, p=float(test.pvalue), margin=float(high - low) / 2)


def _against_figure(line: Line, measured: list[float], figure: Figure) -> Line:
    line = replace(line, doubt=figure.doubt)
    allowed = significance.noise(measured, figure.runs)
    if allowed is None:
        return line
    verdict = NOISE if abs(line.difference) <= allowed else _direction(line)
    return replace(line, test=INTERVAL, margin=allowed, verdict=verdict)


def _judged(line: Line) -> Line:
    return replace(line, verdict=_direction(line) if line.p is not None and line.p < ALPHA else NOISE)


def _direction(line: Line) -> str:
    return BETTER if line.difference > 0 else WORSE


def _settings(side: Side, other: Side) -> dict[str, str]:
    """Return settings of params.yaml, of teachers and variants only those of rows on both sides; what became of these
    teachers; and the epochs that the cells of methods on both sides were trained for.
    """
    shared = {(pair, row.method, row.variant) for pair, row in other.rows}
    epochs = {
        count
        for (pair, row), counts in side.epochs.items()
        if (pair, row.method, row.variant) in shared
        for count in counts
    }
    pairs = {pair for pair, _ in side.rows} & {pair for pair, _ in other.rows}
    teachers = sorted({pair.partition("-")[0] for pair in pairs})
    variants = {row.variant for _, row in side.rows} & {row.variant for _, row in other.rows}
    named = {"teachers": teachers, "variants": variants}
    known = {}
    for key, text in side.settings.items():
        section, _, below = key.partition(".")
        if other.settings and (section not in named or below.partition(".")[0] in named[section]):
            known[key] = text
    became = {
        f"teachers.{name}.{key}": str(value)
        for name in teachers
        if name in side.metrics.get("teachers", {}) and name in other.metrics.get("teachers", {})
        for key, value in side.metrics["teachers"][name].items()
    }
    trained = {"train.epochs": " and ".join(map(str, sorted(epochs)))} if epochs else {}
    return {**known, **became, **trained}


def _experiments(side: Side) -> str:
    kinds = dict.fromkeys(f"{row.method} of {pair}" for pair, row in side.rows)
    return ", ".join(kinds) or f"no experiment on {side.data}"


def _texts(line: Line) -> list[str]:
    """Return the fields of a line in the Markdown table."""
    return [
        line.pair,
        line.row if line.row == line.new_row else f"{line.row} -> {line.new_row}",
        "" if line.what == "row" else line.what,
        f"{line.old:.2f}" + ("†" if line.doubt and line.n_old is None else ""),
        f"{line.new:.2f}" + ("†" if line.doubt and line.n_new is None else ""),
        f"{line.difference:+.2f}",
        "" if line.margin is None else f"{line.margin:.2f}",
        " / ".join("figure" if n is None else str(n) for n in (line.n_old, line.n_new)),
        "" if line.p is None else f"{line.p:.2g}",
        line.verdict,
    ]


def _on_tests(lines: Sequence[Line]) -> list[str]:
    """Explain how lines were judged, and the words of the table."""
    used = {line.test for line in lines}
    parts = [test for test in (PAIRED, WELCH) if test in used]
    told = [f"{' and '.join(parts)}, two-sided, p < {ALPHA} after Holm's adjustment for all lines"] if parts else []
    if INTERVAL in used:
        told.append(f"figures against the {1 - ALPHA:.0%} prediction interval of as many more runs, line by line")
    if used & {PAIRED, WELCH}:
        told.append(f"margin: half the {1 - ALPHA:.0%} interval of a line's difference, not adjusted")
    if any(line.verdict == UNKNOWN for line in lines):
        told.append("unknown: a side has one seed, or its seeds do not show their noise")
    if any(line.what == "headline" for line in lines):
        told.append(HEADLINE)
    return told
