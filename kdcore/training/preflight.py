"""Find before the pipeline runs what its stages would refuse, perhaps after hours of a teacher's training."""

from pathlib import Path

from kdcore.matrix.cards import CARDS
from kdcore.matrix.code import Card
from kdcore.system import yamlfile

DATA = Path("data")


def check(cards: dict[str, Card]) -> None:
    """Refuse checkpoints on this machine that do not fit their networks, and cells with regions whose networks can have
    none. Where the data set is not stored here yet, its classes and its images are not known, and the stages refuse
    them.

    Args:
        cards: those of the matrix, or none.

    Raises:
        UserError: names the teacher or the network, and what does not fit.
    """
    adopted = [card for name, card in cards.items() if name.startswith("teacher/") and _is_here(card)]
    regional = {
        (role, card[role], tuple(card["levels"]), card["train"].get("small_maps"))
        for name, card in cards.items()
        for role in ("teacher", "student")
        if name.startswith("train/") and max(card["levels"]) > 1
    }
    stored = CARDS / "data.yaml"
    if not (adopted or regional) or not stored.is_file() or yamlfile.read(stored) != cards["data"]:
        return
    from kdcore import networks  # torch, which these import, takes seconds, and some matrices need none
    from kdcore.data import storage
    from kdcore.networks import regions
    from kdcore.training import adopt

    folder = DATA / cards["data"]["name"]
    if not (folder / storage.MANIFEST).is_file():
        return
    dataset = storage.load(folder)
    for card in adopted:
        adopt.check_fits(card, dataset)
    for role, name, levels, small_maps in sorted(regional, key=str):
        network = networks.create(name, len(dataset.classes), stem=dataset.stem)
        regions.check_regions(network, f"{role} {name}", levels, image_size=dataset.image_size, small_maps=small_maps)


def _is_here(card: Card) -> bool:
    """Whether a teacher's weights come from a file of this machine."""
    if card["source"] == "published":
        return any("file" in source for source in card["sources"])
    return card["source"] != "train" and "://" not in card["source"]
