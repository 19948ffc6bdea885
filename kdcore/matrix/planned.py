"""The cards as stage plan would write them now."""

from kdcore.matrix.cards import make_cards
from kdcore.matrix.code import Card
from kdcore.matrix.params import Params
from kdcore.system import yamlfile


def cards(params: Params) -> dict[str, Card]:
    """Make all cards of a matrix, with the recipes and teachers that data/ lists.

    Returns:
        As `make_cards`.

    Raises:
        UserError: as for `make_cards`; or a list cannot be read.
    """
    return make_cards(
        params,
        published_recipes=yamlfile.read("data/recipes.yaml"),
        known_teachers=yamlfile.read("data/teachers.yaml", bounded=True),
    )
