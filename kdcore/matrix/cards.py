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
from typing import Any, cast

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix import data_section, recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.code import Card, Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.listed_teachers import COPIES, FILE, SUFFIXES, KnownTeachers, Published, own_copy
from kdcore.matrix.params import Params, Teacher
from kdcore.matrix.train_section import TrainSettings, as_epochs
from kdcore.system import workspace
from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.files import file_sha256

CARDS = Path("cards")
OUTPUTS = ("cards", "teachers", "pairs", "runs", "evaluations", "tables")
"""Folders that stages write, in addition to the data set's."""
TEACHER_SEED = 0


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
        cards[f"teacher/{name}"] = _teacher_card(name, teacher, params, known, code)
    cards["pairs"] = {"pairs": params.pairs}
    for cell in cells:
        cards[f"{cell.stage}/{cell.name}"] = cell_card(cell, resolved[cell], params, code)
        cards[f"sources/{cell.name}"] = {key: asdict(value) for key, value in resolved[cell].items()}
    for pair in params.pairs:
        cards[f"evaluate/{pair}"] = {
            "pair": pair,
            "data": params.data.name,
            "cells": [_identity(cell) for cell in cells if cell.pair == pair],
            **_threads(params.train),
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
    recipes.check_overrides(params.methods_config, file)
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


def check_teachers(params: Params, known_teachers: dict[str, Any], file: str) -> None:
    """Refuse published teachers that data/teachers.yaml does not list, even if there is a checkpoint on this machine.

    Args:
        params: the matrix.
        known_teachers: content of data/teachers.yaml.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the teacher, and which teachers are listed.
    """
    known = KnownTeachers.of(known_teachers)
    for name, teacher in params.teachers.items():
        if teacher.source == "published":
            _listed(name, params.data.name, known, file)


def check_here(params: Params, known_teachers: dict[str, Any], root: Path = ROOT) -> tuple[dict[str, Card], list[str]]:
    """Make the cards of the data set and the teachers, as far as this machine can.

    Args:
        params: the matrix.
        known_teachers: content of data/teachers.yaml.
        root: the folder that holds the sources of kdcore.

    Returns:
        The cards under their names, and all that keeps this machine from making the others: a folder or checkpoint
        that is not there, or another one than params.yaml says. The message of each names its key.
    """
    known, code = KnownTeachers.of(known_teachers), Code(root)
    makers = {"data": partial(_data_card, params, code)} | {
        f"teacher/{name}": partial(_teacher_card, name, teacher, params, known, code)
        for name, teacher in params.teachers.items()
    }
    made: dict[str, Card] = {}
    problems = []
    for name, make in makers.items():
        try:
            made[name] = _by_value(make())
        except UserError as error:
            problems.append(str(error))
    return made, problems


def check_sources(params: Params, file: str = "params.yaml") -> None:
    """Refuse sources that overlap with an output, because DVC deletes outputs before their stages run.

    Args:
        params: the matrix.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the source and the output.
    """
    images = data_section.path(str(params.data.source))
    sources = {"data.source": images} if images is not None else {}
    for name, teacher in params.teachers.items():
        if teacher.source not in ("train", "published") and "://" not in teacher.source:
            sources[f"teachers.{name}.source"] = Path(teacher.source)
    for (key, path), output in product(sources.items(), (*OUTPUTS, f"data/{params.data.name}")):
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


def _teacher_card(name: str, teacher: Teacher, params: Params, known: KnownTeachers, code: Code) -> Card:
    card: Card = {"name": name, "student": name, "data": params.data.name, "source": teacher.source}
    if teacher.source == "train":
        return {**card, **_teacher_training(teacher), "code": code.training(name)}
    card |= _threads(params.train)
    code_used = {"student": code.network(name)}
    if teacher.source == "published":
        sources = _published_sources(name, teacher, params.data.name, known)
        card |= _published_accuracy(name, teacher, params.data.name, known) | {"sources": sources}
    else:
        accuracy = _published_accuracy(name, teacher, params.data.name, known)
        card |= {"sha256": _checkpoint_sha256(name, teacher), **accuracy}
        card |= {"member": teacher.member} if teacher.member else {}
    if teacher.otherwise == "train":
        card |= {"otherwise": "train", **_teacher_training(teacher)}
        code_used = code.training(name)
    return {**card, "code": code_used}


def _teacher_training(teacher: Teacher) -> Card:
    """Return how a teacher is trained here: only with settings of its own, which no student shares."""
    return {
        "method": catalog.VANILLA,
        "seed": TEACHER_SEED,
        "recipe": {"ce_weight": 1.0},
        "train": _settings(cast(TrainSettings, teacher.train), catalog.VANILLA),
    }


def _published_accuracy(name: str, teacher: Teacher, dataset: str, known: KnownTeachers) -> Card:
    listed = known.find(dataset, name)
    published = teacher.published_top1
    if published is None and listed is not None:
        published = listed.published_top1
    if published is None:
        raise UserError(
            f"params.yaml: teachers.{name}: {FILE} lists no accuracy of {name} on {dataset}, so a wrong checkpoint "
            f"could not be told from a right one; add teachers.{name}.published_top1"
        )
    return {"published_top1": published, "tolerance": known.tolerance}


def _listed(name: str, dataset: str, known: KnownTeachers, file: str) -> Published:
    listed = known.find(dataset, name)
    if listed is None:
        there = known.teachers.get(dataset)
        what = (
            f"of {dataset} it lists {', '.join(there)}" if there else f"it lists those of {', '.join(known.teachers)}"
        )
        raise UserError(
            f"{file}: teachers.{name}.source: {FILE} lists no published {name} of {dataset}; {what}. Set source: "
            "train, or the path or address of a checkpoint"
        )
    return listed


def _published_sources(name: str, teacher: Teacher, dataset: str, known: KnownTeachers) -> list[Card]:
    """List where a published teacher is taken from: only the user's own copy if there is one, else all listed."""
    listed = _listed(name, dataset, known, "params.yaml")
    own = own_copy(dataset, name)
    if own is not None:
        file = own.as_posix()
        return [{"file": file, "sha256": _checkpoint_sha256(name, teacher.model_copy(update={"source": file}))}]
    pinned = {"sha256": teacher.sha256} if teacher.sha256 else {}
    sources = [source.model_dump(exclude_none=True) | pinned for source in listed.sources]
    if not teacher.otherwise and all("by_hand" in source for source in sources):
        hints = "; ".join(source["by_hand"] for source in sources) or "no download is listed"
        raise UserError(
            f"params.yaml: teachers.{name}.source: no client can download a published {name} of {dataset} ({hints}). "
            f"Put a copy at {COPIES / dataset / name}{SUFFIXES[1]}, or set source: train, or add otherwise: train"
        )
    return sources


def _checkpoint_sha256(name: str, teacher: Teacher) -> str:
    """Return the SHA-256 of a checkpoint: the declared one if the source is an address, else that of the file as it is
    now, which must match a declared one.
    """
    if "://" in teacher.source and teacher.sha256:
        return teacher.sha256
    try:
        found = file_sha256(workspace.find(Path(teacher.source)))
    except OSError as error:
        raise UserError(
            f"params.yaml: teachers.{name}.source: {shown(teacher.source)} cannot be read ({error.strerror}). "
            "Allowed: train, published, the path of a checkpoint or archive, or an http(s) address"
        ) from error
    if teacher.sha256 not in (None, found):
        raise UserError(
            f"params.yaml: teachers.{name}.sha256: {teacher.source} has sha256 {found}; correct one of both"
        )
    return found


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
    teacher = None if cell.method == catalog.VANILLA else cell.teacher
    train = train or params.train.of(student=cell.student, method=cell.method, pair=cell.pair)
    return {
        **_identity(cell),
        **({"teacher": teacher} if teacher else {}),
        "data": params.data.name,
        "recipe": {key: value.value for key, value in recipe.items()},
        "train": _settings(train, cell.method),
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
        "exceptions": [exception.model_dump(exclude_none=True) for exception in params.train.exceptions],
        "subset": getattr(params.data, "subset", False),
        "teachers": {
            name: {
                "train": f"trained here, {teacher.train.epochs if teacher.train else 0} epochs",
                "published": "published checkpoint",
            }.get(teacher.source, f"own checkpoint {teacher.source}")
            for name, teacher in params.teachers.items()
        },
        "recipes": {
            cell.name: {key: [value.value, value.source] for key, value in resolved[cell].items()} for cell in cells
        },
        "code": {"publication": code.of("kdcore.results.write", everything=True)},
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


def _settings(train: TrainSettings, method: str) -> Card:
    """Return only the settings that take effect. Without distillation, optimizer dot is the same as sgd."""
    unused = {"milestones", "lr_decay"} if train.schedule == "cosine" else set()
    settings = train.model_dump(exclude={*unused, "threads"}) | _threads(train)
    if train.optimizer == "sgd" or method == catalog.VANILLA:
        settings["optimizer"] = "sgd"
        del settings["dot_delta"]
    if "milestones" in settings:
        settings["milestones"] = as_epochs(train.milestones, train.epochs)
    if train.grad_clip_norm is None:
        del settings["grad_clip_norm"]
    return settings


def _threads(train: TrainSettings) -> Card:
    """Return the number of CPU threads as a part of a card; empty when `threads` is auto."""
    return {} if train.threads == "auto" else {"threads": train.threads}
