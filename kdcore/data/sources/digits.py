"""Handwritten digits of 13 people, 8 x 8 pixels, enlarged: what scikit-learn carries of UCI's Optical Recognition of
Handwritten Digits (its test set; Alpaydin and Kaynak, 1998). The embedded default: real images, no network.
"""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from kdcore.data.dataset import Dataset, Split, first_of_each_class

POOL = 80
"""Images of each class that training may use. All others are test images, whatever the training set's size."""
WHITE = 16
"""The largest grey value of the original images."""


def fetch(*, source: str, image_size: int, train_per_class: int) -> Dataset:
    """Make RGB images of the digits.

    Args:
        source: "embedded", the only one.
        image_size: side in pixels after bilinear enlargement.
        train_per_class: training images of each class, at most `POOL`.
    """
    digits = load_digits()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(digits.target))
    grey = np.rint(digits.images[order] * (255 / WHITE)).astype(np.uint8)
    enlarged = [Image.fromarray(image).resize((image_size,) * 2, Image.Resampling.BILINEAR) for image in grey]
    images = np.repeat(np.stack([np.asarray(image) for image in enlarged])[..., None], 3, axis=3)
    labels = digits.target[order].astype(np.int64)

    pool = first_of_each_class(Split(np.arange(len(labels)), labels), POOL).images
    in_test = ~np.isin(np.arange(len(labels)), pool)
    train = first_of_each_class(Split(images[pool], labels[pool]), train_per_class)
    mean, std = (round(float(f(train.images) / 255), 4) for f in (np.mean, np.std))
    return Dataset(
        name="digits",
        classes=[str(name) for name in digits.target_names],
        train=train,
        test=Split(images[in_test], labels[in_test]),
        mean=(mean,) * 3,
        std=(std,) * 3,
        image_size=image_size,
        flip=False,
        padding=4,
    )
