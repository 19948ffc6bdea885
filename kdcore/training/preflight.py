"""Find before the pipeline runs what its stages would refuse, perhaps after hours of a teacher's training."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.matrix import data_section, train_images
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import BASE
from kdcore.matrix.code import Card
from kdcore.matrix.left_out import is_left_out
from kdcore.matrix.robustness_section import CIFAR100_C, DOWNLOAD
from kdcore.system import workspace, yamlfile
from kdcore.system.dvc_lock import recorded
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests

if TYPE_CHECKING:
    from kdcore.data.dataset import Dataset

DATA, MADE = Path("data"), CARDS / "data.yaml"


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
    the data set is stored here or its section tells how many images a class has; and a copy of CIFAR-100-C that lacks
    a file, or holds another set's labels. Its images take seconds to check, which the stage does.

    Args:
        cards: those of the matrix, or none.

    Raises:
        UserError: names the setting and its variant, the class, and what is allowed; or the file of the copy.
    """
    partial = [card for card in cards.values() if "validation" in card or _is_of_part(card.get("train", {}))]
    if partial:
        _check_classes(cards["data"], _stored(cards["data"]), [card for card in partial if "train" in card])
    for source in {
        card["source"] for name, card in cards.items() if name.startswith("robustness/") and "source" in card
    }:
        _check_corrupted(source)


def _stored(card: Card) -> "Dataset | None":
    """Load the data set if it is stored here as its card says."""
    from kdcore.data import storage  # half a second

    folder = DATA / card["name"]
    if not MADE.is_file() or yamlfile.read(MADE) != card or not (folder / workspace.MANIFEST).is_file():
        return None
    return None if is_of_earlier_plan(folder) else storage.load(folder)


def is_of_earlier_plan(folder: Path) -> bool:
    """Return whether DVC has made a stored data set from another card than stage plan has written since.

    Args:
        folder: the data set's. Where dvc.lock does not record it, nothing is known, and the answer is no.
    """
    made = recorded("data") if MADE.is_file() else {}
    return folder.as_posix() in made and made.get(MADE.as_posix()) != file_digests(MADE, "md5")["md5"]


def _check_classes(section: Card, dataset: "Dataset | None", cards: list[Card]) -> None:
    """Refuse cards that take more training images than a class has, as far as it is known how many that are."""
    from kdcore.data import regimes, subsets

    known = data_section.images_per_class(section)
    counts = {} if known is None else {"every class": known}
    if dataset is not None:
        counts = subsets.counts(dataset)
    asked = set()
    for card in cards:
        part = subsets.part_of(card)
        of = f" of variant {card['variant']}" if card.get("variant", BASE) != BASE else ""
        part["key"] += of
        asks = str([part, *(card["train"].get(key) for key in train_images.ImageKeys.model_fields)])
        if asks in asked:  # label noise of CIFAR-100 takes 20 ms, and a matrix has hundreds of cells
            continue
        asked.add(asks)
        subsets.check(counts, **part)
        if counts:
            regimes.check(counts, card, of=of)


def _check_corrupted(source: str) -> None:
    """Refuse a copy of CIFAR-100-C, an archive or a folder, that cannot be the published one; a download is none."""
    from kdcore.data.cifar100_c import HELP, LABELS, PUBLISHED
    from kdcore.fetch import archives

    path = workspace.find(source)
    if source == DOWNLOAD or not path.exists():
        return
    key = f"params.yaml: robustness_sources.{CIFAR100_C}"
    with tempfile.TemporaryDirectory() as temporary:
        if path.is_dir():
            folder = path if path.name == PUBLISHED.folder else path / PUBLISHED.folder
            missing = [f"{name}.npy" for name in PUBLISHED.files if not (folder / f"{name}.npy").is_file()]
            if missing:
                raise UserError(
                    f"{key}: {folder}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; {HELP}"
                )
            labels = folder / f"{LABELS}.npy"
        else:
            try:
                labels = archives.member(path, f"{PUBLISHED.folder}/{LABELS}.npy", Path(temporary))
            except UserError as error:
                raise UserError(f"{key}: {error}; {HELP}") from error
        found = file_digests(labels, "md5")["md5"]
    if found != PUBLISHED.labels_md5:
        raise UserError(
            f"{key}: {path}: its {LABELS}.npy has md5 {found}, that of CIFAR-100-C {PUBLISHED.labels_md5}; {HELP}"
        )


def _is_of_part(train: Card) -> bool:
    """Whether training settings ask for some of the training images, or for other labels."""
    return "per_class" in train or train_images.is_set(train)


def _is_here(card: Card) -> bool:
    """Whether a teacher's weights come from a file of this machine."""
    if card["source"] == "published":
        return any("file" in source for source in card["sources"])
    return card["source"] != "train" and "://" not in card["source"]
