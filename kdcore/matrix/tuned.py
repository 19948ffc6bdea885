"""The records of searches, tuning/<name>.json, which `python -m stages.tune` writes and git tracks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcore.matrix.cell import Cell
from kdcore.matrix.code import Card
from kdcore.matrix.train_card import cell_settings
from kdcore.matrix.tune_section import content
from kdcore.system import validated
from kdcore.system.errors import UserError
from kdcore.system.validated import Stored

if TYPE_CHECKING:
    from kdcore.matrix.params import Params

FOLDER = Path("tuning")
REMEDY = "restore it ('git checkout -- tuning'), or run 'python -m stages.tune' again"


class Counts(Stored):
    """How many trials ended in which way."""

    done: int
    pruned: int
    failed: int


class Protocol(Stored):
    """How a search was made."""

    pairs: list[str]
    method: str
    scale: int | str | None
    stand: bool | None
    seeds: list[int]
    validation: float
    space: dict[str, str]
    conditions: dict[str, Any]
    """The data set and the settings of training that all trials had, see `conditions`."""
    trials: Counts


class Trial(Stored):
    """One trial: its values, and its score in percent, which is that of its last epoch."""

    number: int
    values: dict[str, float | int | bool | str]
    score: float | None
    state: Literal["complete", "pruned", "failed"]


class Best(Stored):
    """The best complete trial."""

    trial: int
    score: float
    values: dict[str, float | int | bool | str]


class Record(Stored):
    """The keys of a record that the plan, the notes and the report read."""

    name: str
    protocol: Protocol
    best: Best
    importances: dict[str, float]
    trials: list[Trial]


def path(study: str) -> Path:
    """Return the path of a study's record."""
    return FOLDER / f"{study}.json"


def card(params: "Params") -> Card:
    """Return the records of the searches that chose variants, as a part of the card of stage tables; else nothing.

    Args:
        params: the matrix.

    Raises:
        UserError: a record is missing or damaged, or a variant has other values than its search chose.
    """
    records: dict[str, Any] = {}
    for name, variant in params.variants.items():
        if variant.tuned is not None:
            records[name] = _record(f"params.yaml: variants.{name}", variant.tuned)
            chosen = content(records[name]["best"]["values"])
            if {**variant.recipes, **({"train": variant.train} if variant.train else {})} != chosen:
                raise UserError(
                    f"params.yaml: variants.{name}: has other values than {path(variant.tuned)} chose ({chosen}); "
                    f"write those, run 'python -m stages.tune' again, or remove tuned: {variant.tuned} from the variant"
                )
            about = records[name]["protocol"]
            now = conditions(params, about)
            differs = {key for key in {**now, **about["conditions"]} if now.get(key) != about["conditions"].get(key)}
            records[name] |= {"differs": sorted(differs)} if differs else {}
    return {"tuning": records} if records else {}


def conditions(params: "Params", about: dict[str, Any]) -> dict[str, Any]:
    """Return what a search does not choose, as JSON holds it: "data.name", "train.epochs" and so on -> value.

    Args:
        params: the matrix.
        about: method, pairs, scale, stand, seeds and space of the search.
    """
    cell = Cell(about["pairs"][0], about["method"], about["seeds"][0], about["scale"], about["stand"])
    settings = {f"train.{key}": value for key, value in cell_settings(cell, params.settings(cell)).items()}
    data = {f"data.{key}": value for key, value in params.data.model_dump().items()}
    kept = {key: value for key, value in {**data, **settings}.items() if key not in about["space"]}
    return dict(json.loads(json.dumps(kept)))


def _record(where: str, study: str) -> dict[str, Any]:
    file = path(study)
    if not file.is_file():
        raise UserError(
            f"{where}.tuned: {study}: there is no {file}, the record of that search; {REMEDY}, or remove tuned from "
            "the variant"
        )
    return validated.read_checked(file, Record)
