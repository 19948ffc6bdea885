"""Decide which cells can be trained side by side, sharing the teacher's outputs (see `kdcore.training.lockstep`)."""

from typing import Any

from kdcore import catalog
from kdcore.matrix.train_images import ImageKeys

SETTINGS = (
    *("epochs", "batch_size", "precision", "threads", "per_class", "augmentation", "mixup", "cutmix", "compile"),
    *ImageKeys.model_fields,
)
"""The training settings that must be the same in all cells that are trained side by side."""


def kind(card: dict[str, Any]) -> str | None:
    """Return a text that is the same for cells that can be trained side by side; None for a cell that cannot.

    A cell cannot be trained beside others if it does not use the teacher's maps, if it sees several views, or if its
    teacher normalises by each batch (ofd).

    Args:
        card: the card of a cell.
    """
    terms = catalog.terms(card["method"])
    needs_maps = any(entry.kind == "feature" for entry in terms)
    if not needs_maps or any(len(entry.views) > 1 or entry.name == "ofd" for entry in terms):
        return None
    images = (card["data"], card.get("validation"), card.get("test"))
    return str([card["pair"], card["seed"], *images, *(card["train"].get(key) for key in SETTINGS)])
