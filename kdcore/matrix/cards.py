"""Make the cards: for each stage and cell, everything that determines its result except its input files.

DVC compares a cell's card, data set and teacher with those of its last run. So a cell is stale exactly when one of them
differs, and the difference between two cards says why. Cards hold values, but not where they come from: a corrected
source in data/recipes.yaml retrains nothing. Sources go to a separate file per cell, on which no stage depends, and to
the card of the tables, which print them.
"""

import os
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix import data_section, recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.code import Card, Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.listed_teachers import KnownTeachers
from kdcore.matrix.params import Params
from kdcore.matrix.teacher_cards import teacher_card
from kdcore.matrix.train_card import settings_card, threads_card
from kdcore.matrix.train_section import TrainSettings
from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.files import expanded, links_in

CARDS = Path("cards")
OUTPUTS = ("cards", "teachers", "pairs", "runs", "evaluations", "tables")
"""Folders that stages write, in addition to the data set's."""


def card_path(name: str, kind: str = "") -> Path:
    """Return the path of the card of a stage, or of a cell, a teacher or a pair that a command line names.

    Args:
        name: must be the name of an existing card, so that it cannot lead to another folder.
        kind: folder of the cards: "train", "baseline", "teacher" or "evaluate"; "" for the cards of whole stages.

    Raises:
        UserError: there is no such card.
    """
    known = sorted(path.stem for path in (CARDS / kind).glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"{CARDS / kind}/: holds no card of {shown(name)}.{suggest(name, known)} "
            "Run 'dvc repro plan', which writes those of params.yaml"
        )
    return CARDS / kind / f"{name}.yaml"


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
    cells = list(resolved)
    code = Code(root)
    cards: dict[str, Card] = {"data": _data_card(params, code)}
    for name, teacher in params.teachers.items():
        cards[f"teacher/{name}"] = teacher_card(name, teacher, params, known, code)
    cards["pairs"] = {"pairs": params.pairs}
    for cell in cells:
        cards[f"{cell.stage}/{cell.name}"] = cell_card(cell, resolved[cell], params, code)
        cards[f"sources/{cell.name}"] = {key: asdict(value) for key, value in resolved[cell].items()}
    for pair in params.pairs:
        cards[f"evaluate/{pair}"] = {
            "pair": pair,
            **_named_network(params, pair.split("-")[0]),
            "data": params.data.name,
            "cells": [_identity(cell) for cell in cells if cell.pair == pair],
            **threads_card(params.train),
            "code": {"evaluation": code.of("kdcore.results.evaluation")},
        }
    cards["tables"] = _tables_card(params, cells, resolved, code)
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


def resolve_recipes(params: Params, published: dict[str, Any], file: str = "params.yaml") -> dict[Cell, recipes.Recipe]:
    """Resolve the recipe of every cell of a matrix.

    Args:
        params: the matrix.
        published: content of data/recipes.yaml.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: a recipe is incomplete or an override is wrong.
    """
    recipes.check_published(published)
    recipes.check_overrides(params.methods_config, file, params.teachers)
    if params.stand_recipe == "matched":
        recipes.check_no_stand(params.methods_config, file)
    return {
        cell: recipes.resolve(
            cell,
            dataset=params.data.name,
            published=published,
            overrides=params.methods_config,
            stand_recipe=params.stand_recipe,
        )
        for cell in params.cells()
    }


def missing_here(params: Params, known_teachers: dict[str, Any], root: Path = ROOT) -> list[str]:
    """List all that keeps this machine from making the cards of the data set and the teachers: a folder or checkpoint
    that is not there, or another one than params.yaml says. The message of each names its key.

    Args:
        params: the matrix.
        known_teachers: content of data/teachers.yaml.
        root: the folder that holds the sources of kdcore.
    """
    known, code = KnownTeachers.of(known_teachers), Code(root)
    makers = [partial(_data_card, params, code)] + [
        partial(teacher_card, name, teacher, params, known, code) for name, teacher in params.teachers.items()
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
    images = data_section.path(str(params.data.source))
    sources = [] if images is None else [("data.source", path) for path in (images, *links_in(images))]
    for name, teacher in params.teachers.items():
        if teacher.source not in ("train", "published") and "://" not in teacher.source:
            sources.append((f"teachers.{name}.source", expanded(teacher.source)))
    for (key, path), output in product(sources, (*OUTPUTS, f"data/{params.data.name}")):
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
    train = train or params.train.of(student=cell.student, method=cell.method, pair=cell.pair)
    return {
        **_identity(cell),
        **({"teacher": teacher} if teacher else {}),
        "data": params.data.name,
        "recipe": {key: value.value for key, value in recipe.items()},
        "train": _cell_settings(cell, train),
        "code": code.training(cell.student, teacher, cell.method),
    }


def _tables_card(params: Params, cells: list[Cell], resolved: dict[Cell, recipes.Recipe], code: Code) -> Card:
    return {
        "data": params.data.name,
        "pairs": params.pairs,
        "methods": params.methods,
        "scales": params.scales,
        "stand": params.stand,
        "baselines": params.baselines,
        "seeds": params.seeds,
        "stand_recipe": params.stand_recipe,
        "accuracy": params.tables.accuracy,
        "epochs": params.train.epochs,
        "optimizer": params.train.optimizer,
        **({"small_maps": params.train.small_maps} if params.train.small_maps else {}),
        "exceptions": [exception.model_dump(exclude_none=True) for exception in params.train.exceptions],
        "subset": getattr(params.data, "subset", False),
        "teachers": {
            name: {
                "train": f"trained here, {teacher.train.epochs if teacher.train else 0} epochs",
                "published": "published checkpoint",
            }.get(teacher.source, f"own checkpoint {teacher.source}")
            for name, teacher in params.teachers.items()
        },
        **_named_networks(params),
        "recipes": {
            cell.name: {key: [value.value, value.source] for key, value in resolved[cell].items()} for cell in cells
        },
        "code": {"publication": code.of("kdcore.results.write", everything=True)},
    }


def _named_networks(params: Params) -> Card:
    """Return the networks of the teachers that have names of their own, as a part of a card; else nothing."""
    networks = {
        name: teacher.network for name, teacher in params.teachers.items() if teacher.network not in (None, name)
    }
    return {"networks": networks} if networks else {}


def _identity(cell: Cell) -> Card:
    identity = {
        "name": cell.name,
        "pair": cell.pair,
        "student": cell.student,
        "method": cell.method,
        "seed": cell.seed,
    }
    if cell.scale is not None:
        identity |= {"scale": cell.scale, "levels": list(levels(cell.scale)), "stand": cell.stand}
    return identity


def _cell_settings(cell: Cell, train: TrainSettings) -> Card:
    """Return the training settings that take effect in a cell."""
    has_regions = cell.scale is not None and max(levels(cell.scale)) > 1
    small_maps = {"small_maps": train.small_maps} if train.small_maps and has_regions else {}
    return settings_card(train, cell.method) | small_maps
