"""Mix the images of a batch: mixup (Zhang et al., ICLR 2018, arXiv:1710.09412) and CutMix (Yun et al., ICCV 2019,
arXiv:1905.04899), in the form of timm's `Mixup` with one draw per batch.

Image i is mixed with image B - 1 - i. What is drawn depends on (seed, epoch, number of the batch) alone and stays on
the CPU, so that no step reads it back from the device.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from kdcore.data.augment import MIXING

SWITCH = 0.5
"""How often CutMix is taken where both are asked for."""


@dataclass(frozen=True)
class Mix:
    """How the images of one batch are mixed."""

    share: float
    """Of every image itself; its partner has the rest."""
    box: tuple[int, int, int, int] | None = None
    """CutMix: first and last row (not included), first and last column, of what comes from the partner; None for mixup.
    """

    def images(self, images: Tensor) -> Tensor:
        """Mix a batch (B, 3, S, S), whose memory is taken over."""
        if self.box is None:
            return images * self.share + images.flip(0) * (1 - self.share)
        top, bottom, left, right = self.box
        patch = images[:, :, top:bottom, left:right].flip(0)
        images[:, :, top:bottom, left:right] = patch
        return images

    def labels(self, target: Tensor, classes: int) -> Tensor:
        """Return the shares of the classes (B, C), float32, of images with the classes `target` (B,)."""
        own = F.one_hot(target, classes).float()
        return own * self.share + own.flip(0) * (1 - self.share)

    def dominant(self, values: Tensor) -> Tensor:
        """Of values (B,) of the images, return that of the one with the larger share; its own where they are equal."""
        return values if self.share >= 0.5 else values.flip(0)


def draw(seed: int, epoch: int, number: int, *, mixup: float, cutmix: float, size: int) -> Mix:
    """Draw how a batch is mixed.

    Args:
        seed: seed of the run.
        epoch: counted from 1.
        number: of the batch in the epoch, from 0.
        mixup: both parameters of the Beta distribution of mixup's share; 0 for CutMix alone.
        cutmix: the same of CutMix; 0 for mixup alone.
        size: S, height and width of the images.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, MIXING, number])))
    cuts = not mixup or (bool(cutmix) and random.random() < SWITCH)
    alpha = cutmix if cuts else mixup
    share = float(random.beta(alpha, alpha))
    if not cuts:
        return Mix(share)
    row, column = random.integers(size, size=2).tolist()
    return cut(share, row, column, size)


def cut(share: float, row: int, column: int, size: int) -> Mix:
    """Return CutMix with a square around a pixel, of the area 1 - share, less what would lie outside the image; the
    share becomes what it leaves.
    """
    side = int(size * math.sqrt(1 - share))
    (top, bottom), (left, right) = (
        (max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)) for middle in (row, column)
    )
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))
