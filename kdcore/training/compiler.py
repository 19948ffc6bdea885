"""Whether a run is compiled, whether this machine can, and where compiled code is kept: what the trainer does not
import, so that it counts in no cell (see `kdcore.training.compiled`).
"""

import os
import sys
from functools import cache

import torch

from kdcore.data.dataset import Dataset
from kdcore.matrix.train_section import TrainSettings
from kdcore.system.files import SCRATCH
from kdcore.training.compiled import FEWEST_STEPS

FOLDER = SCRATCH / "compiled"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
OWN_CACHE = os.environ.get(CACHE_VARIABLE)
"""Where the user wants compiled code to be kept."""
DONE, NOT = "yes", "no: "
"""What meta.json says of a run that was compiled, and how it begins where one was not."""
UNABLE = f"{NOT}nothing can be compiled here"


def chosen(
    settings: TrainSettings, dataset: Dataset, device: torch.device, processes: int = 1, *, is_foreign: bool = False
) -> str | None:
    """Choose whether a run is compiled, by its settings, its number of steps, and whether this machine can.

    Args:
        settings: those of its card.
        dataset: its images, from `kdcore.training.loop.seen_by`.
        device: where it trains.
        processes: how many processes train it.
        is_foreign: whether student or teacher is a network of timm, torchvision or a function of the user's own, whose
            maps are caught by hooks, which cannot be compiled.

    Returns:
        None where the settings do not ask for it, `DONE`, or `NOT` and the reason, which does not depend on the machine
        but for this: that nothing can be compiled here. Why, a line on stderr says.
    """
    if settings.compile != "auto":
        return None
    copies = 2 if dataset.recipe is not None and dataset.recipe.joined else 1
    steps = -(-len(dataset.train.labels) * copies // settings.batch_size) * settings.epochs
    reasons = {
        "optimizer dot takes the gradients of two losses": settings.optimizer == "dot",
        "several processes train it": processes > 1,
        "a network is not of the zoo": is_foreign,
        f"not on {device.type}": device.type not in ("cpu", "cuda"),
        f"{steps} steps are fewer than {FEWEST_STEPS}": steps < FEWEST_STEPS,
    }
    against = [reason for reason, holds in reasons.items() if holds]
    if against:
        return f"{NOT}{against[0]}"
    _keep_code()
    why = _why_not(device.type)
    if why is None:
        return DONE
    print(f"warning: train.compile: auto: nothing can be compiled here ({why}); trains without", file=sys.stderr)
    return UNABLE


def _keep_code() -> None:
    """Make torch keep compiled code in `scratch/`, for other processes and cells, where the user names no other folder:
    apart by the number of threads, which code is made for.
    """
    if OWN_CACHE is None:
        os.environ[CACHE_VARIABLE] = str((FOLDER / f"{torch.get_num_threads()}-threads").absolute())


@cache
def _why_not(device: str) -> str | None:
    """Compile and run a function of three numbers; returns why that fails, or None where it does not."""
    try:
        torch.compile(lambda values: (values + 1).exp() * values, dynamic=False)(torch.ones(3, device=device))
    except Exception as error:  # whatever a compiler may lack: a program, a header, a folder to write to
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
