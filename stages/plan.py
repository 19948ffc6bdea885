"""Stage plan: params.yaml -> one card per stage and cell. With --check, only validates the params files named."""

from kdcore.matrix import params
from kdcore.matrix.cards import CARDS, check_sources, check_teachers, make_cards, resolve_recipes
from kdcore.results import published
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown
from kdcore.system.files import whole
from stages import run


def check(*paths: str) -> None:
    """Validate params files, whether or not their data and checkpoints are on this machine."""
    recipes, known = yamlfile.read("data/recipes.yaml"), yamlfile.read("data/teachers.yaml", bounded=True)
    published.check(yamlfile.read(published.FILE))
    for path in paths:
        matrix = params.load(path)
        check_teachers(matrix, known, path)
        check_sources(matrix, path)
        print(f"{path}: {len(resolve_recipes(matrix, recipes, path))} cells")


def main(*arguments: str) -> None:
    """Write the cards of params.yaml, or check other files."""
    if arguments:
        if arguments[0] != "--check" or len(arguments) == 1:
            raise UserError(f"usage: python -m stages.plan [--check FILE...]; given: {shown(' '.join(arguments))}")
        return check(*arguments[1:])
    matrix = params.load("params.yaml")
    published.check(yamlfile.read(published.FILE))
    recipes, known = yamlfile.read("data/recipes.yaml"), yamlfile.read("data/teachers.yaml", bounded=True)
    cards = make_cards(matrix, published_recipes=recipes, known_teachers=known)
    with whole(CARDS) as folder:
        for name, card in cards.items():
            yamlfile.write(folder / f"{name}.yaml", card)
    return None


if __name__ == "__main__":
    run(main)
