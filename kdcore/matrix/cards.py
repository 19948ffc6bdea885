"""Make the cards: for each stage and cell, everything that determines its result except its input files.

DVC compares a cell's card, data set and teacher with those of its last run. So a cell is stale exactly when one of them
differs, and the difference between two cards says why. Cards hold values, but not where they come from: a corrected
source in data/recipes.yaml retrains nothing. Sources go to a separate file per cell, on which no stage depends, and to
the card of the tables, which print them.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix import (
    data_section,
    left_out,
    networks_section,
    recipes,
    robustness_section,
    selection,
    train_recipe,
    transfer_cards,
    tuned,
)
from kdcore.matrix.cell import Cell
from kdcore.matrix.code import Card, Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.listed_teachers import KnownTeachers
from kdcore.matrix.params import Params
from kdcore.matrix.problems import shortened
from kdcore.matrix.section import LISTS
from kdcore.matrix.teacher_cards import teacher_card
from kdcore.matrix.train_card import cell_settings, threads_card, validation_card
from kdcore.matrix.train_images import LabelNoise, in_words
from kdcore.matrix.train_recipe import Augmentation
from kdcore.matrix.train_section import TrainSettings
from kdcore.system.errors import UserError
from kdcore.system.files import expanded, links_in

OUTPUTS = ("cards", "teachers", "pairs", "runs", "evaluations", "tables")
"""Folders that stages write, in addition to the data set's."""


def make_cards(
    params: Params, *, published_recipes: dict[str, Any], known_teachers: dict[str, Any], root: Path = ROOT
) -> dict[str, Card]:
    """Make all cards of a matrix.

    Args:
        params: the matrix.
        published_recipes: content of data/recipes.yaml.
        known_teachers: content of data/teachers.yaml.
        root: the folder that holds the sources of kdcore.

    Returns:
        Path inside `CARDS`, without ".yaml" -> card.

    Raises:
        UserError: a recipe is incomplete, an override is wrong, a source is missing or overlaps with an output, or a
            checkpoint is missing, not listed, or without a known accuracy.
    """
    check_sources(params)
    known = KnownTeachers.of(known_teachers)
    resolved = resolve_recipes(params, published_recipes)
    selection.check(params, resolved)
    copies = selection.copies(params, resolved)
    cells = [cell for cell in resolved if cell not in copies]
    described = networks_section.described(params)
    code = Code(root, described)
    cards: dict[str, Card] = {"data": _data_card(params, code)}
    for name, teacher in params.teachers.items():
        cards[f"teacher/{name}"] = teacher_card(name, teacher, params, known, code)
    cards["pairs"] = {"pairs": params.pairs}
    for cell in cells:
        cards[f"{cell.stage}/{cell.name}"] = cell_card(cell, resolved[cell], params, code)
        cards[f"sources/{cell.name}"] = {key: asdict(value) for key, value in resolved[cell].items()}
    others = [cell for cell in params.points() if cell in copies or cell not in resolved]
    cards |= {f"{cell.stage}/{cell.name}": left_out.card(cell) for cell in others}
    for pair in params.pairs:
        cards[f"evaluate/{pair}"] = {
            "pair": pair,
            **_named_network(params, pair.split("-")[0]),
            **networks_section.used(described, params.network_of(pair.split("-")[0]), pair.split("-")[1]),
            "data": params.data.name,
            **validation_card(params.data),
            "cells": [_identity(cell) for cell in cells if cell.pair == pair],
            **threads_card(params.train),
            "code": {"evaluation": code.of("kdcore.results.evaluation")},
        }
    evaluated = {pair: cards[f"evaluate/{pair}"] for pair in params.pairs}
    cards |= robustness_section.cards(params, evaluated, code) | transfer_cards.cards(params, evaluated, code)
    for pair in params.diagnostics:
        cards[f"diagnose/{pair}"] = {
            **cards[f"evaluate/{pair}"],
            "code": {"diagnostics": code.of("kdcore.results.diagnostics.pair")},
        }
    cards["tables"] = _tables_card(params, cells, resolved, code)
    cards["tables"]["excluded"] = [cell.name for cell in others if cell not in copies and params.is_declared(cell)]
    if copies:
        cards["tables"]["copies"] = {cell.name: other.name for cell, other in copies.items()}
    asked = {key: listed for key in LISTS if (listed := getattr(params, key))}
    cards["tables"] |= asked | transfer_cards.tables_card(params) | tuned.card(params)
    return {name: _by_value(card) for name, card in cards.items()}


