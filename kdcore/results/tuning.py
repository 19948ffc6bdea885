"""What the tables say of values that a search has chosen (`python -m stages.tune`)."""

from collections.abc import Iterator
from typing import Any

from kdcore.results.row import Row, in_words


def notes(card: dict[str, Any]) -> Iterator[str]:
    """Say of each variant that a search has chosen how it was chosen, and that test images had no part in it.

    Args:
        card: of stage tables.
    """
    for found in card.get("tuning", {}).values():
        differs = found.get("differs", ())
        other = f" The search had other values of {', '.join(differs)} than the cells." if differs else ""
        yield f"{label(found)}: chosen by {protocol(found)}; test images were not used.{other}"


def label(found: dict[str, Any]) -> str:
    """Name the rows that a search has chosen as the tables do: "KD + SDD [1,2], T=3.2".

    Args:
        found: the record of the search.
    """
    about = found["protocol"]
    values = {_short(key, about["method"]): value for key, value in found["best"]["values"].items()}
    return Row(about["method"], about["scale"], about["stand"], change=in_words(values)).label


def _short(key: str, method: str) -> str:
    """Write a parameter without the name of its method, and a setting without that of its section: "temperature"."""
    return key.removeprefix(f"{method}.").removeprefix("train.")


def protocol(found: dict[str, Any]) -> str:
    """Say how many trials a search had, how many of them ended early, on which images, and the best score."""
    about = found["protocol"]
    trials = about["trials"]
    counts = {"stopped early": trials["pruned"], "diverged": trials["failed"]}
    ends = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    seeds = f" and {len(about['seeds'])} seeds" if len(about["seeds"]) > 1 else ""
    return (
        f"{trials['done']} trial{'' if trials['done'] == 1 else 's'}{f' ({ends})' if ends else ''} on "
        f"{100 * about['validation']:g}% of the training images of {', '.join(about['pairs'])}{seeds} "
        f"(validation accuracy {found['best']['score']:.2f}%)"
    )
