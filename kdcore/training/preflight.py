"""Find before the pipeline runs what its stages would refuse, perhaps after hours of a teacher's training."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.matrix import data_section, train_images
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import BASE
from kdcore.matrix.code import Card
from kdcore.matrix.left_out import is_left_out
from kdcore.system import yamlfile
from kdcore.system.files import file_digests

if TYPE_CHECKING:
    from kdcore.data.dataset import Dataset

DATA, MADE, LOCK = Path("data"), CARDS / "data.yaml", Path("dvc.lock")
STAGE_DATA = re.compile(r"^  data:\n(?:   .*\n)+", re.MULTILINE)
"""The entry of stage data in dvc.lock, which is read alone: with those of all cells it takes seconds."""


def check(cards: dict[str, Card]) -> None:
    """Refuse checkpoints on this machine that do not fit their networks, cells with regions whose networks can have
    none, and parts of the training images that classes are too small for. Where the data set is not stored here yet,
    its classes and its images are not known, and the stages refuse them.

    Args:
        cards: those of the matrix, or none.

    Raises:
        UserError: names the teacher, the network or the setting, and what does not fit.
    """
    adopted = [card for name, card in cards.items() if name.startswith("teacher/") and _is_here(card)]
    regional = {
        (role, card[role], tuple(card["levels"]), card["train"].get("small_maps"))
        for name, card in cards.items()
        for role in ("teacher", "student")
        if name.startswith("train/") and not is_left_out(card) and max(card["levels"]) > 1
    }
    described = {
        key: one
        for name, card in cards.items()
        if name.startswith("evaluate/")
        for key, one in card.get("networks", {}).items()
    }
    check_images(cards)
    if not (adopted or regional) or (dataset := _stored(cards["data"])) is None:
        return
    from kdcore import networks  # torch, which these import, takes seconds, and some matrices need none
    from kdcore.networks import regions
    from kdcore.training import adopt

    for card in adopted:
        adopt.check_fits(card, dataset)
    for role, name, levels, small_maps in sorted(regional, key=str):
        network = networks.create(name, len(dataset.classes), stem=dataset.stem, described=described)
        regions.check_regions(network, f"{role} {name}", levels, image_size=dataset.image_size, small_maps=small_maps)


def check_images(cards: dict[str, Card]) -> None:
    """Refuse parts of the training images that classes are too small for, and labels that cannot be wrong, as far as
    the data set is stored here or its section tells how many images a class has.

    Args:
        cards: those of the matrix, or none.

    Raises:
        UserError: names the setting and its variant, the class, and what is allowed.
    """
    partial = [card for card in cards.values() if "validation" in card or _is_of_part(card.get("train", {}))]
    if partial:
        _check_classes(cards["data"], _stored(cards["data"]), [card for card in partial if "train" in card])


def _stored(card: Card) -> "Dataset | None":
    """Load the data set if it is stored here as its card says."""
    from kdcore.data import storage  # half a second

    folder = DATA / card["name"]
    if not MADE.is_file() or yamlfile.read(MADE) != card or not (folder / storage.MANIFEST).is_file():
        return None
    return None if is_of_earlier_plan(folder) else storage.load(folder)


def is_of_earlier_plan(folder: Path) -> bool:
    """Return whether DVC has made a stored data set from another card than stage plan has written since.

    Args:
        folder: the data set's. Where dvc.lock does not record it, nothing is known, and the answer is no.
    """
    found = STAGE_DATA.search(LOCK.read_text(encoding="utf-8")) if LOCK.is_file() and MADE.is_file() else None
    if found is None:
        return False
    entry = yamlfile.parse(found[0], str(LOCK))["data"]
    made = {one["path"]: one.get("md5") for kind in ("deps", "outs") for one in entry.get(kind, ())}
    return folder.as_posix() in made and made.get(MADE.as_posix()) != file_digests(MADE, "md5")["md5"]


def _check_classes(section: Card, dataset: "Dataset | None", cards: list[Card]) -> None:
    """Refuse cards that take more training images than a class has, as far as it is known how many that are."""
    from kdcore.data import regimes, subsets

    known = data_section.images_per_class(section)
    counts = {} if known is None else {"every class": known}
    if dataset is not None:
        counts = subsets.counts(dataset)
    for card in cards:
        part = subsets.part_of(card)
        of = f" of variant {card['variant']}" if card.get("variant", BASE) != BASE else ""
        part["key"] += of
        subsets.check(counts, **part)
        if counts:
            regimes.check(counts, card, of=of)


def _is_of_part(train: Card) -> bool:
    """Whether training settings ask for some of the training images, or for other labels."""
    return "per_class" in train or train_images.is_set(train)


def _is_here(card: Card) -> bool:
    """Whether a teacher's weights come from a file of this machine."""
    if card["source"] == "published":
        return any("file" in source for source in card["sources"])
    return card["source"] != "train" and "://" not in card["source"]
