"""The device to compute on: a property of the machine, so not of params.yaml."""

import os

import torch

from kdcore.errors import UserError

VARIABLE = "KDCORE_DEVICE"


def choose() -> torch.device:
    """What the environment variable KDCORE_DEVICE names, else the first GPU, else the CPU.

    Raises:
        UserError: the variable names no device of this machine.
    """
    name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{VARIABLE}={name}: no such device here ({reason}); use cpu, cuda or cuda:1") from error
