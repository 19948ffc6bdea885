"""CUB-200-2011, birds of 200 species: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011.

Stored as 256 x 256 pixels, whatever their shape; training sees crops of 224, the test their middle, as in
SDD-CVPR2024:mdistiller/dataset/cub200.py.
"""

import sys
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Dataset, Split
from kdcore.data.sources.archive import Archive, opened
from kdcore.data.sources.contents import check_decoded
from kdcore.data.sources.folders import check_number, check_same_classes, decode_images
from kdcore.data.sources.imagenet import MEAN, STD
from kdcore.data.sources.lists import check_once, pairs, say_unlisted
from kdcore.system.errors import UserError

ARCHIVE = Archive(
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    folder="CUB_200_2011",
)
CLASSES = 200
COUNTS = {"train": 5994, "test": 5794}
STORED = 256


def fetch(*, source: str, subset: bool) -> Dataset:
    """Read the birds, split as published.

    Args:
        source: "download", or the path of the archive or of the folder extracted from it.
        subset: take what is there, instead of refusing all but the whole.

    Raises:
        UserError: the source holds no CUB-200-2011, or not all of it.
    """
    with opened(source, ARCHIVE) as root:
        classes, splits = _read(root)
    counts = {name: len(split.labels) for name, split in splits.items()}
    if not subset and (len(classes), counts) != (CLASSES, COUNTS):
        raise UserError(
            f"data.source {source}: holds {counts} images of {len(classes)} classes, CUB-200-2011 {COUNTS} of "
            f"{CLASSES}; get it whole, or set data.subset: true to take what is there"
        )
    in_train, in_test = ({classes[label] for label in split.labels} for split in splits.values())
    check_same_classes(in_train, in_test, Path(source))
    if empty := len(classes) - len(in_train):
        print(f"data.source {source}: {empty} of {len(classes)} classes have no images", file=sys.stderr)
    check_decoded(splits["train"], splits["test"], f"data.source {source}", "get it anew")
    return Dataset(
        name="cub200",
        classes=classes,
        train=splits["train"],
        test=splits["test"],
        mean=MEAN,
        std=STD,
        image_size=224,
        flip=True,
        stem="large",
    )


def _read(root: Path) -> tuple[list[str], dict[str, Split]]:
    classes = _listed(root / "classes.txt")
    images = _listed(root / "images.txt")
    labels = _listed(root / "image_class_labels.txt")
    in_train = _listed(root / "train_test_split.txt")
    for listed, name in ((classes, "classes.txt"), (images, "images.txt")):
        check_once(listed.values(), root / name)
    say_unlisted(root / "images", images.values(), root / "images.txt")
    _check_lists(root, labels=labels, images=images, in_train=in_train)
    position = {number: i for i, number in enumerate(classes)}
    splits = {}
    for name, mark in (("train", "1"), ("test", "0")):
        chosen = [number for number in images if in_train[number] == mark]
        try:
            classes_of_chosen = np.array([position[labels[number]] for number in chosen], dtype=np.int64)
        except KeyError as error:
            raise UserError(f"{root}: class {error} is in one of its lists alone") from error
        paths = [root / "images" / images[number] for number in chosen]
        splits[name] = Split(decode_images(paths, STORED), classes_of_chosen)
    return list(classes.values()), splits


def _check_lists(root: Path, *, images: dict[str, str], labels: dict[str, str], in_train: dict[str, str]) -> None:
    """Refuse images that a list lacks; it may have more."""
    lacking = [number for number in images if number not in labels or number not in in_train]
    if lacking:
        raise UserError(f"{root}: image {lacking[0]!r} is in one of its lists alone")
    strange = sorted(set(in_train.values()) - {"0", "1"})
    if strange:
        raise UserError(f"{root / 'train_test_split.txt'}: must say 1 (training) or 0 (test), not {strange[0]!r}")
    check_number({labels[number] for number in images}, f"data.source {root}")


def _listed(path: Path) -> dict[str, str]:
    return pairs(path, "<number> <text>")
