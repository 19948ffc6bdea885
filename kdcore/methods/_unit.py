"""Vectors of unit length."""

from torch import Tensor


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """The vectors along an axis, L2-normalised. A zero vector stays zero and gets no gradient.

    The usual normalisation, which divides by no less than 1e-12, gives a zero vector a gradient of 1e12.
    """
    length = vectors.norm(dim=dim, keepdim=True)
    nothing = length == 0
    return (vectors / length.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)
