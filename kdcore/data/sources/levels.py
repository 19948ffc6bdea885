"""Notice what 16-bit values lose where they become 8 bits: those beyond black and white, and the levels between."""

from dataclasses import dataclass, field
from threading import Lock

import numpy as np

SMALL = 4
"""An image uses a small part of the range of its values if they are below white divided by this."""
FEW = 16
"""Fewer of 256 levels are said."""
TAIL = 0.01
"""The share of the values that is left out at either end, where single ones may lie anywhere."""
DARKEST, BRIGHTEST = 0, 65535
COLOURS = "colours must be converted to 8 bits instead"
Span = tuple[int, int]
"""The values of 16 bits that become black and white."""


@dataclass
class Values:
    """Counts the 16-bit values of all pixels, added in several threads."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BRIGHTEST + 1, np.int64))
    """(65536,) int64: how often each value occurs."""
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, values: np.ndarray) -> None:
        """Count the values of one image, of any shape."""
        counts = np.bincount(values.ravel(), minlength=len(self.counts))
        with self._lock:
            self.counts += counts

    def share(self, first: int, last: int) -> str:
        """Write which share of all values lies from the first to the last one."""
        return f"{self.counts[first : last + 1].sum() / max(self.counts.sum(), 1):.1%}"

    def most(self) -> Span | None:
        """Return between which values almost all lie, without 0 and 65535, which stand for borders and what is too
        bright to be measured; None if there are no others, or they are all the same.
        """
        sums = np.cumsum(self.counts[DARKEST + 1 : BRIGHTEST])
        low, high = (int(np.searchsorted(sums, share * sums[-1])) + DARKEST + 1 for share in (TAIL, 1 - TAIL))
        return (low, high) if low < high else None


def level(value: int, span: Span | None) -> int:
    """Return which of 256 levels a value becomes: by its higher 8 bits where no span is chosen."""
    return value >> 8 if span is None else int(scaled(np.array(value), span))


def scaled(values: np.ndarray, span: Span) -> np.ndarray:
    """Return 16-bit values (int64, any shape) as levels from 0 to 255, where a span becomes black to white."""
    low, high = span
    return np.clip(((values - low) * 255 + (high - low) // 2) // (high - low), 0, 255)


def remarks(
    images: list[tuple[int, bool]], values: Values, which: str, span: Span | None, training: Values | None = None
) -> list[str]:
    """Say how the values of the 16-bit images of a split fit those that become black and white.

    Args:
        images: of each image, its largest value, and whether it has values below the one that becomes black.
        values: those of all these images.
        which: names the split.
        span: what becomes black and white; None where nothing was chosen.
        training: the values of the training images; None if these are they.
    """
    count, (bottom, top) = len(images), span or (DARKEST, BRIGHTEST)
    lines = []
    for number, end, colour, share in (
        (sum(is_below for _, is_below in images), f"below {bottom}", "black", values.share(0, bottom - 1)),
        (sum(largest > top for largest, _ in images), f"above {top}", "white", values.share(top + 1, BRIGHTEST)),
    ):
        if number:
            lines.append(
                f"{number} of {count} 16-bit {which} images have values {end}, which become {colour}, {share} of all "
                "values"
            )
    small = [largest for largest, _ in images if (largest - bottom) * SMALL <= top - bottom]
    is_small = bool(small) and 10 * len(small) >= count
    if is_small:
        remedy = (
            f"set data.scale_16bit: largest, or the value that is white, such as 4095; {COLOURS}"
            if span is None
            else "set data.scale_16bit to a lower value"
        )
        dark = max(0, max(small) - bottom) * 255 // (top - bottom)
        lines.append(
            f"{len(small)} of {count} 16-bit {which} images use a small part of their range, values up to {max(small)} "
            f"of {top}, so they become dark, 0 to {dark} of 255; {remedy}"
        )
    most = _crowded(values, span)
    if most and not (is_small and level(most[0], span) == 0):
        first, last = level(most[0], span), level(most[1], span)
        lines.append(
            f"{1 - 2 * TAIL:.0%} of the values of {count} 16-bit {which} images, but for {DARKEST} and {BRIGHTEST}, "
            f"are from {most[0]} to {most[1]} and become {first} to {last} of 255, so they keep {last - first + 1} of "
            f"256 levels; {_remedy(most, span, training)}"
        )
    return lines


def _remedy(most: Span, span: Span | None, training: Values | None) -> str:
    if training is None:
        return f"set data.scale_16bit: [{most[0]}, {most[1]}], values that become black and white; {COLOURS}"
    if _crowded(training, span):
        return "data.scale_16bit, as for the training images, changes them too"
    return "the training images are not like that; bring both to one range"


def _crowded(values: Values, span: Span | None) -> Span | None:
    """Return between which values almost all lie, where they become few levels; else None."""
    most = values.most()
    return most if most and level(most[1], span) - level(most[0], span) + 1 < FEW else None
