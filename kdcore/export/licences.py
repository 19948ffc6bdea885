"""What licences say of data sets and of checkpoints that were adopted, as docs/sources.md has it."""

from typing import Any

DATA_SETS = {
    "digits": "UCI: CC BY 4.0; scikit-learn: BSD-3-Clause",
    "cifar100": "none stated; the author asks for a citation",
    "tiny_imagenet": "ImageNet's",
    "stl10": "images from ImageNet: ImageNet's",
    "cub200": "research and education, not commercial; the photographs belong to their authors",
    "imagenet": "research and education, not commercial",
}
"""Data set -> its terms."""
CHECKPOINTS = {
    "megvii-research/mdistiller": "MIT",
    "shape2prog.csail.mit.edu": "BSD-2-Clause",
    "torchvision": "BSD-3-Clause; trained on ImageNet",
}
"""A part of the address of a checkpoint -> the licence of the repository that it is from."""


def of_data(name: str) -> str:
    """Return the terms of a data set's images."""
    return DATA_SETS.get(name, "a data set of your own: its terms are yours to state")


def of_teacher(meta: dict[str, Any] | None) -> str:
    """Return what is known of the licence of a teacher's weights.

    Args:
        meta: the teacher's meta.json; None where it is not here.
    """
    if meta is None:
        return "not known here"
    if "adopted" not in meta:
        return f"trained here, on {meta['data']}"
    source = meta["adopted"]["source"]
    licence = next((licence for part, licence in CHECKPOINTS.items() if part in source), "none stated here")
    return f"weights adopted from {source}; licence of their repository: {licence}"
