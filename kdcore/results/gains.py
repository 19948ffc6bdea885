"""How far rows lie above others of their pair, and whether their seeds support it."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from statistics import mean
from types import MappingProxyType

from kdcore import catalog
from kdcore.matrix.cell import BASE
from kdcore.results import significance
from kdcore.results.entry import OVER, PLAIN, STUDENT, Entry, Gain
from kdcore.results.row import Row


def with_gains(
    entries: list[Entry], retrained: Collection[str] = (), copies: Mapping[Row, Row] = MappingProxyType({})
) -> list[Entry]:
    """Return a pair's entries with their gains of every kind.

    Rows are compared where both have all their seeds. The noise is that of all rows of a method that are compared with
    one row, and p is adjusted for all gains of the pair of one kind.

    Args:
        entries: those of the pair.
        retrained: the variants that change settings of training. Where one has no student or plain row of its own, its
            gains are over rows that were trained otherwise.
        copies: rows that the pair has under another variant, which they do not differ from: row -> that one.
    """
    gains: dict[Row, dict[str, Gain]] = {entry.row: {} for entry in entries}
    for kind in OVER:
        for row, gain in _adjusted(_gains(entries, kind, copies)).items():
            own = replace(gain.over.base, variant=row.variant)
            is_own = gain.over in (own, copies.get(own), row.base)
            is_unlike = row.variant in retrained and not is_own
            gains[row][kind] = replace(gain, is_unlike=is_unlike)
    return [replace(entry, gains=gains[entry.row]) for entry in entries]


def reference(
    row: Row, kind: str, rows: Collection[Row], copies: Mapping[Row, Row] = MappingProxyType({})
) -> Row | None:
    """Return the row that a gain of some kind is over: that of the same variant, under whichever name the pair has it,
    else of `BASE`; None for no other.

    Args:
        row: the row that gains.
        kind: one of `OVER`.
        rows: all rows of the pair that are trained.
        copies: see `with_gains`.
    """
    there = {other.variant: other for other in rows if _is_reference(other, row, kind)}
    for copy, other in copies.items():
        if _is_reference(copy, row, kind) and other in rows:
            there.setdefault(copy.variant, other)
    candidates = [there[variant] for variant in (row.variant, BASE) if variant in there]
    return next((other for other in candidates if other != row), None)


def untested(entry: Entry, other: Entry) -> Gain | None:
    """Return how far an entry lies above another one, over the seeds that both have; None without such seeds, and where
    a seed of one of the two is missing.
    """
    seeds = [seed for seed in entry.declared if seed in other.declared]
    if entry.missing or other.missing or not seeds:
        return None
    own, others = (dict(zip(one.declared, one.values, strict=True)) for one in (entry, other))
    points = mean(own[seed] for seed in seeds) - mean(others[seed] for seed in seeds)
    return Gain(other.row, points, None if entry.declared == other.declared else len(seeds))


def _is_reference(other: Row, row: Row, kind: str) -> bool:
    if kind == PLAIN:
        return other.method == row.method and (other.is_plain or other.scale is None)
    if kind == STUDENT:
        return other.method == catalog.VANILLA
    return other.is_plain and other.method == "kd" and row.method != catalog.VANILLA


def _gains(entries: list[Entry], kind: str, copies: Mapping[Row, Row]) -> dict[Row, Gain]:
    trained = [entry.row for entry in entries if entry.declared and entry.row.method is not None]
    whole = {entry.row: entry for entry in entries if entry.row in trained and not entry.missing}
    compared: dict[tuple[Row, str | None], list[Entry]] = {}
    for entry in whole.values():
        other = reference(entry.row, kind, trained, copies)
        if other in whole:
            compared.setdefault((other, entry.row.method), []).append(entry)
    return {row: gain for (other, _), some in compared.items() for row, gain in _over(whole[other], some).items()}


def _over(other: Entry, entries: list[Entry]) -> dict[Row, Gain]:
    """Compare entries with another one; those whose seeds are not the other's have no test."""
    gains = {entry.row: gain for entry in entries if (gain := untested(entry, other)) is not None}
    alike = [entry for entry in entries if entry.declared == other.declared]
    tests = significance.in_blocks([list(entry.values) for entry in (other, *alike)])
    return gains | {
        entry.row: replace(gains[entry.row], compared=test) for entry, test in zip(alike, tests, strict=True)
    }


def _adjusted(gains: dict[Row, Gain]) -> dict[Row, Gain]:
    p = {row: gain.compared.p for row, gain in gains.items() if gain.compared is not None}
    adjusted = dict(zip(p, significance.holm(list(p.values())), strict=True))
    return {row: replace(gain, adjusted=adjusted.get(row)) for row, gain in gains.items()}
