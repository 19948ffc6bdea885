"""Two revisions, experiments or publications side by side: what changed, and whether it is more than seeds' noise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, stdev
from typing import Any, Literal

import pandas as pd
from scipy import stats

from kdcore import statistics
from kdcore.errors import RunError, UserError
from kdcore.results import Row
from kdcore.revisions import Side
from kdcore.statistics import ALPHA

Kind = Literal["plain", "headline", "row"]
BETTER, WORSE, NOISE, UNKNOWN = "better", "worse", "within noise", "unknown"
PAIRED, WELCH, INTERVAL = "paired t-test", "Welch's t-test", "prediction interval"
LEAST = 1e-9
"""Standard deviation below which seeds tell nothing of their noise."""


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
    n_old: int | None
    """Seeds; None for a published figure."""
    n_new: int | None
    test: str | None = None
    """What told the difference from noise; None where nothing can."""
    p: float | None = None
    """Of a t-test, adjusted for all lines (Holm); None of an interval."""
    verdict: str = UNKNOWN
    """Better or worse where the difference exceeds the noise of seeds, within noise where it does not, unknown where a
    side has one seed or seeds differ in nothing.
    """

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
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (BETTER, WORSE, NOISE, UNKNOWN))
        alone = [
            f"{len(set(side.rows) - set(other.rows))} of {side.name}"
            for side, other in ((self.old, self.new), (self.new, self.old))
            if set(side.rows) - set(other.rows)
        ]
        parts = [
            f"{self.old.name} -> {self.new.name}, {self.old.data}: {_count(len(self.lines), 'line')}: {told}",
            *([f"rows of one side alone: {', '.join(alone)}"] if alone else []),
            *_on_tests(self.lines),
        ]
        return "; ".join(parts)

    def markdown(self) -> str:
        """A table for an issue or a terminal."""
        columns = ["pair", "row", "", self.old.name, self.new.name, "difference", "n", "p", "verdict"]
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
    adjusted = iter(statistics.holm([line.p for line in lines if line.p is not None]))
    lines = [line if line.p is None else _judged(replace(line, p=next(adjusted))) for line in lines]
    return Comparison(old, new, lines)


def check_regressions(lines: Sequence[Line], tolerance: float | None) -> str:
    """Refuse what is worse than noise explains.

    Args:
        lines: of a comparison.
        tolerance: how many percentage points a line whose noise is unknown may lose; None: any number.

    Returns:
        What was checked.

    Raises:
        RunError: names the lines that are worse.
    """
    unknown = [line for line in lines if line.verdict == UNKNOWN]
    lost = [line for line in unknown if tolerance is not None and line.difference < -tolerance]
    worse = [line for line in lines if line.verdict == WORSE] + lost
    if worse:
        each = "".join(
            f"\n- {line.pair}, {line.new_row}: {line.difference:+.2f} "
            + ("beyond noise" if line.verdict == WORSE else f"with unknown noise, --tolerance {tolerance:g}")
            for line in worse
        )
        raise RunError(f"{_count(len(worse), 'line')} of {len(lines)} got worse:{each}")
    if tolerance is None and unknown:
        return f"no regression found; {len(unknown)} of {len(lines)} lines could not be judged (see --tolerance)"
    return f"no regression found in {_count(len(lines), 'line')}"


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
        n_old=None if old.is_published else len(before),
        n_new=None if new.is_published else len(after),
    )
    if old.is_published or new.is_published:
        return _against_figure(line, before if new.is_published else after)
    if min(len(before), len(after)) < 2:
        return line
    if set(first) == set(second):
        return _paired(line, [second[seed] for seed in first], before)
    if max(stdev(before), stdev(after)) < LEAST:
        return line
    return replace(line, test=WELCH, p=float(stats.ttest_ind(after, before, equal_var=False).pvalue))


def _paired(line: Line, after: list[float], before: list[float]) -> Line:
    compared = statistics.paired(after, before)
    if compared is not None:
        return replace(line, test=PAIRED, p=compared.p)
    return replace(line, test=PAIRED, verdict=NOISE) if after == before else line


def _against_figure(line: Line, measured: list[float]) -> Line:
    allowed = statistics.noise(measured)
    if allowed is None:
        return line
    verdict = NOISE if abs(line.difference) <= allowed else _direction(line)
    return replace(line, test=INTERVAL, verdict=verdict)


def _judged(line: Line) -> Line:
    return replace(line, verdict=_direction(line) if line.p is not None and line.p < ALPHA else NOISE)


def _direction(line: Line) -> str:
    return BETTER if line.difference > 0 else WORSE


def _experiments(side: Side) -> str:
    kinds = dict.fromkeys(f"{row.method} of {pair}" for pair, row in side.rows)
    return ", ".join(kinds) or f"no experiment on {side.data}"


def _texts(line: Line) -> list[str]:
    """A line of the table in Markdown."""
    return [
        line.pair,
        line.row if line.row == line.new_row else f"{line.row} -> {line.new_row}",
        "" if line.what == "row" else line.what,
        f"{line.old:.2f}",
        f"{line.new:.2f}",
        f"{line.difference:+.2f}",
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
        told.append(f"figures against the {1 - ALPHA:.0%} prediction interval of one more run, line by line")
    if any(line.verdict == UNKNOWN for line in lines):
        told.append("unknown: a side has one seed, or its seeds tell nothing of their noise")
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