def _by_value(content: Any) -> Any:
    """Write equal numbers alike: 4.0 becomes 4, so that a change between the two forms retrains nothing."""
    if isinstance(content, dict):
        return {key: _by_value(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_by_value(value) for value in content]
    if isinstance(content, float) and content.is_integer():
        return int(content)
    return content


def resolve_recipes(
    params: Params, published: dict[str, Any], file: str = "params.yaml", *, cells: Iterable[Cell] | None = None
) -> dict[Cell, recipes.Recipe]:
    """Resolve the recipe of every cell of a matrix.

    Args:
        params: the matrix.
        published: content of data/recipes.yaml.
        file: the file that the matrix was read from, for messages.
        cells: points of the matrix; None takes those that are trained.

    Raises:
        UserError: a network lacks what a method needs, a recipe is incomplete or an override is wrong.
    """
    cells = list(params.cells() if cells is None else cells)
    described = networks_section.described(params, file)
    _check_needs(cells, file, described)
    recipes.check_published(published)
    overrides = {"methods_config": params.methods_config}
    overrides |= {f"variants.{name}": variant.recipes for name, variant in params.variants.items()}
    for key, layers in overrides.items():
        with catalog.naming(params.networks):
            recipes.check_overrides(layers, f"{file}: {key}", params.teachers)
        if params.stand_recipe == "matched":
            recipes.check_no_stand(layers, f"{file}: {key}")
    resolved = {
        cell: recipes.resolve(
            cell,
            dataset=params.data.name,
            published=published,
            overrides=params.methods_config,
            changes=params.variants[cell.variant].recipes,
            stand_recipe=params.stand_recipe,
        )
        for cell in cells
    }
    _check_needs_of_values(resolved, file, described)
    return resolved


def _check_needs(cells: list[Cell], file: str, described: dict[str, Card]) -> None:
    """Refuse cells whose teacher or student lacks what their method needs; name every such method of a pair."""
    scales: dict[tuple[str, str], set[int | str | None]] = {}
    lacking: dict[tuple[str, str, str], list[int | str | None]] = {}
    for (pair, method, scale), cell in {(cell.pair, cell.method, cell.scale): cell for cell in cells}.items():
        scales.setdefault((pair, method), set()).add(scale)
        regions = scale is not None and levels(scale) != (1,)
        try:
            catalog.check_needs(cell.teacher_network, cell.student, method, regions=regions, described=described)
        except ValueError as error:
            lacking.setdefault((pair, method, str(error)), []).append(scale)
    problems = []
    for (pair, method, reason), those in lacking.items():
        some = "" if set(those) == scales[pair, method] else f", scales: [{', '.join(map(str, those))}]"
        problems.append(
            f"{file}: pair {pair}, method {method}: {reason}; to leave these cells out, add "
            f"'exclude: [{{pairs: [{pair}], methods: [{method}]{some}}}]'"
        )
    if problems:
        raise UserError(shortened(problems))


def _check_needs_of_values(resolved: dict[Cell, recipes.Recipe], file: str, described: dict[str, Card]) -> None:
    """Refuse cells whose teacher or student lacks what a hyper-parameter's value needs; name every pair and method."""
    problems = {}
    for cell, recipe in resolved.items():
        networks = {"teacher": cell.teacher_network, "student": cell.student}
        for entry, (name, by_value) in (
            (one, item) for one in catalog.terms(cell.method) for item in one.needs_with.items()
        ):
            key = f"{entry.name}.{name}" if f"{entry.name}.{name}" in recipe else name
            value = recipe[key].value
            for role, part in (needed.split(".") for needed in by_value.get(str(value), ())):
                if part in catalog.lacks(networks[role], described):
                    others = ", ".join(other for other in entry.parameters[name] if other != value)
                    problems[cell.pair, cell.method, key] = (
                        f"{file}: pair {cell.pair}, method {cell.method}: {key}: {value} needs {catalog.PARTS[part]}, "
                        f"which the {role}'s network {networks[role]} does not have; set methods_config."
                        f"{cell.method}.pairs.{cell.pair}.{key} to another value ({others})"
                    )
    if problems:
        raise UserError(shortened(list(problems.values())))


def missing_here(params: Params, known_teachers: dict[str, Any], root: Path = ROOT) -> list[str]:
    """List all that keeps this machine from making the cards of the data sets and the teachers: a folder or checkpoint
    that is not there, or another one than params.yaml says. The message of each names its key.

    Args:
        params: the matrix.
        known_teachers: content of data/teachers.yaml.
        root: the folder that holds the sources of kdcore.
    """
    known, code = KnownTeachers.of(known_teachers), Code(root, networks_section.described(params))
    makers: list[Callable[[], object]] = [
        partial(_data_card, params, code),
        *(partial(teacher_card, name, teacher, params, known, code) for name, teacher in params.teachers.items()),
        *(partial(transfer_cards.target_card, name, params, code) for name in params.transfer),
        partial(robustness_section.check_there, params),
    ]
    problems = []
    for make in makers:
        try:
            make()
        except UserError as error:
            problems.append(str(error))
    return problems


def check_sources(params: Params, file: str = "params.yaml") -> None:
    """Refuse sources that overlap with an output, because DVC deletes outputs before their stages run.

    Args:
        params: the matrix.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the source and the output.
    """
    named = {"data.source": params.data}
    named |= {f"targets.{name}.source": params.target(name).data for name in params.transfer}
    images = {key: data_section.path(str(section.source)) for key, section in named.items()}
    sources = [(key, path) for key, top in images.items() if top is not None for path in (top, *links_in(top))]
    if params.published_copy != robustness_section.DOWNLOAD:
        sources.append(("robustness_sources", expanded(params.published_copy)))
    for name, teacher in params.teachers.items():
        if teacher.source not in ("train", "published") and "://" not in teacher.source:
            sources.append((f"teachers.{name}.source", expanded(teacher.source)))
    stored = (params.data.name, *params.transfer)
    for (key, path), output in product(sources, (*OUTPUTS, *(f"data/{name}" for name in stored))):
        source, made = (Path(os.path.realpath(found)) for found in (path, output))  # resolve() fails if links loop
        if source == made or source in made.parents or made in source.parents:
            raise UserError(
                f"{file}: {key}: {path} overlaps with {output}, which the pipeline writes, and deletes first; "
                "move it elsewhere, or, if it lies in data/, give the data set another name"
            )


def _data_card(params: Params, code: Code) -> Card:
    section = params.data.model_dump()
    data_section.check_there(section, "params.yaml")
    return {**section, "code": {"data": code.of(f"kdcore.data.sources.{data_section.module(params.data.name)}")}}


def _named_network(params: Params, teacher: str) -> Card:
    """Return the network of a teacher that has a name of its own, as a part of a card; else nothing."""
    network = params.network_of(teacher)
    return {} if network == teacher else {"teacher": network}


def cell_card(
    cell: Cell, recipe: recipes.Recipe, params: Params, code: Code, *, train: TrainSettings | None = None
) -> Card:
    """Make the card of a cell: everything that determines its result except its data set and its teacher's weights.

    Args:
        cell: one of the matrix, or another one.
        recipe: its hyper-parameters.
        params: the matrix.
        code: the fingerprints of the code.
        train: how it is trained; None takes what the matrix says.
    """
    teacher = None if cell.method == catalog.VANILLA else cell.teacher_network
    settings = cell_settings(cell, train or params.settings(cell))
    return {
        **_identity(cell),
        **({"teacher": teacher} if teacher else {}),
        **networks_section.used(code.described, cell.student, teacher),
        "data": params.data.name,
        **validation_card(params.data),
        "recipe": {key: value.value for key, value in recipe.items()},
        "train": settings,
        "code": code.training(cell.student, teacher, cell.method, train=settings),
    }


def _tables_card(params: Params, cells: list[Cell], resolved: dict[Cell, recipes.Recipe], code: Code) -> Card:
    return {
        "data": params.data.name,
        **validation_card(params.data),
        "pairs": params.pairs,
        "methods": params.methods,
        "scales": params.scales,
        "stand": params.stand,
        "baselines": params.baselines,
        "variants": {name: variant.model_dump(exclude_none=True) for name, variant in params.variants.items()},
        "seeds": params.seeds,
        "stand_recipe": params.stand_recipe,
        "accuracy": params.tables.accuracy,
        "epochs": params.train.epochs,
        "optimizer": params.train.optimizer,
        **({"per_class": params.train.per_class} if params.train.per_class else {}),
        **train_recipe.card(params.train),
        **({"small_maps": params.train.small_maps} if params.train.small_maps else {}),
        "exceptions": [
            exception.model_dump(exclude_none=True)
            for exception in params.train.exceptions
            if any(map(exception.covers, cells))
        ],
        **_settings_of_base(params, cells),
        "subset": getattr(params.data, "subset", False),
        **({"test_share": share} if (share := getattr(params.data, "test_share", None)) else {}),
        "teachers": {
            name: {
                "train": _trained_here(teacher.train),
                "published": "published checkpoint",
            }.get(teacher.source, f"own checkpoint {teacher.source}")
            for name, teacher in params.teachers.items()
        },
        **_named_networks(params),
        **_families(code.described),
        "recipes": {
            cell.name: {key: [value.value, value.source] for key, value in resolved[cell].items()} for cell in cells
        },
        "code": {"publication": code.of("kdcore.results.write", everything=True)},
    }


def _trained_here(train: TrainSettings | None) -> str:
    """Say how a teacher is trained here, as far as accuracies could not be compared without knowing it."""
    if train is None:
        return "trained here"
    part = "" if train.per_class is None else f", {train.per_class} images of each class"
    part += f", {regime}" if (regime := in_words(train.model_dump())) else ""
    plain = ", without augmentation" if train.augmentation == "none" else ""
    return f"trained here, {train.epochs} epochs{part}{plain}"


def _named_networks(params: Params) -> Card:
    """Return the networks of the teachers that have names of their own, as a part of a card; else nothing."""
    networks = {
        name: teacher.network for name, teacher in params.teachers.items() if teacher.network not in (None, name)
    }
    return {"networks": networks} if networks else {}


def _families(described: Mapping[str, Card]) -> Card:
    """Return the families of the networks that params.yaml names, as a part of a card; nothing where it names none."""
    known = catalog.networks()
    families = {name: one["family"] if "family" in one else known[one["zoo"]].module for name, one in described.items()}
    return {"families": families} if families else {}


def _settings_of_base(params: Params, cells: list[Cell]) -> Card:
    """Return the settings of section `train` that variants change, and those of the cells where exceptions make them
    others, without what the cell's own variant changes, as a part of a card.
    """
    changed = sorted({key for variant in params.variants.values() for key in variant.train})
    settings = {key: _plain(params.train, key) for key in changed}
    of_cells: Card = {}
    for cell in cells if changed and params.train.exceptions else []:
        own, kept = params.settings(cell), params.variants[cell.variant].train
        other = {key: _plain(own, key) for key in changed if key not in kept and _plain(own, key) != settings[key]}
        of_cells |= {cell.name: other} if other else {}
    return {**({"settings": settings} if settings else {}), **({"settings_of": of_cells} if of_cells else {})}


def _plain(settings: TrainSettings, key: str) -> Any:
    """Return the value of a training setting as a card holds it."""
    value = getattr(settings, key)
    if isinstance(value, LabelNoise):
        return value.model_dump()
    return value.card() if isinstance(value, Augmentation) else value


def _identity(cell: Cell) -> Card:
    identity = {
        "name": cell.name,
        "pair": cell.pair,
        "student": cell.student,
        "method": cell.method,
        "variant": cell.variant,
        "seed": cell.seed,
    }
    if cell.scale is not None:
        identity |= {"scale": cell.scale, "levels": list(levels(cell.scale)), "stand": cell.stand}
    return identity
