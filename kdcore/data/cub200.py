"""CUB-200-2011, birds of 200 species: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011.

Stored as 256 x 256 pixels, whatever their shape; training sees crops of 224, the test their middle, as in
SDD-CVPR2024:mdistiller/dataset/cub200.py.
"""

from pathlib import Path

import numpy as np

from kdcore.data import tree
from kdcore.data.archives import Archive, opened
from kdcore.data.imagenet import MEAN, STD
from kdcore.data.store import Dataset, Split
from kdcore.errors import UserError

ARCHIVE = Archive(
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    folder="CUB_200_2011",
)
CLASSES = 200
COUNTS = {"train": 5994, "test": 5794}
STORED = 256


def fetch(*, source: str, subset: bool) -> Dataset:
    """The birds, split as published.

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
    position = {number: i for i, number in enumerate(classes)}
    splits = {}
    for name, mark in (("train", "1"), ("test", "0")):
        chosen = [number for number in images if in_train.get(number) == mark]
        try:
            of_split = np.array([position[labels[number]] for number in chosen], dtype=np.int64)
        except KeyError as error:
            raise UserError(f"{root}: image or class {error} is in one of its lists alone") from error
        paths = [root / "images" / images[number] for number in chosen]
        splits[name] = Split(tree.decode(paths, STORED), of_split)
    return list(classes.values()), splits


def _listed(path: Path) -> dict[str, str]:
    """The lines "<number> <text>" of a list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is this CUB-200-2011 as published?") from error
    return dict(line.split(maxsplit=1) for line in lines if line.strip())
