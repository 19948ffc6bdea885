"""Predict the classes of image files, prepared as the data set's test images are."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdcore.data.augment import Normalize, middle
from kdcore.data.images import UnreadableError
from kdcore.data.sources.pixels import Look, Reader
from kdcore.export.about import About, Preparation
from kdcore.export.forms import Classifier
from kdcore.system.errors import UserError
from kdcore.system.pointers import file_stands_for_another

BEST = 5
"""How many classes are named."""


def pixels(image: Image.Image, preparation: Preparation) -> Tensor:
    """Prepare one image in RGB: (3, S, S) uint8."""
    if preparation.resize == "both sides":
        side = preparation.side
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        return middle(torch.from_numpy(np.array(image))[None], preparation.crop)[0]
    from torchvision.transforms import v2  # a second to import, and only such images need it

    steps = [v2.Resize(preparation.side), v2.CenterCrop(preparation.crop), v2.PILToTensor()]
    prepared: Tensor = v2.Compose(steps)(image)
    return prepared


def read(files: Sequence[Path], preparation: Preparation) -> Tensor:
    """Read image files.

    Args:
        files: N images, of any size and form.
        preparation: how they are prepared.

    Returns:
        (N, 3, S, S) uint8.

    Raises:
        UserError: one cannot be read as an image; names it, and says why.
    """
    reader, read_ones = Reader(), []
    for file in files:
        try:
            read_ones.append(pixels(reader(file), preparation))
        except UnreadableError as error:
            pointer = file_stands_for_another(file) if file.is_file() else None
            reason = pointer or f"cannot be read as an image ({error})"
            raise UserError(f"{file}: {reason}; name a PNG, JPEG or other image file") from error
    _say_chosen(reader.looks)
    return torch.stack(read_ones)


def _say_chosen(looks: Sequence[Look]) -> None:
    """Say on stderr how many images data.scale_16bit or data.background, where a data set had them, read otherwise."""
    for key, what, count in (
        ("scale_16bit", "have 16 bits, of which the higher 8 count", sum(look.has_16_bits for look in looks)),
        (
            "background",
            "are partly transparent, and their transparency is dropped",
            sum(look.is_transparent for look in looks),
        ),
    ):
        if count:
            print(
                f"{count} of {len(looks)} images {what}; a network that was trained with data.{key} has seen others: "
                "convert them as it did",
                file=sys.stderr,
            )


def best(classify: Classifier, about: About, images: Tensor) -> list[list[tuple[str, float]]]:
    """Name the best classes of images.

    Args:
        classify: maps normalised images to logits.
        about: names the classes, and the mean and deviation of images.
        images: (N, 3, S, S) uint8.

    Returns:
        For each image up to `BEST` classes, the likeliest first, with their probabilities.
    """
    found = []
    normalise = normaliser(about)
    for batch in images.split(64):
        chances = classify(normalise(batch)).double().softmax(dim=1)
        for values, positions in zip(*chances.topk(min(BEST, chances.shape[1])), strict=True):
            names = [about.classes[position] for position in positions.tolist()]
            found.append(list(zip(names, values.tolist(), strict=True)))
    return found


def normaliser(about: About) -> Callable[[Tensor], Tensor]:
    """Return what normalises images (B, 3, S, S) uint8 as evaluation does."""
    mean, std = (tuple(about.content[key]) for key in ("mean", "std"))
    return Normalize(mean, std, torch.device("cpu"))
