"""The cards: per stage and cell, everything that determines its result besides its input files.

DVC compares a cell's card, data set and teacher with those of its last run, so a cell is stale exactly when one of
them differs, and the difference of two cards says why. Cards hold values, not where they come from: a corrected
source in data/recipes.yaml retrains nothing. Sources go to the tables' card, which prints them.
"""

import hashlib
from pathlib import Path
from typing import Any

from kdcore import catalog, recipes
from kdcore.cell import Cell
from kdcore.errors import UserError
from kdcore.fingerprint import ROOT, fingerprint
from kdcore.levels import levels
from kdcore.params import Params, Teacher

FOLDER = Path("cards")
TEACHER_SEED = 0
Card = dict[str, Any]


def make(
    params: Params, *, published_recipes: dict[str, Any], known_teachers: dict[str, Any], root: Path = ROOT
) -> dict[str, Card]:
    """All cards.

    Args:
        params: the matrix.
        published_recipes: content of data/recipes.yaml.
        known_teachers: content of data/teachers.yaml.
        root: the folder that holds the sources of kdcore.

    Returns:
        Path inside `FOLDER`, without ".yaml" -> card.

    Raises:
        UserError: a recipe is incomplete, an override wrong, a checkpoint missing or its accuracy unknown.
    """
    resolved = resolve_recipes(params, published_recipes)
    cells = list(resolved)
    trainer = [fingerprint("kdcore.training", root=root), fingerprint("kdcore.experiment", follow=False, root=root)]
    cards: dict[str, Card] = {"data": _data_card(params, root)}
    for name, teacher in params.teachers.items():
        cards[f"teacher/{name}"] = _teacher_card(
            name, teacher, params, known=known_teachers, trainer=trainer, root=root
        )
    cards["pairs"] = {"pairs": params.pairs, "code": {"pairs": fingerprint("kdcore.checkpoints", root=root)}}
    for cell in cells:
        cards[f"{cell.stage}/{cell.name}"] = _cell_card(cell, resolved[cell], params, trainer, root)
    for pair in params.pairs:
        cards[f"evaluate/{pair}"] = {
            "pair": pair,
            "data": params.data.name,
            "cells": [_identity(cell) for cell in cells if cell.pair == pair],
            "code": {"evaluation": fingerprint("kdcore.evaluation", root=root)},
        }
    cards["tables"] = _tables_card(params, cells, resolved, root)
    return cards


def resolve_recipes(params: Params, published: dict[str, Any]) -> dict[Cell, recipes.Recipe]:
    """The recipe of every cell.

    Raises:
        UserError: a recipe is incomplete or an override wrong.
    """
    recipes.check_published(published)
    recipes.check_overrides(params.methods_config)
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


def _data_card(params: Params, root: Path) -> Card:
    name, source = params.data.name, params.data.source
    if source not in ("embedded", "download") and not Path(source).is_dir():
        raise UserError(
            f"params.yaml: data.source: {source!r} is no folder. Allowed: download, or the path of a folder"
        )
    return {**params.data.model_dump(), "code": {"data": fingerprint(f"kdcore.data.{name}", root=root)}}


def _teacher_card(
    name: str, teacher: Teacher, params: Params, *, known: dict[str, Any], trainer: list[str], root: Path
) -> Card:
    card: Card = {"name": name, "student": name, "data": params.data.name, "source": teacher.source}
    code = {"student": _network_fingerprint(name, root)}
    if teacher.source == "train":
        return {
            **card,
            "method": catalog.VANILLA,
            "seed": TEACHER_SEED,
            "recipe": {"ce_weight": 1.0},
            "train": _settings(params, epochs=teacher.epochs),
            "code": {"trainer": trainer, **code},
        }
    listed = known["published_top1"].get(params.data.name, {}).get(name)
    published = teacher.published_top1 if teacher.published_top1 is not None else listed
    if published is None:
        raise UserError(
            f"params.yaml: teachers.{name}: data/teachers.yaml lists no accuracy of {name} on {params.data.name}, "
            f"so a wrong checkpoint could not be told from a right one; add teachers.{name}.published_top1"
        )
    return {
        **card,
        "sha256": _checkpoint_sha256(name, teacher),
        "published_top1": published,
        "tolerance": known["tolerance"],
        "code": code,
    }


def _checkpoint_sha256(name: str, teacher: Teacher) -> str:
    """As declared for an address; of a file as it is now, which must be as declared."""
    if "://" in teacher.source and teacher.sha256:
        return teacher.sha256
    try:
        found = hashlib.sha256(Path(teacher.source).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"params.yaml: teachers.{name}.source: {teacher.source!r} cannot be read ({error.strerror}). "
            "Allowed: train, the path of a checkpoint, or an http(s) address"
        ) from error
    if teacher.sha256 not in (None, found):
        raise UserError(f"params.yaml: teachers.{name}.sha256: {teacher.source} has sha256 {found}")
    return found


def _cell_card(cell: Cell, recipe: recipes.Recipe, params: Params, trainer: list[str], root: Path) -> Card:
    code = {"trainer": trainer, "student": _network_fingerprint(cell.student, root)}
    teacher: Card = {}
    if cell.method != catalog.VANILLA:
        teacher["teacher"] = cell.teacher
        code["method"] = fingerprint(catalog.methods()[cell.method].module, root=root)
        code["teacher"] = _network_fingerprint(cell.teacher, root)
        code["restoring"] = fingerprint("kdcore.checkpoints", root=root)
    return {
        **_identity(cell),
        **teacher,
        "data": params.data.name,
        "recipe": {key: value.value for key, value in recipe.items()},
        "train": _settings(params),
        "code": code,
    }


def _tables_card(params: Params, cells: list[Cell], resolved: dict[Cell, recipes.Recipe], root: Path) -> Card:
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
        "teachers": {
            name: teacher.source if teacher.source == "train" else "checkpoint"
            for name, teacher in params.teachers.items()
        },
        "recipes": {
            cell.name: {key: [value.value, value.source] for key, value in resolved[cell].items()} for cell in cells
        },
        "code": {"tables": fingerprint("kdcore.tables", root=root)},
    }


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


def _settings(params: Params, epochs: int | None = None) -> Card:
    """The training settings that take effect. A teacher's own epochs stretch the milestones with them."""
    train = params.train
    total = epochs or train.epochs
    settings = {**train.model_dump(exclude={"milestones", "lr_decay"}), "epochs": total}
    if train.schedule == "step":
        settings["milestones"] = [round(milestone * total / train.epochs) for milestone in train.milestones]
        settings["lr_decay"] = train.lr_decay
    return settings


def _network_fingerprint(name: str, root: Path) -> str:
    return fingerprint(catalog.networks()[name].module, only_network=name, root=root)
