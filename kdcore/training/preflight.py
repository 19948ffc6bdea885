"""Find before the pipeline runs what stage teacher would refuse, perhaps after hours of another teacher's training."""

from pathlib import Path

from kdcore.matrix.cards import CARDS
from kdcore.matrix.code import Card
from kdcore.system import yamlfile

DATA = Path("data")


def check_checkpoints(cards: dict[str, Card]) -> None:
    """Refuse checkpoints on this machine that do not fit their networks. Where the data set is not stored here yet, the
    number of its classes is not known, and stage teacher refuses them.

    Args:
        cards: those of the data set and of the teachers, or none.

    Raises:
        UserError: names the teacher, the file, and what does not fit.
    """
    here = [card for name, card in cards.items() if name.startswith("teacher/") and _is_here(card)]
    stored = CARDS / "data.yaml"
    if not here or not stored.is_file() or yamlfile.read(stored) != cards["data"]:
        return
    from kdcore.data import storage  # torch, which the two import, takes seconds, and most matrices need none
    from kdcore.training import adopt

    folder = DATA / cards["data"]["name"]
    if (folder / storage.MANIFEST).is_file():
        dataset = storage.load(folder)
        for card in here:
            adopt.check_fits(card, dataset)


def _is_here(card: Card) -> bool:
    """Whether a teacher's weights come from a file of this machine."""
    if card["source"] == "published":
        return any("file" in source for source in card["sources"])
    return card["source"] != "train" and "://" not in card["source"]
