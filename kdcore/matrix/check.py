"""Check a params file as stage plan would, all of it at once, and without writing a card."""

import os
from typing import Any

from kdcore.matrix import params
from kdcore.matrix.cards import check_here, check_sources, resolve_recipes
from kdcore.matrix.teacher_cards import check_teachers
from kdcore.system.errors import UserError

OWN = "params.yaml"
"""The file of the project's matrix, which `dvc repro` runs."""


def check(file: str, *, recipes: dict[str, Any], known_teachers: dict[str, Any]) -> str:
    """Check a params file.

    Args:
        file: its path.
        recipes: content of data/recipes.yaml.
        known_teachers: content of data/teachers.yaml.

    Returns:
        How many cells it has; and, of another file than the project's, what it needs that is not on this machine.

    Raises:
        UserError: a value is wrong; or the file is the project's, and this machine lacks what it needs.
    """
    matrix = params.load(file)
    check_teachers(matrix, known_teachers, file)
    check_sources(matrix, file)
    cells, missing = resolve_recipes(matrix, recipes, file), check_here(matrix, known_teachers)
    if missing and os.path.realpath(file) == os.path.realpath(OWN):
        raise UserError("\n".join(missing))
    remarks = [f"- would not run here: {problem.removeprefix(f'{OWN}: ')}" for problem in missing]
    return "\n".join([f"{file}: {len(cells)} cells", *remarks])
