"""Stage plan: params.yaml -> one card per stage and cell. With --check, only validates the params files named."""

from kdcore import params, plan, yamlfile
from kdcore.folders import whole
from stages import run


def make(path: str) -> dict[str, plan.Card]:
    """All cards of a params file."""
    return plan.make(
        params.load(path),
        published_recipes=yamlfile.read("data/recipes.yaml"),
        known_teachers=yamlfile.read("data/teachers.yaml"),
    )


def main(*arguments: str) -> None:
    """Write the cards of params.yaml, or check other files."""
    if arguments[:1] == ("--check",):
        for path in arguments[1:]:
            print(f"{path}: {sum(card.startswith(('train/', 'baseline/')) for card in make(path))} cells")
        return
    cards = make("params.yaml")
    with whole(plan.FOLDER) as folder:
        for name, card in cards.items():
            yamlfile.write(folder / f"{name}.yaml", card)


if __name__ == "__main__":
    run(main)
