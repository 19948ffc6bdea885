"""ImageNet: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015, arXiv:1409.0575 (ILSVRC 2012).

Its licence asks every user for a copy of their own, from image-net.org: a folder with train/<class>/ and val/<class>/,
where <class> is a WordNet number such as n01440764. Images are decoded as they are needed (see `kdcore.data.stream`).
"""

from pathlib import Path

from kdcore.data.dataset import Dataset
from kdcore.data.sources.contents import check_files_apart, check_no_masks, check_repeated, keys_of, say_names
from kdcore.data.sources.folders import Files, check_number, check_same_classes, classes_below, index_images, labels_of
from kdcore.data.sources.groups import say_groups
from kdcore.system.errors import UserError

CLASSES = 1000
COUNTS = {"train": 1_281_167, "val": 50_000}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation that torchvision's weights and all published distillation code use."""
HELP = (
    "Get ImageNet (ILSVRC 2012) from image-net.org and extract it to train/<class>/*.JPEG and val/<class>/*.JPEG; "
    "torchvision.datasets.ImageNet sorts the validation images by class"
)


def fetch(*, source: str, subset: bool) -> Dataset:
    """Index a user's own copy of ImageNet, after checking and counting its images.

    Args:
        source: folder with train/ and val/.
        subset: take what is there, instead of refusing all but the whole.

    Raises:
        UserError: a folder is missing, classes differ, or images are missing.
    """
    root = Path(source)
    splits = {}
    for name in COUNTS:
        if not (root / name).is_dir():
            raise UserError(f"data.source {source}: has no folder {name}. {HELP}")
        splits[name] = classes_below(root / name)
    train, val = splits.values()
    check_same_classes(train, val, root)
    check_number(train, f"data.source {source}")
    check_files_apart(train, val)
    if subset:
        say_groups((train, val), f"data.source {source}")
        say_names(list(train), f"data.source {source}")
        check_no_masks({name: [*train[name], *val[name]] for name in train}, f"data.source {source}")
        files = [[path for paths in split.values() for path in paths] for split in (train, val)]
        check_repeated(*keys_of(*files), labels_of(train), labels_of(val), f"data.source {source}")
    else:
        _check_whole(splits, root)
    return Dataset(
        name="imagenet",
        classes=list(train),
        train=index_images(train, root),
        test=index_images(val, root),
        mean=MEAN,
        std=STD,
        image_size=224,
        flip=True,
        stem="large",
    )


def _check_whole(splits: dict[str, Files], root: Path) -> None:
    for name, files in splits.items():
        count = sum(len(paths) for paths in files.values())
        if (len(files), count) != (CLASSES, COUNTS[name]):
            raise UserError(
                f"data.source {root}: {name} holds {count} images in {len(files)} classes, ImageNet {COUNTS[name]} in "
                f"{CLASSES}. {HELP}; or set data.subset: true to take what is there"
            )
