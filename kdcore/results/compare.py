"""Two revisions, experiments or publications side by side: what changed, and whether it is more than seeds' noise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any, Literal

import pandas as pd
from scipy import stats

from kdcore.results import significance
from kdcore.results.published import Figure
from kdcore.results.revisions import Side
from kdcore.results.rows import Row
from kdcore.results.significance import ALPHA
from kdcore.system.errors import RunError, UserError

Kind = Literal["plain", "headline", "row"]
BETTER, WORSE, EQUAL, NOISE, UNKNOWN = "better", "worse", "equal", "not told from noise", "unknown"
PAIRED, WELCH, INTERVAL = "paired t-test", "Welch's t-test", "prediction interval"
INCONCLUSIVE = (NOISE, UNKNOWN)


@dataclass(frozen=True)
class Line:
    """One experiment on both sides, or the headlines of a method where the sides have different ones."""

    pair: str
    method: str
    what: Kind
    """plain: the method as its paper has it. headline: the matrix's highest scale, standardised if stand is in it."""
    row: str
    """Of the old side."""
    new_row: str
    """Of the new side; another one only of headlines."""
    old: float
    """Mean over seeds, in percent."""
    new: float
    difference: float
    """New minus old, in percentage points."""
    margin: float | None
    """Half the width of the difference's interval, of this line alone (not adjusted): the confidence interval of a
    t-test, or the prediction interval around a figure; None where seeds tell nothing of their noise.
    """
    n_old: int | None
    """Seeds; None for a published figure."""
    n_new: int | None
    test: str | None = None
    """What told the difference from noise; None where nothing can."""
    p: float | None = None
    """Of a t-test, adjusted for all lines (Holm); None of an interval."""
    verdict: str = UNKNOWN
    """Better or worse where the difference exceeds the noise of seeds, equal where all values are, not told from noise
    where seeds leave open whether there is a difference, unknown where they tell nothing of their noise.
    """
    doubt: str | None = None
    """Why the published figure may be wrong."""

    def as_record(self) -> dict[str, Any]:
        """Plain values, rounded, for JSON; `beyond_noise` is null where it is unknown."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}
        beyond = None if self.verdict == UNKNOWN else self.verdict in (BETTER, WORSE)
        return {**rounded, "p": self.p, "beyond_noise": beyond}


@dataclass(frozen=True)
class Comparison:
    """All lines, and what is in one side alone."""

    old: Side
    new: Side
    lines: list[Line]

    @property
    def summary(self) -> str:
        """One line that says how many of what, and what could not be compared."""
        counts = Counter(line.verdict for line in self.lines)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (BETTER, WORSE, EQUAL, NOISE, UNKNOWN))
        open_ = sum(counts[verdict] for verdict in INCONCLUSIVE)
        alone = [
            f"{len(set(side.rows) - set(other.rows))} of {side.name}"
            for side, other in ((self.old, self.new), (self.new, self.old))
            if set(side.rows) - set(other.rows)
        ]
        parts = [
            f"{self.old.name} -> {self.new.name}, {self.old.data}: {_count(len(self.lines), 'line')}: {told}",
            *([f"{open_} of {_count(len(self.lines), 'line')} inconclusive"] if open_ else []),
            *([f"rows of one side alone: {', '.join(alone)}"] if alone else []),
            *_on_tests(self.lines),
        ]
        return "; ".join(parts)

    @property
    def differs(self) -> str:
        """One line that says in what the sides' budgets and data differ, as far as that is known; empty for nothing."""
        old, new = _settings(self.old, self.new), _settings(self.new, self.old)
        if not (old and new):
            return ""
        changed = [
            f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
            for key in dict.fromkeys((*old, *new))
            if old.get(key) != new.get(key)
        ]
        return f"differs: {', '.join(changed)}" if changed else ""

    @property
    def doubts(self) -> list[str]:
        """What is to be said below the table of published figures that may be wrong."""
        return [
            f"† {line.row}, {line.pair}, published {line.old if line.n_old is None else line.new:.2f}: {line.doubt}."
            for line in self.lines
            if line.doubt
        ]

    def markdown(self) -> str:
        """A table for an issue or a terminal."""
        columns = ["pair", "row", "", self.old.name, self.new.name, "difference", "margin", "n", "p", "verdict"]
        return pd.DataFrame([_texts(line) for line in self.lines], columns=pd.Index(columns)).to_markdown(
            index=False, disable_numparse=True
        )


