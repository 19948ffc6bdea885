"""What captions and notes say about gains: over which rows they are, and what their seeds support."""

from collections.abc import Iterator

from kdcore.catalog import levels
from kdcore.results.ablation import ablations
from kdcore.results.entry import BELOW, Entry
from kdcore.results.row import Card
from kdcore.results.rows import Results
from kdcore.results.significance import ALPHA


def in_parentheses(card: Card) -> str:
    """Explain the gains in parentheses, where the matrix has rows with them."""
    has_variants = len(card["variants"]) > 1
    has_plain = False in card["stand"] and any(levels(scale) == (1,) for scale in card["scales"])
    if not has_variants and (not has_plain or len(card["scales"]) * len(card["stand"]) < 2):
        return ""
    same = ", of the same variant where the matrix has it" if has_variants else ""
    return f"In parentheses, the gain over the method's plain row (M=[1], without stand{same}){_bold(card)}. "


def _bold(card: Card) -> str:
    if len(card["seeds"]) < 2:
        return "; with one seed no gain is told from noise, and none is bold"
    return (
        f"; bold where {len(card['seeds'])} seeds support it (paired over seeds, with the noise of the method's rows "
        f"pooled; two-sided t-test, p < {ALPHA} after Holm's adjustment for all gains of a pair over the same kind of "
        "row; the others may be gains too)"
    )


def notes(results: Results) -> Iterator[str]:
    """List the notes without which gains and their marks cannot be understood."""
    yield from _below_notes(results.entries)
    yield from _unlike_notes(results.entries)
    if any(gain.shared for entry in results.entries for gain in entry.gains.values()):
        yield "n behind a gain: the two rows have other seeds; the gain is over those that both have, and has no test."
    keys = ", ".join(found.key for found in ablations(results))
    if keys:
        yield (
            f"Ablation over {keys}: in parentheses, the gain over the row of the same line that no variant changes, "
            "without a test; a line that has no such row has none."
        )


def _below_notes(entries: list[Entry]) -> Iterator[str]:
    if any(entry.is_below_student for entry in entries):
        yield (
            f"{BELOW} The mean lies below that of the student trained alone (of the same variant, where the matrix has "
            "it), over the seeds that both have, whether they support the difference or not."
        )


def _unlike_notes(entries: list[Entry]) -> Iterator[str]:
    rows = {
        f"{entry.row.label} over {gain.over.label}": None
        for entry in entries
        for gain in entry.gains.values()
        if gain.is_unlike
    }
    if rows:
        which = "; ".join(rows)
        yield f"Gains over rows that were trained with other settings, so partly due to these; never bold: {which}."
