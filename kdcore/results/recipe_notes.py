"""Say below the tables what a recipe of training adds to the usual one, and what averaged weights reach."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from kdcore.matrix.train_images import ImageKeys
from kdcore.matrix.train_recipe import ADAPTIVE, RecipeKeys
from kdcore.results.rows import Results


def notes(results: Results) -> Iterator[str]:
    """List the notes of the tables.

    Args:
        results: their card holds the settings of section `train` that take effect.
    """
    card = results.card
    of_recipe = [key for key in RecipeKeys.model_fields if key not in ImageKeys.model_fields]
    given = {key: card[key] for key in (*of_recipe, "augmentation") if key in card}
    if given.pop("evaluate_every", None):
        yield f"Networks were measured after {measured(card)} alone."
    if given.get("augmentation") == "none":
        del given["augmentation"]  # has a note of its own
    if card["optimizer"] in ADAPTIVE:
        given = {"optimizer": card["optimizer"], **given}
    if given:
        yield f"Trained with {', '.join(f'{key}: {_written(value)}' for key, value in given.items())}."
    for pair in card["pairs"]:
        if reached := _averages(results, pair):
            means = ", ".join(f"{label} {value:.2f}" for label, value in reached.items())
            yield f"{pair}: averaged weights (ema) reach {means} percent (top-1 after the last epoch, mean over seeds)."


def measured(card: dict[str, Any]) -> str:
    """Say after which epochs networks are measured, by a card with `evaluate_every`."""
    return f"every epoch that {card['evaluate_every']} divides, and the last"


def _averages(results: Results, pair: str) -> dict[str, float]:
    """Return the accuracy of the averaged weights of a pair's rows, by their labels, as means over seeds."""
    cells = [cell for evaluation in results.evaluations for cell in evaluation["cells"]]
    of_cell = {cell["name"]: cell["top1_ema"] for cell in cells if cell.get("top1_ema") is not None}
    found = {}
    for entry in results.entries:
        values = [of_cell[name] for name in results.cells_of(entry) if entry.pair == pair and name in of_cell]
        if values:
            found[entry.row.label] = fmean(values)
    return found


def _written(value: Any) -> str:
    """Write a value as params.yaml has it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
