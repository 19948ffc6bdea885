"""Seed the torch generators that draw random numbers in training, and save and restore their states."""

import numpy as np
import torch
from torch import Tensor

from kdcore.data.augment import DROPOUT, METHODS


def device_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Return the generator, on the device, from which methods draw in one epoch."""
    return torch.Generator(device).manual_seed(_torch_seed(seed, epoch, METHODS))


def seed_dropout(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed torch's own generators, from which dropout draws in one epoch; each process (rank) gets another seed."""
    torch.manual_seed(_torch_seed(seed, epoch, DROPOUT) + rank)


def drawn_state(device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the states of torch's own generators and of a `device_generator`, for `restore_drawn`."""
    state = {"methods": generator.get_state(), "dropout": torch.get_rng_state()}
    if device.type == "cuda":
        state["dropout_on_device"] = torch.cuda.get_rng_state(device)
    return state


def restore_drawn(state: dict[str, Tensor], device: torch.device, generator: torch.Generator) -> None:
    """Set the generators to the states that `drawn_state` returned, to continue the draws of another process."""
    generator.set_state(state["methods"])
    torch.set_rng_state(state["dropout"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["dropout_on_device"], device)


def _torch_seed(seed: int, epoch: int, purpose: int) -> int:
    """Return a seed of 63 bits for one purpose (a constant of `kdcore.data.augment`) in one epoch."""
    return int(np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))
