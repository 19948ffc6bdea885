"""Numerical precision: of networks while they train, and of losses."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widen(value: Any) -> Any:
    """Half-precision tensors, alone or in lists and tuples, as float32; everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if type(value) in (list, tuple):
        return type(value)(widen(part) for part in value)
    return value


def at_least_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss: it computes in float32 whatever the autocast around it, and in float64 on float64."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(_device(args), enabled=False):
            return function(*widen(args), **{key: widen(value) for key, value in kwargs.items()})

    return run


def _device(value: Any) -> str:
    while not isinstance(value, Tensor):
        value = value[0]
    return value.device.type


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """The type in which convolutions and matrix products are computed while a network trains.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware multiplies it, which is where it is
            faster, else float32.
        device: where it trains.
    """
    if precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which networks compute in this type; weights, sums and norms keep theirs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
