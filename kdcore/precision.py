"""Numerical precision of losses."""

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half-precision tensors as float32; float32 and float64 as they are.

    Losses call this first, so that they are exact to float32 under any autocast and to float64 in tests.
    """
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)
