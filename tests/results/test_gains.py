"""Gains over other rows: over which, and what their seeds support."""

import pytest
from scipy import stats

from kdcore.results import significance
from kdcore.results.entry import KD, PLAIN, STUDENT, Entry
from kdcore.results.gains import reference, with_gains
from kdcore.results.row import Row

STUDENT_ROW, AT, KD_ROW = Row("vanilla"), Row("at"), Row("kd", 1, False)
SDD, DKD, T2, T2_SDD = Row("kd", 2, False), Row("dkd", 1, False), Row("kd", 1, False, "t2"), Row("kd", 2, False, "t2")
FAST, FAST_KD = Row("vanilla", variant="fast"), Row("kd", 1, False, "fast")
ALL = [STUDENT_ROW, FAST, AT, KD_ROW, T2, FAST_KD, SDD, T2_SDD, DKD]


def gains(values, retrained=(), **changes):
    """Gains of rows with these values, one per seed; `changes` by the row's label."""
    entries = [
        Entry(**{"pair": "a-b", "row": row, "values": tuple(of), "declared": tuple(range(len(of)))}
              | changes.get(row.label, {}))
        for row, of in values.items()
    ]  # fmt: skip
    return {entry.row: entry for entry in with_gains(entries, retrained)}


@pytest.mark.parametrize(("row", "over"), [
    (STUDENT_ROW, (None, None, None)),
    (FAST, (STUDENT_ROW, STUDENT_ROW, None)),
    (AT, (None, STUDENT_ROW, KD_ROW)),
    (KD_ROW, (None, STUDENT_ROW, None)),
    (T2, (KD_ROW, STUDENT_ROW, KD_ROW)),
    (FAST_KD, (KD_ROW, FAST, KD_ROW)),
    (SDD, (KD_ROW, STUDENT_ROW, KD_ROW)),
    (T2_SDD, (T2, STUDENT_ROW, T2)),
    (DKD, (None, STUDENT_ROW, KD_ROW)),
    (Row("kd", 2, False, "heavy"), (KD_ROW, STUDENT_ROW, KD_ROW)),
    (Row(None), (None, None, None)),
])  # fmt: skip
def test_rows_that_gains_are_over(row, over):
    """Those of the same variant, else those of base."""
    assert tuple(reference(row, kind, ALL) if row.method else None for kind in (PLAIN, STUDENT, KD)) == over


def test_a_row_that_stands_under_another_variant_is_the_reference_all_the_same():
    """No second copy of a cell is trained: the plain row of "strong" is that of t2, and its student that of "fast"."""
    strong = Row("kd", 1, True, "strong")
    copies = {Row("kd", 1, False, "strong"): T2, Row("vanilla", variant="strong"): FAST}
    rows = [*ALL, strong]
    assert [reference(strong, kind, rows, copies) for kind in (PLAIN, STUDENT, KD)] == [T2, FAST, T2]
    entries = [Entry("a-b", row, (70.0 + number,), (0,)) for number, row in enumerate(rows)]
    found = {entry.row: entry for entry in with_gains(entries, {"strong", "fast"}, copies)}[strong]
    assert {gain.over for gain in found.gains.values()} == {T2, FAST}
    assert not any(gain.is_unlike for gain in found.gains.values())
    alone = {entry.row: entry for entry in with_gains(entries, {"strong", "fast"})}[strong]
    assert all(gain.is_unlike for gain in alone.gains.values())


def test_points_and_tests():
    rows = {
        STUDENT_ROW: (69.0, 70.0, 69.4),
        AT: (70.2, 70.9, 70.1),
        KD_ROW: (70.0, 71.2, 70.5),
        SDD: (72.0, 72.1, 72.4),
    }
    found = gains(rows)
    assert found[SDD].gains[PLAIN].points == pytest.approx(72.16666667 - 70.56666667)
    assert found[SDD].gains[STUDENT].points == pytest.approx(72.16666667 - 69.46666667)
    assert found[AT].gains[KD].points == pytest.approx(70.4 - 70.56666667)
    assert found[AT].gains[STUDENT].compared.p == pytest.approx(stats.ttest_rel(rows[AT], rows[STUDENT_ROW]).pvalue)
    of_kd = significance.in_blocks([rows[STUDENT_ROW], rows[KD_ROW], rows[SDD]])
    assert [found[row].gains[STUDENT].compared for row in (KD_ROW, SDD)] == of_kd
    p = [found[row].gains[STUDENT].compared.p for row in (AT, KD_ROW, SDD)]
    assert [found[row].gains[STUDENT].adjusted for row in (AT, KD_ROW, SDD)] == significance.holm(p)
    assert found[SDD].gains[PLAIN].adjusted == found[SDD].gains[PLAIN].compared.p


