"""Numerical precision: losses compute in float32 although networks may train in bfloat16."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widen(value: Any) -> Any:
    """Convert half-precision tensors, alone or in lists and tuples, to float32; leave everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if type(value) in (list, tuple):
        return type(value)(widen(part) for part in value)
    return value


def at_least_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss, or another function of tensors: it computes in float32 whatever the autocast around it, and in
    float64 on float64.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _without_autocast(_device(args)):
            return function(*widen(args), **{key: widen(value) for key, value in kwargs.items()})

    return run


def _device(value: Any) -> str:
    while not isinstance(value, Tensor):
        value = value[0]
    return value.device.type


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Turn autocast off; the device "meta", on which costs are counted, has none."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
