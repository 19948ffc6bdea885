"""One cell outside the pipeline, of a matrix that need not hold it."""

from pathlib import Path
from typing import Any

from kdcore import catalog, params, plan, runs, yamlfile
from kdcore.cell import Cell
from kdcore.data.store import MANIFEST
from kdcore.errors import UserError

FOLDER = Path("scratch/cells")


def card(
    file: str, *, pair: str, method: str, scale: int | str | None, stand: bool, seed: int, epochs: int | None
) -> dict[str, Any]:
    """The card of a cell, with data set, training settings and overrides of a params file.

    Args:
        file: the params file.
        pair: teacher-student.
        method: a logit method, a baseline or a sum.
        scale: SDD's M, of logit methods; 1 when None.
        stand: logit standardisation, of logit methods.
        seed: of the run.
        epochs: instead of the file's; milestones are stretched with them.

    Raises:
        UserError: an option or the file is wrong, or a hyper-parameter is missing.
    """
    try:
        logit = catalog.kind(method) == "logit"
        catalog.check_pair(pair)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not logit and (scale is not None or stand):
        raise UserError(f"{method} is no logit method and takes neither --scale nor --stand")
    axes = {"methods": [method], "scales": [scale or 1], "stand": [stand]} if logit else {"baselines": [method]}
    teachers = {pair.partition("-")[0]: {"source": "train"}}
    matrix = params.load(file, pairs=[pair], seeds=[seed], teachers=teachers, **axes)
    cell = Cell(pair, method, seed, scale or 1, stand) if logit else Cell(pair, method, seed)
    recipe = plan.resolve_recipes(matrix, yamlfile.read("data/recipes.yaml"), file)[cell]
    made = plan.cell_card(cell, recipe, matrix, plan.Code(plan.ROOT))
    if epochs is not None:
        made["train"] = plan.stretched(made["train"], epochs, "--epochs")
    return made


def teacher_weights(made: dict[str, Any], given: str | None) -> Path | None:
    """The teacher's checkpoint: the one given, else the pipeline's; None for a student trained alone.

    Raises:
        UserError: there is none.
    """
    if "teacher" not in made:
        return None
    path = Path(given) if given else Path("teachers") / made["teacher"] / runs.WEIGHTS
    if not path.is_file():
        raise UserError(
            f"teacher {made['teacher']}: there is no {path}; name a checkpoint with --teacher, or list the teacher in "
            f"params.yaml and run 'dvc repro teacher@{made['teacher']}'"
        )
    return path


def check_data(made: dict[str, Any]) -> None:
    """Refuse a data set that has not been fetched.

    Raises:
        UserError: says how to.
    """
    if not (Path("data") / made["data"] / MANIFEST).is_file():
        raise UserError(f"data set {made['data']} is not here yet; run 'dvc repro data'")
