"""Tiny-ImageNet: 200 classes of ImageNet at 64 x 64 (Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015).

Training images are turned by up to 20 degrees and mirrored, not cropped, as in
mdistiller:mdistiller/dataset/tiny_imagenet.py. Its labelled validation images are the test; those without labels are
left out.
"""

from pathlib import Path

from kdcore.data.dataset import Dataset
from kdcore.data.sources.archive import Archive, opened
from kdcore.data.sources.contents import check_decoded, check_files_apart
from kdcore.data.sources.folders import Files, check_number, check_same_classes, classes_below, read_images
from kdcore.data.sources.lists import pairs, say_unlisted
from kdcore.system.errors import UserError

ARCHIVE = Archive(
    urls=("https://cs231n.stanford.edu/tiny-imagenet-200.zip", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    folder="tiny-imagenet-200",
)
CLASSES = 200
COUNTS = {"train": 100_000, "val": 10_000}
SIDE = 64
BOXES = (".txt",)
"""Suffix of the published files beside each class's training images, which say where the objects are."""
MEAN = (0.4802, 0.4481, 0.3975)
STD = (0.2302, 0.2265, 0.2262)


def fetch(*, source: str, subset: bool) -> Dataset:
    """Read Tiny-ImageNet.

    Args:
        source: "download", or the path of the archive or of the folder extracted from it.
        subset: take what is there, instead of refusing all but the whole.

    Raises:
        UserError: the source holds no Tiny-ImageNet, or not all of it.
    """
    with opened(source, ARCHIVE) as root:
        train_files = classes_below(_existing(root / "train"), beside=BOXES)
        splits = {"train": train_files, "val": _validation(_existing(root / "val"))}
        train, val = splits.values()
        check_same_classes(train, val, root)
        check_number(train, f"data.source {source}")
        check_files_apart(train, val)
        counts = {name: sum(map(len, files.values())) for name, files in splits.items()}
        if not subset and (len(train), counts) != (CLASSES, COUNTS):
            raise UserError(
                f"data.source {source}: holds {counts} images of {len(train)} classes, Tiny-ImageNet {COUNTS} of "
                f"{CLASSES}; get it whole, or set data.subset: true to take what is there"
            )
        train_split = read_images(train, SIDE, resize=False)
        val_split = read_images(val, SIDE, resize=False)
        check_decoded(train_split, val_split, f"data.source {source}", "get it anew")
        return Dataset(
            name="tiny_imagenet",
            classes=list(train),
            train=train_split,
            test=val_split,
            mean=MEAN,
            std=STD,
            image_size=SIDE,
            flip=True,
            rotation=20.0,
        )


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: is missing; is this Tiny-ImageNet as published?")
    return folder


def _validation(folder: Path) -> Files:
    """List the validation images by class: in one folder with a list, as published, or in folders of classes."""
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        return classes_below(folder)
    listed = pairs(annotations, "<file> <tab> <class> ...", "\t")
    say_unlisted(folder / "images", listed, annotations)
    files: Files = {}
    for name, label in listed.items():
        files.setdefault(label, []).append(folder / "images" / name)
    return {label: sorted(files[label]) for label in sorted(files)}
