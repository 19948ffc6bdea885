"""Points of the matrix that are not trained.

DVC's matrix knows no exceptions and has a stage for each of them, which writes a marker instead of results.
"""

from pathlib import Path
from typing import Any

from kdcore.matrix.cell import Cell
from kdcore.system.files import replace_text

KEY = "left_out"
"""The key that tells a card of such a point from those of cells."""
MARKER = "left out of the matrix by params.yaml: by exclude, or because the variant changes nothing here\n"


def card(cell: Cell) -> dict[str, Any]:
    """Make the card of a point that is not trained."""
    return {"name": cell.name, "pair": cell.pair, KEY: True}


def is_left_out(card: dict[str, Any]) -> bool:
    """Whether a card is that of a point that is not trained."""
    return KEY in card


def mark(output: Path) -> None:
    """Write the marker to where a cell has the folder of its results; DVC has removed what was there."""
    replace_text(output, MARKER)
