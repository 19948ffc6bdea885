"""Small pictures on disk, in the layouts of the real data sets."""

import io

import numpy as np
from PIL import Image


def picture(label, number, size=(48, 40)):
    """A noisy picture whose colour tells its class, of any size."""
    generator = np.random.default_rng([label, number])
    colour = np.random.default_rng(label).integers(40, 216, 3)
    noise = generator.integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))


def encoded(label, number, size=(48, 40), form="JPEG"):
    buffer = io.BytesIO()
    picture(label, number, size).save(buffer, form, quality=95)
    return buffer.getvalue()


def write_tree(folder, classes, count, *, size=(48, 40), suffix=".jpg", start=0):
    """A folder per class with `count` pictures each."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            (folder / name / f"{name}_{number}{suffix}").write_bytes(encoded(label, number, size))
    return folder
