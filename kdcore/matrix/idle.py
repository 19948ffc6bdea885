"""Say what a params file sets for cells that its matrix does not have, which has no effect."""

import sys
from collections.abc import Iterator
from typing import Any

from kdcore import catalog
from kdcore.matrix.cell import Cell
from kdcore.matrix.params import Params


def warn(matrix: Params, file: str = "params.yaml") -> None:
    """Name on stderr the exceptions and overrides that no cell has. They are not refused, for -S narrows presets.

    Args:
        matrix: the matrix.
        file: the file that it was read from.
    """
    if found := list(_idle(matrix)):
        print(
            f"warning: {file}: no cell of the matrix has these, which have no effect: {', '.join(found)}",
            file=sys.stderr,
        )


def _idle(matrix: Params) -> Iterator[str]:
    cells = list(matrix.cells())
    for number, case in enumerate(matrix.train.exceptions):
        if not any(map(case.covers, cells)):
            yield f"train.exceptions[{number}]"
    yield from _idle_pairs(cells, matrix.methods_config, "methods_config")
    for name, variant in matrix.variants.items():
        own = [cell for cell in cells if cell.variant == name]
        yield from _idle_pairs(own, variant.recipes, f"variants.{name}")


def _idle_pairs(cells: list[Cell], overrides: dict[str, Any], where: str) -> Iterator[str]:
    """List the pairs below the methods of overrides that none of the cells has with the method."""
    trained = {(cell.pair, name) for cell in cells for name in (cell.method, *cell.method.split(catalog.PLUS))}
    for method, layer in overrides.items():
        yield from (
            f"{where}.{method}.pairs.{pair}" for pair in layer.get("pairs", ()) if (pair, method) not in trained
        )
