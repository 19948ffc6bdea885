"""How several processes come together to train one cell: torchrun starts them, also where a stage asks for it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from kdcore import catalog
from kdcore.system.errors import UserError, shown
from kdcore.training.distributed import ALONE, World

VARIABLE = "KDCORE_PROCESSES"


def processes() -> int:
    """How many the environment variable KDCORE_PROCESSES asks for; 1 where it says nothing.

    Raises:
        UserError: it is no number, or larger than the machine has GPUs, or cores where it has none.
    """
    given, most = os.environ.get(VARIABLE, "1"), torch.cuda.device_count() or max(2, os.cpu_count() or 1)
    if given not in map(str, range(1, most + 1)):
        raise UserError(
            f"{VARIABLE}={shown(given)}: must be a number from 1 to {most}, of processes that train a cell: one per "
            "GPU, or core where there is none"
        )
    return int(given)


def is_joined() -> bool:
    """Whether torchrun has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start(module: str, arguments: list[str], count: int) -> NoReturn:
    """Become torchrun, which runs a module in `count` processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    sys.stdout.flush()
    os.execv(sys.executable, [*launcher, module, *arguments])  # noqa: S606 (no shell)


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started, until they part; one alone where it did not."""
    if not is_joined():
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def check_divisible(card: dict[str, Any]) -> None:
    """Refuse a cell whose loss is no mean over samples, which processes could share.

    Raises:
        UserError: names the method or the optimiser that relates the samples of a batch.
    """
    related = [entry.name for entry in catalog.terms(card["method"]) if entry.across == "batch"]
    reasons = [f"method {name} relates the samples of a batch" for name in related]
    if card["train"].get("optimizer") == "dot":
        reasons.append("optimizer dot needs the gradients of each loss")
    if reasons:
        raise UserError(f"{card['name']}: {', and '.join(reasons)}; train it in one process, without torchrun")
