"""What computes: the device, a property of the machine and so not of params.yaml, and the threads of the CPU."""

import os
import textwrap

import torch

from kdcore.errors import SHOWN, UserError

VARIABLE = "KDCORE_DEVICE"
OWN_THREADS = torch.get_num_threads()
"""As many as torch takes by itself: OMP_NUM_THREADS, or all cores."""


def choose() -> torch.device:
    """What the environment variable KDCORE_DEVICE names, else the first GPU, else the CPU.

    Raises:
        UserError: the variable names no device of this machine.
    """
    name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it has shapes, and no numbers")
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = textwrap.shorten(str(error), SHOWN, placeholder="...")
        raise UserError(f"{VARIABLE}={name}: no such device here ({reason}); use cpu, cuda or cuda:1") from error


def use_threads(count: int | None) -> None:
    """Compute with so many threads of the CPU from now on; None: with `OWN_THREADS`.

    Sums of several threads are rounded otherwise than those of one, so the bits of results depend on it.
    """
    torch.set_num_threads(count or OWN_THREADS)