def compare(old: Side, new: Side) -> Comparison:
    """Every experiment that both sides have, and the headlines where those are different experiments.

    With the same seeds on both sides the paired t-test, with others Welch's, their p adjusted for all lines (Holm);
    against a published figure the prediction interval of the measured seeds.

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
    """Refuse what is worse than noise explains.

    Args:
        lines: of a comparison.
        tolerance: how many percentage points a line whose noise is unknown may lose; None: any number.

    Returns:
        What was checked, and how much of it was inconclusive.

    Raises:
        RunError: names the lines that are worse.
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
        raise RunError(f"{_count(len(worse), 'line')} of {len(lines)} got worse, {open_} inconclusive:{each}")
    found = f"no regression found in {_count(len(lines), 'line')}"
    if not open_:
        return found
    remedy = " (see --tolerance)" if tolerance is None and unknown else ""
    return f"{found}, {open_} inconclusive: {counts[NOISE]} {NOISE}, {counts[UNKNOWN]} {UNKNOWN}{remedy}"


def _lines(old: Side, new: Side) -> Iterator[Line]:
    kinds = list(dict.fromkeys((pair, str(row.method)) for pair, row in old.rows))
    for pair, method in kinds:
        for (of, row), _ in old.rows.items():
            if (of, row.method) == (pair, method) and (pair, row) in new.rows:
                yield _line(old, new, pair, (row, row), _kind(row, pair, old, new))
        first, second = old.headline(pair, method), new.headline(pair, method)
        if first is not None and second is not None and first != second:
            yield _line(old, new, pair, (first, second), "headline")


def _kind(row: Row, pair: str, old: Side, new: Side) -> Kind:
    if row.is_plain or row.scale is None:
        return "plain"
    headlines = [side.headline(pair, str(row.method)) for side in (old, new) if not side.is_published]
    return "headline" if all(row == headline for headline in headlines) else "row"


def _line(old: Side, new: Side, pair: str, of: tuple[Row, Row], what: Kind) -> Line:
    first, second = old.rows[pair, of[0]], new.rows[pair, of[1]]
    before, after = list(first.values()), list(second.values())
    line = Line(
        pair,
        str(of[0].method),
        what,
        row=of[0].label,
        new_row=of[1].label,
        old=mean(before),
        new=mean(after),
        difference=mean(after) - mean(before),
        margin=None,
        n_old=None if old.is_published else len(before),
        n_new=None if new.is_published else len(after),
    )
    if old.is_published or new.is_published:
        figure = old.figures[pair, of[0]] if old.is_published else new.figures[pair, of[1]]
        line = _against_figure(line, before if new.is_published else after, figure)
    if before == after or len({*before, *after}) == 1:
        return replace(line, verdict=EQUAL)
    if old.is_published or new.is_published or min(len(before), len(after)) < 2:
        return line
    if set(first) == set(second):
        return _paired(line, [second[seed] for seed in first], before)
    return _welch(line, after, before)


def _paired(line: Line, after: list[float], before: list[float]) -> Line:
    compared = significance.paired(after, before)
    return line if compared is None else replace(line, test=PAIRED, p=compared.p, margin=compared.margin)


def _welch(line: Line, after: list[float], before: list[float]) -> Line:
    if significance.is_noiseless(after) and significance.is_noiseless(before):
        return line
    found = stats.ttest_ind(after, before, equal_var=False)
    low, high = found.confidence_interval(1 - ALPHA)
    return replace(line, test=WELCH, p=float(found.pvalue), margin=float(high - low) / 2)


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
    """Of params.yaml, with the epochs that cells were trained for, of the methods that the other side has, too."""
    shared = {(pair, row.method) for pair, row in other.rows}
    epochs = {count for (pair, row), of in side.epochs.items() if (pair, row.method) in shared for count in of}
    return {**side.settings, **({"train.epochs": " and ".join(map(str, sorted(epochs)))} if epochs else {})}


def _experiments(side: Side) -> str:
    kinds = dict.fromkeys(f"{row.method} of {pair}" for pair, row in side.rows)
    return ", ".join(kinds) or f"no experiment on {side.data}"


def _texts(line: Line) -> list[str]:
    """A line of the table in Markdown."""
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
    """How lines were judged."""
    used = {line.test for line in lines}
    parts = [test for test in (PAIRED, WELCH) if test in used]
    told = [f"{' and '.join(parts)}, two-sided, p < {ALPHA} after Holm's adjustment for all lines"] if parts else []
    if INTERVAL in used:
        told.append(f"figures against the {1 - ALPHA:.0%} prediction interval of as many more runs, line by line")
    if used & {PAIRED, WELCH}:
        told.append(f"margin: half the {1 - ALPHA:.0%} interval of a line's difference, not adjusted")
    if any(line.verdict == UNKNOWN for line in lines):
        told.append("unknown: a side has one seed, or its seeds tell nothing of their noise")
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
