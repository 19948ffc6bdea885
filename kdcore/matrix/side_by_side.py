"""Which cells can be trained side by side, sharing the teacher's outputs (see `kdcore.training.lockstep`)."""

from typing import Any

from kdcore import catalog

SETTINGS = ("epochs", "batch_size", "precision", "threads")
"""Training settings that cells side by side have in common."""


def kind(card: dict[str, Any]) -> str | None:
    """A name that is the same for cells which can be trained side by side; None for a cell that goes alone.

    Those go alone that need no maps of the teacher, see several views, or have their teacher normalise by each batch
    (ofd).

    Args:
        card: of a cell.
    """
    terms = catalog.terms(card["method"])
    needs_maps = any(entry.kind == "feature" for entry in terms)
    if not needs_maps or any(len(entry.views) > 1 or entry.name == "ofd" for entry in terms):
        return None
    return str([card["pair"], card["seed"], card["data"], *(card["train"].get(key) for key in SETTINGS)])
