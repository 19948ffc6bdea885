"""Hyper-parameters of a cell: what the paper of the method says, overridden by what params.yaml says."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
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

LARGEST = 1e30
"""Beyond every sensible hyper-parameter, and inside float32."""


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
        published: content of data/recipes.yaml, as `check_published` accepts it.
        overrides: `methods_config` of params.yaml, as `check_overrides` accepts it.
        stand_recipe: "paper" or "matched"; matched takes no published value for standardised logits, so that stand
            changes the z-score alone.

    Raises:
        UserError: a value is missing, or there are no recipes for the data set.
    """
    recipe: Recipe = {}
    for layer, source in _published_layers(cell, dataset, published, bool(cell.stand) and stand_recipe == "paper"):
        recipe |= {key: Value(value, source) for key, value in layer.items() if key != "source"}
    for layer in _override_layers(cell, overrides):
        recipe |= {key: Value(value, "params.yaml") for key, value in layer.items()}
    decoupled = cell.scale is not None and levels(cell.scale) != (1,)
    needed = sorted(key for key in domains(cell.method) if decoupled or key not in DECOUPLED)
    for key in needed:
        if key not in recipe:
            raise UserError(
                f"data/recipes.yaml: {dataset}.methods.{cell.method} gives no {key}, and params.yaml does not "
                f"either; add methods_config.{cell.method}.{key}"
            )
    return {key: recipe[key] for key in needed}


def domains(method: str) -> dict[str, str | list[str]]:
    """Every hyper-parameter of a method with its allowed values: "> 0", ">= 0" or a list of choices."""
    if method == catalog.VANILLA:
        return {"ce_weight": COMMON["ce_weight"]}
    entry = catalog.methods()[method]
    return {**entry.parameters, **COMMON, **(DECOUPLED if entry.kind == "logit" else {})}


def check_overrides(overrides: dict[str, Any]) -> None:
    """Refuse overrides of what does not exist and values outside their domain, whether or not the matrix uses them.

    Raises:
        UserError: names the key and what is allowed.
    """
    known = [*catalog.logit_methods(), *catalog.baselines()]
    for method, layer in overrides.items():
        if method not in known:
            raise UserError(f"params.yaml: methods_config.{method}: unknown method. Allowed: {', '.join(known)}")
        _check_layer(method, layer, f"params.yaml: methods_config.{method}")
        for pair, of_pair in _mapping(layer.get("pairs", {}), f"params.yaml: methods_config.{method}.pairs").items():
            where = f"params.yaml: methods_config.{method}.pairs.{pair}"
            _check_pair(pair, where)
            _check_layer(method, of_pair, where)
            if "pairs" in of_pair:
                raise UserError(f"{where}.pairs: unknown parameter. A pair's values stand directly below it")


def check_no_stand(overrides: dict[str, Any]) -> None:
    """Refuse overrides of standardised cells, for `stand_recipe: matched`.

    Raises:
        UserError: names the key.
    """
    for method, layer in overrides.items():
        layers = {method: layer, **{f"{method}.pairs.{pair}": of for pair, of in layer.get("pairs", {}).items()}}
        for where, values in layers.items():
            if "stand" in values:
                raise UserError(
                    f"params.yaml: methods_config.{where}.stand: stand_recipe matched changes the z-score alone; "
                    "remove it, or set stand_recipe: paper"
                )


def check_published(content: dict[str, Any]) -> None:
    """Refuse a data/recipes.yaml with unknown keys, values outside their domain, or without sources.

    Raises:
        UserError: names the key and what is allowed.
    """
    for dataset, section in content.items():
        if dataset == "sources":
            continue
        where = f"data/recipes.yaml: {dataset}"
        _only(_mapping(section, where), ("inherits", "scales", "methods"), where)
        parent = section.get("inherits")
        if parent is not None and (parent == "sources" or "inherits" in content.get(parent, {"inherits": None})):
            raise UserError(f"{where}.inherits: {parent!r} must be a data set here that inherits nothing itself")
        if "scales" in section:
            _check_values(section["scales"], DECOUPLED, f"{where}.scales", source=True)
        for method, of_method in _mapping(section.get("methods", {}), f"{where}.methods").items():
            _check_published_method(method, of_method, f"{where}.methods.{method}")


def _check_published_method(method: str, section: Any, where: str) -> None:
    known = [*catalog.logit_methods(), *catalog.baselines()]
    if method not in known:
        raise UserError(f"{where}: unknown method. Allowed: {', '.join(known)}")
    _only(_mapping(section, where), ("default", *_stand(method), "pairs"), where)
    pairs = _mapping(section.get("pairs", {}), f"{where}.pairs")
    for key, layers in [("", section), *((f".pairs.{pair}", layers) for pair, layers in pairs.items())]:
        for kind in ("default", "stand"):
            if kind in _mapping(layers, f"{where}{key}"):
                _check_values(layers[kind], domains(method), f"{where}{key}.{kind}", source=True)
        if key:
            _check_pair(key.removeprefix(".pairs."), f"{where}{key}")
            _only(layers, ("default", *_stand(method)), f"{where}{key}")


def _check_pair(pair: object, where: str) -> None:
    try:
        catalog.check_pair(pair)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _check_layer(method: str, layer: Any, where: str) -> None:
    """A layer of overrides: parameters, those of stand, and (checked elsewhere) those of pairs."""
    values = {key: value for key, value in _mapping(layer, where).items() if key not in ("pairs", "stand")}
    _only(layer, (*domains(method), *_stand(method), "pairs"), where)
    _check_values(values, domains(method), where)
    _check_values(_mapping(layer.get("stand", {}), f"{where}.stand"), domains(method), f"{where}.stand")


def _stand(method: str) -> tuple[str, ...]:
    """Only logit methods know standardised logits."""
    return ("stand",) if method in catalog.logit_methods() else ()


def _check_values(
    values: Any,
    allowed: Mapping[str, str | list[str]],
    where: str,
    *,
    source: bool = False,
) -> None:
    _only(_mapping(values, where), (*allowed, *(("source",) if source else ())), where)
    if source and not isinstance(values.get("source"), str):
        raise UserError(f"{where}: needs a source, where its values were published")
    for key, value in values.items():
        if key in allowed:
            _check(f"{where}.{key}", value, allowed[key])


def _only(values: dict[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), list(allowed), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}.{key}: unknown parameter.{hint} Allowed: {', '.join(allowed)}")


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
    of_method = overrides.get(cell.method, {})
    layers = (of_method, of_method.get("pairs", {}).get(cell.pair, {}))
    for layer in layers:
        yield {key: value for key, value in layer.items() if key not in ("pairs", "stand")}
    if cell.stand:
        for layer in layers:
            yield layer.get("stand", {})


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {value!r} must be keys and values")
    return value


def _check(where: str, value: Any, domain: str | list[str]) -> None:
    if isinstance(domain, list):
        right, wanted = value in domain, " or ".join(domain)
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = number and (0 < value < LARGEST or (value == 0 and domain == ">= 0"))
        wanted = f"a number {domain} and below {LARGEST:g}"
    if not right:
        raise UserError(f"{where}: {value!r} must be {wanted}")
