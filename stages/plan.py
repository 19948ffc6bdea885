"""Stage plan: params.yaml -> one card per stage and cell. With --check, only validates the params files named."""

from kdcore.matrix import params
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import make_cards
from kdcore.matrix.check import PLAN_READS, check, warn
from kdcore.results import published
from kdcore.system import yamlfile
from kdcore.system.collector import uncollected
from kdcore.system.errors import UserError, shown
from kdcore.system.files import unchanged, whole
from kdcore.training import preflight
from stages import run


@uncollected()
@unchanged(*PLAN_READS)
def main(*arguments: str) -> None:
    """Write the cards of params.yaml, or check other files."""
    if arguments and (arguments[0] != "--check" or len(arguments) == 1):
        raise UserError(f"usage: python -m stages.plan [--check FILE...]; given: {shown(' '.join(arguments))}")
    for figures in (published.FILE, published.TRANSFER):
        published.check(yamlfile.read(figures), figures)
    recipes, known = yamlfile.read("data/recipes.yaml"), yamlfile.read("data/teachers.yaml", bounded=True)
    for file in arguments[1:]:
        checked = check(file, recipes=recipes, known_teachers=known)
        preflight.check(checked.cards)
        print(checked.text)
    if not arguments:
        matrix = params.load("params.yaml")
        cards = make_cards(matrix, published_recipes=recipes, known_teachers=known)
        preflight.check_images(cards)
        warn(matrix)
        with whole(CARDS) as folder:
            for name, card in cards.items():
                yamlfile.write(folder / f"{name}.yaml", card)


if __name__ == "__main__":
    run(main)
