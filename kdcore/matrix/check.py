"""Check a params file as stage plan would, all of it at once, and without writing a card."""

import os
from dataclasses import dataclass
from typing import Any

from kdcore.matrix import doubts, idle, networks_section, params, selection, transfer_cards
from kdcore.matrix.cards import check_sources, make_cards, missing_here, resolve_recipes
from kdcore.matrix.code import Card
from kdcore.matrix.teacher_cards import check_teachers, warn_of_drawn_test
from kdcore.system.errors import UserError

OWN = "params.yaml"
"""The file of the project's matrix, which `dvc repro` runs."""
LISTS = tuple(f"data/{name}.yaml" for name in ("published", "published_transfer", "recipes", "teachers"))
PLAN_READS = (OWN, *LISTS, "checkpoints", "kdcore", "tuning")
"""What stage plan reads, as dvc.yaml has it."""


@dataclass(frozen=True)
class Checked:
    """A params file that is right."""

    text: str
    """How many cells it has; and, of another file than the project's, what it needs that is not on this machine."""
    cards: dict[str, Card]
    """Of the project's file, all cards, see `make_cards`; of others none."""


def check(file: str, *, recipes: dict[str, Any], known_teachers: dict[str, Any]) -> Checked:
    """Check a params file.

    Args:
        file: its path.
        recipes: content of data/recipes.yaml.
        known_teachers: content of data/teachers.yaml.

    Raises:
        UserError: a value is wrong; or the file is the project's, and this machine lacks what it needs.
    """
    matrix = params.load(file)
    transfer_cards.check_key(matrix, file)
    check_teachers(matrix, known_teachers, file)
    check_sources(matrix, file)
    cells = resolve_recipes(matrix, recipes, file)
    selection.check(matrix, cells, file)
    warn(matrix, file)
    missing = missing_here(matrix, known_teachers)
    is_own = os.path.realpath(file) == os.path.realpath(OWN)
    if missing and is_own:
        raise UserError("\n".join(missing))
    remarks = [f"- would not run here: {problem.removeprefix(f'{OWN}: ')}" for problem in missing]
    cards = make_cards(matrix, published_recipes=recipes, known_teachers=known_teachers) if is_own else {}
    count = len(cells) - len(selection.copies(matrix, cells))
    return Checked("\n".join([f"{file}: {count} cells", *remarks]), cards)


def warn(matrix: params.Params, file: str = OWN) -> None:
    """Say on stderr what of a params file has no effect, or may not do what is meant."""
    idle.warn(matrix, file)
    doubts.warn(matrix, file)
    networks_section.warn_of_files(matrix, file)
    warn_of_drawn_test(matrix, file)
