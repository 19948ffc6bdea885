"""Say what a params file sets for cells that its matrix does not have, and which of its teachers no pair has."""

import sys
from collections.abc import Iterator
from typing import Any

from kdcore import catalog
from kdcore.matrix.cell import Cell
from kdcore.matrix.params import Params


def warn(matrix: Params, file: str = "params.yaml") -> None:
    """Name on stderr the exceptions and overrides that no cell has, and the teachers that no pair has. They are not
    refused, for -S narrows presets, and single cells take teachers of no pair (see `kdcore.training.single`).

    Args:
        matrix: the matrix.
        file: the file that it was read from.
    """
    if found := list(_idle(matrix)):
        print(
            f"warning: {file}: no cell of the matrix has these, which have no effect: {', '.join(found)}",
            file=sys.stderr,
        )
    taught = {pair.split("-")[0] for pair in matrix.pairs}
    if others := [name for name in matrix.teachers if name not in taught]:
        removed = " ".join(f"-S '~teachers.{name}'" for name in others)
        print(
            f"warning: {file}: no pair has these teachers, which are fetched or trained all the same: "
            f"{', '.join(others)}; remove them there, or from an experiment by {removed}",
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
