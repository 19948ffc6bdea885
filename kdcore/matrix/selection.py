"""Check that all variants and exclusions of a matrix mean something, and find cells that would be trained twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcore.catalog import levels
from kdcore.matrix.cell import BASE, Cell
from kdcore.matrix.params import Params
from kdcore.matrix.recipes import Recipe
from kdcore.matrix.selector import SELECTORS, Selector
from kdcore.matrix.train_card import cell_settings
from kdcore.system.errors import UserError


def check(params: Params, resolved: Mapping[Cell, Recipe], file: str = "params.yaml") -> None:
    """Refuse variants and exclusions that name no cell, variants that are equal, and a matrix without any cell.

    Args:
        params: the matrix.
        resolved: the recipes of its cells.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the key.
    """
    points = list(params.points())
    declared = [cell for cell in points if params.is_declared(cell)]
    for number, selector in enumerate(params.exclude):
        if not any(selector.covers(cell) for cell in declared):
            raise UserError(
                f"{file}: exclude[{number}] names no cell of the matrix: {_why(selector, declared)}; correct it, or "
                "remove it (-S 'exclude=[]' removes all)"
            )
    for name in sorted(params.variants.keys() - {cell.variant for cell in declared}):
        raise UserError(
            f"{file}: variants.{name} changes nothing in any cell of the matrix: {_why_idle(params, name, points)}; "
            f"correct it, or remove it (-S '~variants.{name}')"
        )
    if not resolved:
        raise UserError(f"{file}: exclude leaves out every cell of the matrix; keep some")
    for name, other in repeated(params, resolved).items():
        raise UserError(
            f"{file}: variants.{name}: all of its cells would be trained as those of {other}; change a value, "
            "or remove it"
        )


def copies(params: Params, resolved: Mapping[Cell, Recipe]) -> dict[Cell, Cell]:
    """Find cells that would be trained exactly as another one of the same pair, method, scale, stand and seed.

    Args:
        params: the matrix.
        resolved: the recipes of its cells.

    Returns:
        Such a cell -> the other one, of `BASE` or of a variant that stands before.
    """
    found: dict[Cell, Cell] = {}
    if len(params.variants) == 1:
        return found
    first: dict[Any, Cell] = {}
    place = {name: number for number, name in enumerate(sorted(params.variants, key=lambda name: name != BASE))}
    for cell in sorted(resolved, key=lambda cell: place[cell.variant]):
        values = tuple((key, value.value) for key, value in resolved[cell].items())  # of which 4 and 4.0 are equal
        trained = hashable(cell_settings(cell, params.settings(cell)))
        key = (cell.pair, cell.method, cell.scale, cell.stand, cell.seed, values, trained)
        other = first.setdefault(key, cell)
        if other is not cell:
            found[cell] = other
    return found


def hashable(value: Any) -> Any:
    """A value of a card as tuples, which are equal where the values are."""
    if isinstance(value, dict):
        return tuple((key, hashable(part)) for key, part in sorted(value.items()))
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def repeated(params: Params, resolved: Mapping[Cell, Recipe]) -> dict[str, str]:
    """Find variants whose cells would all be trained as others.

    Args:
        params: the matrix.
        resolved: the recipes of its cells.

    Returns:
        Such a variant -> those whose cells they are.
    """
    copied = copies(params, resolved)
    names = {cell.variant for cell in copied} - {cell.variant for cell in resolved if cell not in copied}
    return {
        name: " and ".join(dict.fromkeys(other.variant for cell, other in copied.items() if cell.variant == name))
        for name in params.variants
        if name in names
    }


def _why(selector: Selector, cells: Sequence[Cell]) -> str:
    """Say why a selector names none of these cells."""
    held: dict[str, set[Any]] = {
        "pairs": {cell.pair for cell in cells},
        "teachers": {cell.teacher for cell in cells},
        "students": {cell.student for cell in cells},
        "methods": {cell.method for cell in cells},
        "scales": {levels(cell.scale) for cell in cells if cell.scale is not None},
        "stand": {cell.stand for cell in cells},
        "variants": {cell.variant for cell in cells},
        "seeds": {cell.seed for cell in cells},
    }
    strangers = [
        f"{key}: {value}"
        for key in SELECTORS
        for value in getattr(selector, key) or ()
        if (levels(value) if key == "scales" else value) not in held[key]
    ]
    return f"none has {', '.join(strangers)}" if strangers else "none has all that it names at once"


def _why_idle(params: Params, name: str, points: Sequence[Cell]) -> str:
    """Say why a variant changes no cell."""
    variant = params.variants[name]
    others = [cell for cell in points if cell.variant == name]
    if variant.only is not None and not any(map(variant.is_for, others)):
        return f"`only` names no cell, for {_why(variant.only, others)}"
    keys = [*variant.recipes, *(f"train.{key}" for key in variant.train)]
    if not keys:
        return "it holds no values"
    return f"no cell uses {', '.join(keys)}, or all have these values already"
