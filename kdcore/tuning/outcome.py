"""What a search leaves in git: its record, and a variant with the best values in params.yaml."""

from pathlib import Path
from typing import Any

from kdcore.matrix import grid, params, selection, tune_section, tuned
from kdcore.matrix.cards import resolve_recipes
from kdcore.matrix.cell import BASE
from kdcore.matrix.tune_section import content
from kdcore.system import yamlfile
from kdcore.system.errors import RunError
from kdcore.system.files import json_text, replace_text
from kdcore.tuning.setup import FILE, Setup
from kdcore.tuning.study import Study

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
DIGITS = 4
"""Decimals of scores."""


def record(setup: Setup, study: Study) -> dict[str, Any]:
    """Return the content of tuning/<name>.json.

    Raises:
        RunError: no trial is complete, so there is no best one.
    """
    best, ended = study.best, study.ended
    if best is None:
        raise RunError(f"none of {len(ended)} trials is complete: all diverged; correct tune.space, see docs/tuning.md")
    count = {state: sum(trial.state.name == name for trial in ended) for name, state in STATES.items()}
    left_out = ("cards", "data", "teachers")
    protocol = {key: value for key, value in setup.protocol.items() if key not in left_out}
    return {
        "name": setup.tune.study,
        "protocol": {
            **protocol,
            "conditions": tuned.conditions(setup.matrix, protocol),
            "epochs": setup.epochs,
            "trials": {"done": len(ended), "pruned": count["pruned"], "failed": count["failed"]},
        },
        "best": {"trial": best.number, "score": round(best.value or 0.0, DIGITS), "values": study.values(best)},
        "importances": study.importances(),
        "trials": [
            {
                "number": trial.number,
                "values": study.values(trial),
                "score": _score(trial),
                "state": STATES[trial.state.name],
            }
            for trial in ended
        ],
    }


def _score(trial: Any) -> float | None:
    """Return a trial's score; of one that was stopped early, that of its last epoch; of one that diverged, none."""
    if trial.state.name == "FAIL":
        return None
    value = trial.value if trial.value is not None else trial.intermediate_values[trial.last_step]
    return round(float(value), DIGITS)


def write(setup: Setup, study: Study) -> str:
    """Write the record, and the variant; returns what to tell a person.

    Raises:
        RunError: no trial is complete.
        UserError: params.yaml would be wrong with the variant.
    """
    found = record(setup, study)
    name, best = setup.tune.variant, found["best"]
    tune_section.check_replaceable(setup.tune, params.load(FILE), FILE)  # it may have been edited meanwhile
    file = tuned.path(setup.tune.study)
    replace_text(file, json_text(found))
    made = {**content(best["values"]), "only": setup.tune.only(), "tuned": setup.tune.study}
    other = _same_as(name, made, setup)
    said = f"{file}: best of {len(found['trials'])} trials: trial {best['trial']}, {best['score']:.2f}%: "
    said += ", ".join(f"{key} {value}" for key, value in best["values"].items())
    path = Path(FILE)
    text = path.read_text(encoding="utf-8")
    there = params.load(path).variants
    if other:
        gone = ""
        if name in there:  # of an earlier call with fewer trials, whose values are the best no longer
            replace_text(path, grid.removed(text, name))
            gone = f", and variants.{name} is removed"
        return f"{said}\n{FILE}: its cells are those of {other} already; no variant is written{gone}"
    text = grid.replaced(text, name, made) if name in there else grid.inserted(text, {name: made})
    if text != path.read_text(encoding="utf-8"):
        replace_text(path, text)
    return f"{said}\n{FILE}: variants.{name} holds these values; 'dvc repro' trains it. Commit both files"


def _same_as(name: str, made: dict[str, Any], setup: Setup) -> str:
    """Name the variant whose cells would be the same as those of a new one; "" where there is none.

    Raises:
        UserError: params.yaml would be wrong with the new one.
    """
    there = yamlfile.read(FILE, bounded=True)["variants"]
    matrix = params.load(FILE, variants={**there, name: made})
    if not any(cell.variant == name and matrix.is_declared(cell) for cell in matrix.points()):
        return BASE
    resolved = resolve_recipes(matrix, setup.recipes)
    same = selection.repeated(matrix, resolved).get(name, "")
    if not same:
        selection.check(matrix, resolved)
    return same
