"""RandAugment with one magnitude for all operations, in timm's form: `rand-m9-mstd0.5-inc1` and its like.

RandAugment is Cubuk et al., arXiv:1909.13719; timm draws each operation's magnitude anew around the given one, and
leaves out half of the operations. The strong view of MLKD has other operations and ranges (`randaugment`), and the same
grey levels as Pillow. What is drawn stays on the CPU.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdcore.data import randaugment
from kdcore.data.interpolate import affine, turned

MOST = 10.0
"""The largest magnitude."""
APPLIED = 0.5
"""How many of the drawn operations are carried out."""
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
NAMES = (
    *GEOMETRIC, "autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "color", "contrast",
    "brightness", "sharpness",
)  # fmt: skip
"""The operations. Draws name them by their position here; the position behind the last stands for none."""
NOTHING = len(NAMES)
ENHANCING = ("color", "contrast", "brightness", "sharpness")


def arguments(operation: np.ndarray, magnitude: np.ndarray, negative: np.ndarray, *, increasing: bool) -> np.ndarray:
    """Return what operations get for their magnitudes.

    Args:
        operation: positions in `NAMES`.
        magnitude: of the same shape, from 0 to `MOST`.
        negative: whether turns, shears and shifts go the other way, and enhancements below 1 where they increase.
        increasing: whether larger magnitudes always change an image more.

    Returns:
        Degrees, shares of the size, bits, grey levels, or weights of the image; float64.
    """
    level = magnitude / MOST
    signed = np.where(negative, -level, level)
    bits, grey = (level * 4).astype(np.int64), np.minimum(256, (level * 256).astype(np.int64))
    enhanced = np.maximum(0.1, 1 + signed * 0.9) if increasing else level * 1.8 + 0.1
    values = {
        "rotate": signed * 30,
        **dict.fromkeys(("shear_x", "shear_y"), signed * 0.3),
        **dict.fromkeys(("translate_x", "translate_y"), signed * 0.45),
        "posterize": 4 - bits if increasing else bits,
        "solarize": 256 - grey if increasing else grey,
        "solarize_add": np.minimum(128, (level * 110).astype(np.int64)),
        **dict.fromkeys(ENHANCING, enhanced),
    }
    chosen = [operation == NAMES.index(name) for name in values]
    return np.select(chosen, list(values.values()), default=0.0)


def matrices(operation: Tensor, argument: Tensor, size: int) -> Tensor:
    """Return the affine transforms (n, 6) of images of this size by `GEOMETRIC` operations (n,), float64."""
    same = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).expand(len(operation), 6).clone()
    for name, place, factor in (
        ("shear_x", 1, 1),
        ("shear_y", 3, 1),
        ("translate_x", 2, size),
        ("translate_y", 5, size),
    ):
        same[:, place] = torch.where(operation == NAMES.index(name), argument * factor, same[:, place])
    is_turned = operation == NAMES.index("rotate")
    return torch.where(is_turned[:, None], turned(argument, size), same)


def _solarize_add(images: Tensor, added: Tensor) -> Tensor:
    lighter = (images.short() + added.short()[:, None, None, None]).clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, lighter, images)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": randaugment.autocontrast,
    "equalize": randaugment.equalize,
    "invert": lambda images, _: 255 - images,
    "posterize": randaugment.posterize,
    "solarize": randaugment.solarize,
    "solarize_add": _solarize_add,
    "color": randaugment.color,
    "contrast": randaugment.contrast,
    "brightness": randaugment.brightness,
    "sharpness": randaugment.sharpness,
}
"""Operations that move no pixel: (images (n, 3, H, W) uint8, argument (n,) float64) -> images."""


def apply(images: Tensor, operation: Tensor, argument: Tensor, *, interpolation: str, fill: Tensor) -> Tensor:
    """Apply one operation to every image, all images of the same operation at once.

    Args:
        images: (B, 3, S, S) uint8, on any device.
        operation: (B,) int64 on the CPU, positions in `NAMES`, or `NOTHING`.
        argument: (B,) float64 on the CPU, from `arguments`.
        interpolation: of the `GEOMETRIC` operations.
        fill: (3,) uint8 on the images' device, the colour outside of images.
    """
    device, order = images.device, operation.argsort(stable=True)
    counts = operation.bincount(minlength=NOTHING + 1).tolist()
    there, back = torch.stack([order, order.argsort()]).to(device, non_blocking=True)
    moved = sum(counts[: len(GEOMETRIC)])
    parts = images[there].split([moved, *counts[len(GEOMETRIC) :]])
    values = argument[order].to(device, non_blocking=True).split([moved, *counts[len(GEOMETRIC) :]])
    changed = []
    if moved:
        matrix = matrices(operation[order[:moved]], argument[order[:moved]], images.shape[3])
        changed.append(affine(parts[0], matrix.to(device, non_blocking=True), interpolation, fill))
    for name, part, its in zip(NAMES[len(GEOMETRIC) :], parts[1:-1], values[1:-1], strict=True):
        if len(part):
            changed.append(FUNCTIONS[name](part, its))
    return torch.cat([*changed, parts[-1]])[back]
