"""Take numbers from what a pickle holds as a tensor, as nested lists or as an array of NumPy.

Arrays are read from what the pickle says of them, without NumPy's own functions. Those would trust the file: a pickle
can describe a type whose objects have addresses of its choice, and the next hash or comparison would follow them.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = ("f2", "f4", "f8", "i8")
"""The types that are read: floating-point numbers, and the integers of counters."""


class Dtype:
    """Stands in for the type of an array; a pickle calls it as it would call numpy.dtype."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """Take the byte order from what the pickle holds of the type."""
        self.order = state[1]


class Array:
    """Stands in for an array; a pickle calls it as it would call NumPy's function that makes an empty one."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        """Keep what the pickle holds of the array: version, shape, type, order and bytes."""
        self.state = state

    def read(self) -> np.ndarray | None:
        """Return the array; None where it is none of numbers, or its bytes are not those of its shape."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, by_columns, raw = self.state
        if not isinstance(dtype, Dtype) or dtype.code not in NUMBERS or dtype.order not in ("=", "<", ">"):
            return None
        if not isinstance(raw, bytes) or not isinstance(shape, tuple) or any(type(size) is not int for size in shape):
            return None
        if min(shape, default=0) < 0 or len(raw) != math.prod(shape) * int(dtype.code[1]):
            return None
        numbers = np.frombuffer(raw, dtype=f"{dtype.order}{dtype.code}").astype(dtype.code)
        return numbers.reshape(shape, order="F" if by_columns else "C")


class Scalar:
    """Stands in for a single number of NumPy; a pickle calls it as it would call NumPy's function that makes one."""

    def __init__(self, dtype: Any = None, raw: Any = None, *_: Any) -> None:
        self.array = Array()
        self.array.state = 1, (1,), dtype, False, raw

    def read(self) -> float | None:
        """Return the number; None where it is none."""
        array = self.array.read()
        return None if array is None else float(array[0])


def as_tensor(value: object) -> Tensor | None:
    """Return a tensor, an array or nested lists of numbers, also of NumPy, as a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Array):
        array = value.read()
        return None if array is None else torch.from_numpy(array)
    if isinstance(value, list | tuple):
        value = [one.read() if isinstance(one, Scalar) else one for one in value]
    try:
        return torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else None
    except (TypeError, ValueError, RuntimeError):  # it holds other things than numbers, or rows of several lengths
        return None
