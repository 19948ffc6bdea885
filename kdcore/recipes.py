"""Hyper-parameters of a cell: what the paper of the method says, overridden by what params.yaml says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdcore import catalog
from kdcore.cell import Cell
from kdcore.errors import UserError
from kdcore.levels import levels

COMMON = {"ce_weight": ">= 0", "kd_weight": ">= 0", "warmup": ">= 0"}
"""Of every method: the weights of cross-entropy and of its loss, and the epochs over which the latter rises."""
DECOUPLED = {"complementary_weight": ">= 0"}
"""Of logit methods with more than the global region."""


@dataclass(frozen=True)
class Value:
    """One hyper-parameter."""

    value: float | int | str
    source: str
    """<repository>:<file>, "inherited from ...", or "params.yaml"."""


Recipe = dict[str, Value]


def resolve(
    cell: Cell, *, dataset: str, published: dict[str, Any], overrides: dict[str, Any], stand_recipe: str
) -> Recipe:
    """The recipe of a cell.

    Args:
        cell: method, pair, scale and stand decide.
        dataset: name of the data set.
        published: content of data/recipes.yaml.
        overrides: `methods_config` of params.yaml.
        stand_recipe: "paper" or "matched"; matched takes no published value for standardised logits, so that stand
            changes the z-score alone.

    Raises:
        UserError: a value is missing, unknown to the method or outside its domain.
    """
    allowed = domains(cell.method)
    decoupled = cell.scale is not None and levels(cell.scale) != (1,)
    recipe: Recipe = {}
    for layer, source in _published_layers(cell, dataset, published, bool(cell.stand) and stand_recipe == "paper"):
        values = {key: value for key, value in layer.items() if key != "source"}
        recipe |= {key: Value(value, source) for key, value in values.items()}
    for values in _override_layers(cell, overrides):
        for key in values:
            if key not in allowed:
                raise UserError(
                    f"params.yaml: methods_config.{cell.method}.{key}: unknown parameter. "
                    f"Allowed: {', '.join(allowed)}, stand, pairs"
                )
        recipe |= {key: Value(value, "params.yaml") for key, value in values.items()}
    if not decoupled:
        recipe = {key: value for key, value in recipe.items() if key not in DECOUPLED}
        allowed = {key: domain for key, domain in allowed.items() if key not in DECOUPLED}
    for key, domain in allowed.items():
        if key not in recipe:
            raise UserError(
                f"data/recipes.yaml: {dataset}.methods.{cell.method} gives no {key}, and params.yaml does not "
                f"either; add methods_config.{cell.method}.{key}"
            )
        _check(f"{cell.method}.{key}", recipe[key], domain)
    return {key: recipe[key] for key in sorted(allowed)}


def domains(method: str) -> dict[str, str | list[str]]:
    """Every hyper-parameter of a method with its allowed values: "> 0", ">= 0" or a list of choices."""
    if method == catalog.VANILLA:
        return {"ce_weight": COMMON["ce_weight"]}
    entry = catalog.methods()[method]
    return {**entry.parameters, **COMMON, **(DECOUPLED if entry.kind == "logit" else {})}


def check_overrides(overrides: dict[str, Any], pairs: list[str]) -> None:
    """Refuse overrides of methods or pairs that do not exist.

    Raises:
        UserError: names the key and what is allowed.
    """
    known = [*catalog.logit_methods(), *catalog.baselines()]
    for method, layer in overrides.items():
        if method not in known:
            raise UserError(f"params.yaml: methods_config.{method}: unknown method. Allowed: {', '.join(known)}")
        for pair, values in _mapping(layer.get("pairs", {}), f"{method}.pairs").items():
            if pair not in pairs:
                raise UserError(
                    f"params.yaml: methods_config.{method}.pairs.{pair}: not in pairs. Allowed: {', '.join(pairs)}"
                )
            _mapping(values, f"{method}.pairs.{pair}")


def _published_layers(
    cell: Cell, dataset: str, published: dict[str, Any], stand: bool
) -> Iterator[tuple[dict[str, Any], str]]:
    """Layers of a data set, weakest first, each with its source; those that it inherits come before its own."""
    section = published.get(dataset)
    if section is None:
        raise UserError(f"data/recipes.yaml: knows no data set {dataset!r}; add one, if only 'inherits: cifar100'")
    if "inherits" in section:
        for layer, source in _published_layers(cell, section["inherits"], published, stand):
            yield layer, f"inherited from {section['inherits']}: {source.removeprefix('inherited from ')}"
    if "scales" in section and cell.scale is not None:
        yield section["scales"], section["scales"]["source"]
    method = section.get("methods", {}).get(cell.method, {})
    of_pair = method.get("pairs", {}).get(cell.pair, {})
    kinds = ("default", "stand") if stand else ("default",)
    for kind in kinds:
        for layer in (method.get(kind), of_pair.get(kind)):
            if layer:
                yield layer, layer["source"]


def _override_layers(cell: Cell, overrides: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Layers of params.yaml, weakest first: of the method, of the pair; each plain, then with stand."""
    of_method = _mapping(overrides.get(cell.method, {}), cell.method)
    of_pair = of_method.get("pairs", {}).get(cell.pair, {})
    for layer in (of_method, of_pair):
        yield {key: value for key, value in layer.items() if key not in ("pairs", "stand")}
    if cell.stand:
        for layer in (of_method, of_pair):
            yield _mapping(layer.get("stand", {}), f"{cell.method}.stand")


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"params.yaml: methods_config.{key}: {value!r} must be keys and values")
    return value


def _check(key: str, value: Value, domain: str | list[str]) -> None:
    if isinstance(domain, list):
        right = value.value in domain
        wanted = " or ".join(domain)
    else:
        number = isinstance(value.value, int | float) and not isinstance(value.value, bool)
        finite = number and abs(float(value.value)) < float("inf")
        right = finite and (float(value.value) > 0 or (domain == ">= 0" and float(value.value) == 0))
        wanted = f"a finite number {domain}"
    if not right:
        raise UserError(f"{value.source}: methods_config.{key}: {value.value!r} must be {wanted}")