@pytest.mark.parametrize(("seeds", "points", "shared"), [
    ((0, 1), 70.6 - 69.5, 2), ((2, 0), 70.6 - (69.4 + 69.0) / 2, 2), ((1, 3), 70.0 - 70.0, 1),
])  # fmt: skip
def test_other_seeds_have_a_gain_over_those_they_share_without_a_test(seeds, points, shared):
    found = gains({STUDENT_ROW: (69.0, 70.0, 69.4), KD_ROW: (70.0, 71.2)}, KD={"declared": seeds})
    gain = found[KD_ROW].gains[STUDENT]
    assert gain.points == pytest.approx(points)
    assert (gain.shared, gain.n) == (shared, f", n = {shared}")
    assert (gain.compared, gain.adjusted, gain.is_supported) == (None, None, False)


def test_rows_that_share_no_seed_have_no_gain():
    found = gains({STUDENT_ROW: (69.0, 70.0), KD_ROW: (50.0, 51.2)}, KD={"declared": (2, 3)})
    assert found[KD_ROW].gains == {}
    assert not found[KD_ROW].is_below_student


def test_a_gain_over_a_row_that_was_trained_otherwise_and_differs_in_more_is_not_supported():
    """Those of a variant that changes no training, has such a row of its own, or is one, are as they were."""
    values = {STUDENT_ROW: (69.0, 70.0), T2: (80.0, 81.01), FAST_KD: (80.0, 81.01)}
    found = gains(values, retrained={"fast"})
    assert [found[row].gains[STUDENT].is_unlike for row in (T2, FAST_KD)] == [False, True]
    assert [found[row].gains[STUDENT].is_supported for row in (T2, FAST_KD)] == [True, False]
    assert found[FAST_KD].gains[STUDENT].adjusted == found[T2].gains[STUDENT].adjusted
    own = gains({**values, FAST: (69.0, 70.0)}, retrained={"fast"})
    assert not any(own[row].gains[STUDENT].is_unlike for row in (T2, FAST_KD, FAST))
    fast_sdd = Row("kd", 2, False, "fast")
    plain = {KD_ROW: (69.0, 70.0), fast_sdd: (80.0, 81.01)}
    alone = gains(plain, retrained={"fast"})[fast_sdd]
    beside = gains({**plain, FAST_KD: (69.5, 70.0)}, retrained={"fast"})
    assert [alone.gains[kind].is_unlike for kind in (PLAIN, KD)] == [True, True]
    assert not any(beside[row].gains[PLAIN].is_unlike for row in (FAST_KD, fast_sdd))


@pytest.mark.parametrize("row", [KD_ROW, STUDENT_ROW])
def test_a_row_with_a_missing_seed_gains_nothing_and_nothing_is_compared_with_it(row):
    values = {STUDENT_ROW: (69.0, 70.0), KD_ROW: (70.0, 71.2), FAST_KD: (70.0, 71.2)}
    found = gains(values, **{row.label: {"missing": (1,)}})
    assert STUDENT not in found[KD_ROW].gains
    assert (PLAIN in found[FAST_KD].gains) == (row == STUDENT_ROW)


def test_a_variant_whose_own_row_is_missing_is_not_compared_with_base():
    """It would be, were the row excluded."""
    values = {KD_ROW: (70.0, 71.2), T2: (70.0, 71.0), T2_SDD: (72.0, 73.0)}
    entries = [Entry("a-b", row, of, (0, 1), (1,) if row == T2 else ()) for row, of in values.items()]
    assert with_gains(entries)[2].gains == {}
    excluded = Entry("a-b", T2, (), (), excluded=(0, 1))
    assert with_gains([entries[0], excluded, entries[2]])[2].gains[PLAIN].over == KD_ROW


def test_rows_below_the_student_are_marked():
    found = gains({STUDENT_ROW: (69.0, 70.0), FAST: (60.0, 61.0), AT: (68.0, 70.5), FAST_KD: (61.0, 62.0)})
    assert [row for row, entry in found.items() if entry.is_below_student] == [AT]
    assert found[AT].signs == " ↓"
