"""Choose the device, precision, CPU threads and memory use with which this machine computes networks."""

import ctypes
import os
import platform
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdcore.system.errors import SHOWN, UserError, is_out_of_memory

VARIABLE = "KDCORE_DEVICE"
OWN_THREADS = torch.get_num_threads()
"""How many CPU threads torch uses by itself: OMP_NUM_THREADS, or all cores."""


def choose() -> torch.device:
    """Choose the device that KDCORE_DEVICE names; if it is not set, the first GPU, or the CPU if there is none.

    Raises:
        UserError: the variable names no device of this machine.
        RuntimeError: the device has too little memory left for its context.
    """
    name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it has shapes, and no numbers")
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        if is_out_of_memory(error):
            raise
        reason = textwrap.shorten(str(error), SHOWN, placeholder="...")
        raise UserError(f"{VARIABLE}={name}: no such device here ({reason}); use {_allowed()}") from error


def _allowed() -> str:
    """Write which values KDCORE_DEVICE may have here, as far as torch can count devices."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count:
        return "cpu, cuda or cuda:1"
    chosen = "" if visible is None else f", those of CUDA_VISIBLE_DEVICES={visible}, which are counted from 0"
    return f"cpu, or cuda:0 to cuda:{count - 1}{chosen}" if count > 1 else f"cpu or cuda{chosen}"


def use_threads(count: int | str | None) -> None:
    """Compute with this number of CPU threads from now on; "auto" and None stand for `OWN_THREADS`.

    Sums over several threads are rounded differently from sums in one thread, so the bits of results depend on the
    number.
    """
    torch.set_num_threads(count if isinstance(count, int) else OWN_THREADS)


def prepare_torch(device: torch.device) -> None:
    """Make torch compute deterministically and keep freed memory, if the device is the CPU; an operation that has no
    deterministic form raises an error there.

    On a GPU some operations, such as the gradient of the pooling to regions, have no deterministic form, so no setting
    gives equal bits; torch then takes the fastest forms.
    """
    # torch.use_deterministic_algorithms does the same, but imports torch's compiler (see kdcore.training.optimizers).
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # Filling new memory would take a third of a small network's time; nothing here reads memory before writing it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()


TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The numbers by which glibc's mallopt knows the parameters M_TRIM_THRESHOLD and M_MMAP_MAX."""
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of handing it back to the system.

    By default glibc hands back large blocks at once, and the system clears every page before it gives it out again; on
    2 cores that took up to a third of a step of ResNet20. The system gets the memory back when the process ends. There
    is no effect if the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, NEVER)
        library.mallopt(MMAP_MAX, 0)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which convolutions and matrix products are computed while a network trains.

    Args:
        precision: "float32", "bfloat16" or "auto". With "auto" it is bfloat16 if the hardware multiplies it, which
            makes it the faster type, else float32.
        device: where the network trains.
    """
    if precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def tf32() -> list[str]:
    """List what a GPU computes in TF32, with 10 bits of fraction, where tensors are float32."""
    allowed = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    return [name for name, is_allowed in allowed.items() if is_allowed]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute in float32 with all of its bits inside the block, on a GPU too."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which networks compute in this type; weights, sums and norms keep their own types."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
