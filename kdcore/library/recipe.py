"""Hyper-parameters for those who use kdcore as a library: published ones, or a dictionary of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcore import catalog
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.system.errors import UserError, shown

LEVELS = (1, 2, 4)
NO_PAIR = "-"
"""Stands for a pair that is not named, for which no paper has values of its own."""


def recipe(
    method: str,
    dataset: str = recipes.BASE,
    *,
    pair: str | None = None,
    levels: Sequence[int] = (1,),
    stand: bool = False,
) -> dict[str, Any]:
    """Look up the published hyper-parameters of a method, to use them as they are or with changes.

    Args:
        method: a method, such as "dkd", or a sum, such as "crd+kd"; `python -m kdcore.methods` lists them.
        dataset: a data set of data/recipes.yaml: cifar100, imagenet and others.
        pair: names of teacher and student, such as "resnet32x4-resnet8x4", where the values published for this pair
            are wanted; without it, or where there are none, those of the method.
        levels: SDD's pyramid levels, some of 1, 2, 4; they add the weights of regions, and may change other values.
        stand: whether logits are standardised (LSKD), with which papers publish other temperatures and weights.

    Returns:
        Parameter -> value, as section `methods_config` of params.yaml has it; the terms of a sum stand below their
        names: {"ce_weight": 1.0, "crd": {...}, "kd": {...}}.

    Raises:
        UserError: there is no such method, data set, pair or level.
    """
    return _nested(published(cell(method, pair=pair, levels=levels, stand=stand), dataset))


def cell(method: str, *, pair: str | None, levels: Sequence[int], stand: bool) -> Cell:
    """Return the cell of the matrix that a loss stands for; arguments and errors as for `recipe`."""
    try:
        if method == catalog.VANILLA:
            raise ValueError("method vanilla distils nothing; take torch.nn.CrossEntropyLoss")
        kind = catalog.kind(method)
        if pair is not None:
            catalog.check_pair(pair)
    except ValueError as error:
        raise UserError(str(error)) from error
    scale = _scale(levels)
    if kind == "logit":
        return Cell(pair or NO_PAIR, method, 0, scale, bool(stand))
    if scale != 1 or stand:
        raise UserError(
            f"{method} compares features, and {'levels' if scale != 1 else 'stand'} is for logits: leave it out, or "
            f"take a sum with a logit method, such as {method}+kd"
        )
    return Cell(pair or NO_PAIR, method, 0)


def _scale(levels: Any) -> int | str:
    """Return the scale that names these levels: (1, 2, 4) -> 4, (1, 4) -> "L1_4"."""
    known = isinstance(levels, Sequence) and all(type(level) is int and level in LEVELS for level in levels)
    if not known or not levels or list(levels) != sorted(set(levels)):
        raise UserError(f"levels: {shown(levels)} must be a rising choice of 1, 2 and 4, such as (1, 2, 4)")
    whole = {pyramid: scale for scale, pyramid in catalog.PYRAMIDS.items()}
    return whole.get(tuple(levels), f"L{'_'.join(map(str, levels))}")


def published(of: Cell, dataset: str) -> dict[str, Any]:
    """Return the published recipe of a cell, the terms of a sum with their names before their keys.

    Raises:
        UserError: data/recipes.yaml has no such data set, or lacks a value of the method.
    """
    known = recipes.published()
    try:
        catalog.check_known(dataset, [name for name in known if name != "sources"], "data set of recipes")
    except ValueError as error:
        raise UserError(f"{error}; or give a dictionary of your own") from error
    try:
        found = recipes.resolve(of, dataset=dataset, published=known, overrides={}, stand_recipe="paper")
    except UserError as error:
        raise UserError(f"data/recipes.yaml has no recipe of {of.method}; give a dictionary of your own") from error
    return {key: value.value for key, value in found.items()}


def own(of: Cell, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe of one's own in the form of `published`.

    Args:
        of: the cell.
        values: in the form that `recipe` returns.

    Raises:
        UserError: a value is unknown, not allowed or missing; names the key.
    """
    recipes.check_overrides({of.method: dict(values)}, "recipe")
    found = recipes.overridden(of, {of.method: dict(values)})
    missing = [key for key in recipes.needed(of) if key not in found and key.rpartition(".")[2] not in catalog.UNSAID]
    if missing and all(key.rpartition(".")[2] in catalog.DECOUPLED for key in missing):
        usual = recipes.published()[recipes.BASE]["scales"]
        as_published = ", ".join(f"{key!r}: {usual[key.rpartition('.')[2]]!r}" for key in missing)
        raise UserError(
            f"recipe: {of.method} needs {', '.join(missing)} too, for its regions; as SDD published them: "
            f"{as_published}"
        )
    if missing:
        raise UserError(
            f"recipe: {of.method} needs {', '.join(missing)} too. To change some of the published values, write "
            f"{{**kdcore.recipe({of.method!r}, ...), {missing[0]!r}: ...}}, with the levels and stand of the loss"
        )
    if "fusion_as_published" in found.values() and catalog.levels(of.scale)[0] != 1:
        raise UserError("recipe: decoupling fusion_as_published needs the whole image: let levels begin with 1")
    return found


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with the values of a sum's terms below their names."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        term, _, name = key.rpartition(".")
        (found.setdefault(term, {}) if term else found)[name] = value
    return found
