"""Resolve the hyper-parameters of a cell: the values of the method's paper, overridden by those of params.yaml.

The recipe of a sum such as crd+kd holds one `ce_weight`; the other parameters of each term have keys such as
"crd.kd_weight".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from kdcore import catalog
from kdcore.catalog import COMMON, DECOUPLED, UNSAID, levels
from kdcore.matrix.cell import Cell
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, named, shown, suggest

T = TypeVar("T")

LARGEST = 1e30
"""All hyper-parameters must be below this bound, which is far beyond sensible values, and inside float32."""
MOST = 10**6
"""The upper bound of hyper-parameters that count something."""
CHANGES = ("scales", "stand")
"""Circumstances in which publications change a logit method's values: "scales" if the scale has more regions than the
whole image, "stand" if logits are standardised. The values of a later one override those of an earlier one.
"""
WEIGHTS = {"complementary_weight": ">= 0", "consistent_weight": ">= 0"}
"""The weights of regions in SDD's loss, with their allowed values."""
BASE = "cifar100"
"""The data set whose recipes are inherited by data sets that data/recipes.yaml does not list."""
INSTALLED = catalog.PACKAGE / "recipes.yaml"
"""data/recipes.yaml as it is installed with the package; in a checkout a link to it."""


@dataclass(frozen=True)
class Value:
    """A hyper-parameter and where it comes from."""

    value: float | int | str | bool
    source: str
    """Its origin: <repository>:<file>, "inherited from ..."; of one that is not listed, text that begins with `OWN`."""


Recipe = dict[str, Value]
Layer = dict[str, Any]
Domains = dict[str, str | list[Any]]
OWN = "params.yaml"


@cache
def published() -> dict[str, Any]:
    """Return the content of data/recipes.yaml, wherever kdcore is installed; it is read once, and not to be changed."""
    return yamlfile.read(INSTALLED)


def resolve(
    cell: Cell,
    *,
    dataset: str,
    published: dict[str, Any],
    overrides: dict[str, Any],
    stand_recipe: str,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """Resolve the recipe of a cell: its hyper-parameters, each with its source.

    Args:
        cell: its method, pair, scale and stand decide.
        dataset: name of the data set; if data/recipes.yaml does not list it, it has the recipes of `BASE`, whose
            sources are then marked as inherited.
        published: content of data/recipes.yaml, as `check_published` accepts it.
        overrides: `methods_config` of params.yaml, as `check_overrides` accepts it.
        stand_recipe: "paper" or "matched"; matched ignores the published values for standardised logits, so that stand
            changes only the z-score.
        changes: those of the cell's variant, in the form of `overrides`, all of which they override.

    Raises:
        UserError: a value is missing, or "fusion_as_published" is used with a scale that lacks the whole image.
    """
    recipe: Recipe = {}
    changed = {"scales": _is_decoupled(cell), "stand": bool(cell.stand) and stand_recipe == "paper"}
    kinds = ("default", *(kind for kind in CHANGES if changed[kind]))
    for layer, source in _layers(cell, dataset, published, kinds):
        recipe |= {key: Value(value, source) for key, value in layer.items()}
    listed = dict(recipe)
    for source, layers in ((OWN, overrides), (f"{OWN}, variant {cell.variant}", changes)):
        for key, value in overridden(cell, layers).items():
            is_listed = key in listed and listed[key].value == value
            recipe[key] = Value(value, listed[key].source if is_listed else source)
    used = [key for key in needed(cell) if key in recipe or _parameter(key) not in UNSAID]
    for key in used:
        if key not in recipe:
            raise UserError(
                f"data/recipes.yaml: {dataset}.methods.{cell.method} gives no {key}, and params.yaml does not "
                f"either; add methods_config.{cell.method}.{key}"
            )
        if recipe[key].value == "fusion_as_published" and levels(cell.scale)[0] != 1:
            raise UserError(
                f"params.yaml: scales: {cell.scale!r}: {key} fusion_as_published needs the whole image among the "
                f"levels, as its publication has it; use 2, 4 or L1_4, or methods_config.{cell.method}.{key}: sdd"
            )
    replaced = {key for key in listed if recipe[key].source.startswith(OWN)}  # a listed value, perhaps by a default
    said = {key: recipe[key] for key in used if key in replaced or recipe[key].value != UNSAID.get(_parameter(key))}
    return {key: value for key, value in said.items() if _takes_effect(key, said)}


def _takes_effect(key: str, recipe: Recipe) -> bool:
    """Return whether a value of a recipe changes a cell: `decay_from` does where its term has a cosine."""
    schedule = recipe.get(key.removesuffix("decay_from") + "schedule")
    return _parameter(key) != "decay_from" or (schedule is not None and schedule.value == "cosine")


def overridden(cell: Cell, overrides: Mapping[str, Any]) -> Layer:
    """Return the values of a cell that overrides give, and that it uses.

    Args:
        cell: its method, pair and stand decide.
        overrides: in the form of `methods_config`. Plain values come before those for stand, and of each of these, the
            values of a sum's terms before the sum's own; later ones win.
    """
    names = cell.method.split(catalog.PLUS) if catalog.PLUS in cell.method else []
    values: Layer = {}
    for of_stand in (False, True) if cell.stand else (False,):
        for name in names:
            for layer in _override_layers(name, cell, overrides, of_stand):
                values |= _in_sum(layer, name, first=name == names[0])
        for layer in _override_layers(cell.method, cell, overrides, of_stand):
            values |= layer
    return {key: values[key] for key in needed(cell) if key in values}


def _is_decoupled(cell: Cell) -> bool:
    return cell.scale is not None and levels(cell.scale) != (1,)


def needed(cell: Cell) -> list[str]:
    """List the hyper-parameters that a cell uses."""
    keys = domains(cell.method)
    return sorted(key for key in keys if _is_decoupled(cell) or _parameter(key) not in DECOUPLED)


def _parameter(key: str) -> str:
    """Return a key of a recipe without the name of a sum's term: "kd.temperature" -> "temperature"."""
    return key.rpartition(".")[2]


def domains(method: str) -> Domains:
    """List the hyper-parameters of a method or sum with their allowed values: one of `catalog.DOMAINS`, or a list."""
    entries = catalog.terms(method)
    allowed: Domains = {"ce_weight": COMMON["ce_weight"]}
    for entry in entries:
        own: Domains = {**entry.parameters, **COMMON}
        if (entry.kind, entry.across) == ("logit", "samples"):
            own |= {**WEIGHTS, "decoupling": list(entry.decouplings)}
        allowed |= own if len(entries) == 1 else _in_sum(own, entry.name, first=False)
    return allowed


def check_overrides(
    overrides: dict[str, Any], where: str = "params.yaml: methods_config", teachers: Iterable[str] = ()
) -> None:
    """Refuse overrides of unknown methods, pairs or parameters, and values that are not allowed, even for unused cells.

    Args:
        overrides: `methods_config` of params.yaml, or the recipes of a variant.
        where: the file and the key that holds the overrides, for messages.
        teachers: names of teachers that are no networks' names, which pairs may have.

    Raises:
        UserError: names the key and what is allowed.
    """
    for method, layer in overrides.items():
        of_method = f"{where}.{named(method)}"
        _check_method(method, of_method)
        _check_layer(method, layer, of_method)
        for pair, of_pair in _mapping(layer.get("pairs", {}), f"{of_method}.pairs").items():
            where = f"{of_method}.pairs.{named(pair)}"
            _check_pair(pair, where, teachers)
            _check_layer(method, of_pair, where)
            if "pairs" in of_pair:
                raise UserError(f"{where}.pairs: unknown parameter. A pair's values stand directly below it")


def check_no_stand(overrides: dict[str, Any], where: str = "params.yaml: methods_config") -> None:
    """Refuse overrides for standardised logits, which `stand_recipe: matched` excludes.

    Args:
        overrides: `methods_config` of params.yaml, or the recipes of a variant, as `check_overrides` accepts them.
        where: the file and the key that holds the overrides, for messages.

    Raises:
        UserError: names the key.
    """
    for method, layer in overrides.items():
        layers = {method: layer, **{f"{method}.pairs.{pair}": of for pair, of in layer.get("pairs", {}).items()}}
        for key, values in layers.items():
            if "stand" in values:
                raise UserError(
                    f"{where}.{key}.stand: stand_recipe matched changes the z-score alone; "
                    "remove it, or set stand_recipe: paper"
                )


def check_published(content: dict[str, Any]) -> None:
    """Refuse a data/recipes.yaml that has unknown keys, values outside their domain, or values without a source.

    Raises:
        UserError: names the key and what is allowed.
    """
    for dataset, section in content.items():
        if dataset == "sources":
            continue
        where = f"data/recipes.yaml: {dataset}"
        _only(_mapping(section, where), ("inherits", "scales", "methods"), where)
        others = {name: other for name, other in content.items() if name != "sources" and isinstance(other, dict)}
        parents = [name for name, other in others.items() if "inherits" not in other]
        parent = section.get("inherits")
        if "inherits" in section and parent not in parents:
            raise UserError(f"{where}.inherits: {parent!r} must be a data set here that inherits nothing itself")
        if "scales" in section:
            allowed: Domains = {**WEIGHTS, "decoupling": ["sdd"]}
            _check_values(section["scales"], allowed, f"{where}.scales", source=True)
        for method, of_method in _mapping(section.get("methods", {}), f"{where}.methods").items():
            _check_published_method(method, of_method, f"{where}.methods.{method}")


def _check_published_method(method: str, section: Any, where: str) -> None:
    _check_method(method, where)
    kinds = ("default", *(CHANGES if catalog.kind(method) == "logit" else ()))
    _only(_mapping(section, where), (*kinds, "pairs"), where)
    pairs = _mapping(section.get("pairs", {}), f"{where}.pairs")
    for key, layers in [("", section), *((f".pairs.{pair}", layers) for pair, layers in pairs.items())]:
        for kind in kinds:
            if kind in _mapping(layers, f"{where}{key}"):
                values = _flat(method, layers[kind], f"{where}{key}.{kind}")
                allowed = domains(method) if kind == "default" else _of_logits(method)
                _check_values(values, allowed, f"{where}{key}.{kind}", source=True)
        if key:
            _check_pair(key.removeprefix(".pairs."), f"{where}{key}")
            _only(layers, kinds, f"{where}{key}")


def _check_method(method: object, where: str) -> None:
    try:
        catalog.terms(str(method))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _check_pair(pair: object, where: str, teachers: Iterable[str] = ()) -> None:
    try:
        catalog.check_pair(pair, teachers)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _check_layer(method: str, layer: Any, where: str) -> None:
    """Check one layer of overrides: its parameters, and those below `stand`. The caller checks those below `pairs`."""
    values = {key: value for key, value in _mapping(layer, where).items() if key not in ("pairs", "stand")}
    values = _flat(method, values, where)
    _only([*values, *(layer.keys() & {"pairs", "stand"})], (*domains(method), *_stand(method), "pairs"), where)
    _check_values(values, domains(method), where)
    stand = _flat(method, layer.get("stand", {}), f"{where}.stand")
    _check_values(stand, _of_logits(method), f"{where}.stand")


def _stand(method: str) -> tuple[str, ...]:
    """Return ("stand",) for a logit method, else (): only logit methods can have standardised logits."""
    return ("stand",) if catalog.kind(method) == "logit" else ()


def _of_logits(method: str) -> Domains:
    """List the parameters that stand may change: in a sum, those of its logit terms and the cross-entropy's weight."""
    terms = {entry.name: entry.kind for entry in catalog.terms(method)}
    return {key: allowed for key, allowed in domains(method).items() if terms.get(key.split(".")[0]) != "feature"}


def _check_values(
    values: Any,
    allowed: Domains,
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


def _only(values: Iterable[str], allowed: Iterable[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            hint = suggest(key, allowed)
            raise UserError(f"{where}.{named(key)}: unknown parameter.{hint} Allowed: {', '.join(allowed)}")


def _layers(cell: Cell, dataset: str, published: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[tuple[Layer, str]]:
    """Yield all published layers, each with its source; the values of a later layer override those of an earlier one.

    Plain values come before those for `CHANGES`. Of each of these, the values of a sum's terms come before its own.
    """
    names = cell.method.split(catalog.PLUS) if catalog.PLUS in cell.method else []
    for kind in kinds:
        for name in names:
            for layer, source in _published_layers(name, kind, cell, dataset, published):
                yield _in_sum(layer, name, first=name == names[0]), f"inherited from {name}: {source}"
        yield from _published_layers(cell.method, kind, cell, dataset, published)


def _published_layers(
    name: str, kind: str, cell: Cell, dataset: str, published: dict[str, Any]
) -> Iterator[tuple[Layer, str]]:
    """Yield a method's published layers of one kind, each with its source; the values of a later layer override those
    of an earlier one. Layers that the data set inherits come before its own.
    """
    section = _section(dataset, published)
    if "inherits" in section:
        for layer, source in _published_layers(name, kind, cell, section["inherits"], published):
            yield layer, f"inherited from {section['inherits']}: {source.removeprefix('inherited from ')}"
    of_regions = kind == "default" and cell.scale is not None and catalog.PLUS not in name
    method = section.get("methods", {}).get(name, {})
    of_pair = method.get("pairs", {}).get(cell.networks, {})
    layers = (section.get("scales") if of_regions else None, method.get(kind), of_pair.get(kind))
    for layer in filter(None, layers):
        yield _flat(name, {key: layer[key] for key in layer if key != "source"}, ""), layer["source"]


def _section(dataset: str, published: dict[str, Any]) -> dict[str, Any]:
    listed = published if dataset != "sources" else {}
    return listed.get(dataset, {} if dataset == BASE else {"inherits": BASE})


def _override_layers(name: str, cell: Cell, overrides: Mapping[str, Any], of_stand: bool) -> Iterator[Layer]:
    """Yield a method's layers in params.yaml, plain or for stand: the method's, then the pair's, which override it."""
    of_method = overrides.get(name, {})
    for layer in (of_method, of_method.get("pairs", {}).get(cell.pair, {})):
        plain = {key: layer[key] for key in layer if key not in ("pairs", "stand")}
        yield _flat(name, layer.get("stand", {}) if of_stand else plain, "")


def _flat(method: str, layer: Any, where: str) -> Layer:
    """Return a sum's layer with its terms' values under keys "term.key"; return a single method's layer as it is."""
    if catalog.PLUS not in method:
        return _mapping(layer, where)
    names = method.split(catalog.PLUS)
    flat: Layer = {}
    for key, value in _mapping(layer, where).items():
        if catalog.PLUS in method and "." in str(key):
            raise UserError(
                f"{where}.{named(key)}: unknown parameter. A term's values stand below its name: {{kd: {{...}}}}"
            )
        if key in names:
            flat |= {f"{key}.{part}": of_part for part, of_part in _mapping(value, f"{where}.{key}").items()}
        else:
            flat[key] = value
    return flat


def _in_sum(values: dict[str, T], name: str, *, first: bool) -> dict[str, T]:
    """Rename a method's values to the keys that they have in a sum. The ce_weight of the sum is that of its first term;
    those of other terms are left out.
    """
    return {
        key if key == "ce_weight" and first else f"{name}.{key}": value
        for key, value in values.items()
        if first or key != "ce_weight"
    }


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {shown(value)} must be keys and values")
    return value


def _check(where: str, value: Any, domain: str | list[Any]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(domain, list):
        right = any(value == choice and type(value) is type(choice) for choice in domain)
        wanted = " or ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in domain)
    elif domain == "integer >= 1":
        right, wanted = isinstance(value, int) and number and 1 <= value <= MOST, f"an integer from 1 to {MOST:,}"
    elif domain == ">= 1":
        right, wanted = number and 1 <= value < LARGEST, f"a number >= 1 and below {LARGEST:g}"
    elif domain in ("[0, 1)", "[0, 1]"):
        right, wanted = number and 0 <= value < 1, "a number from 0 to below 1"
        if domain == "[0, 1]":
            right, wanted = number and 0 <= value <= 1, "a number from 0 to 1"
    else:
        right = number and (0 < value < LARGEST or (value == 0 and domain == ">= 0"))
        wanted = f"a number {domain} and below {LARGEST:g}"
    if not right:
        raise UserError(f"{where}: {shown(value)} must be {wanted}")
