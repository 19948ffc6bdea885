"""Let several processes train one cell: start them with torchrun, or join those that it has started."""

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
    """Read how many processes the environment variable KDCORE_PROCESSES asks for; 1 if it is not set.

    Raises:
        UserError: it is not a whole number from 1 to the machine's number of GPUs. Without GPUs, the limit is the
            number of cores, or 2 if there is only one core.
    """
    given, most = os.environ.get(VARIABLE, "1"), torch.cuda.device_count() or max(2, os.cpu_count() or 1)
    if given not in map(str, range(1, most + 1)):
        raise UserError(
            f"{VARIABLE}={shown(given)}: must be a number from 1 to {most}, of processes that train a cell: one per "
            "GPU, or core where there is none"
        )
    return int(given)


def is_joined() -> bool:
    """Return whether torchrun has started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start(module: str, arguments: list[str], count: int) -> NoReturn:
    """Replace this process by torchrun, which runs a module in several processes on this machine.

    Args:
        module: dotted name of the module.
        arguments: its command line.
        count: how many processes to start.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    sys.stdout.flush()
    os.execv(sys.executable, [*launcher, module, *arguments])  # noqa: S606 (no shell)


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun has started, until the block ends. Yields a world of one process if torchrun has
    started no others.
    """
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
    """Refuse a cell that several processes cannot train: its loss is not a mean over samples, or its optimiser is dot.

    Raises:
        UserError: names the method or the optimiser that relates the samples of a batch.
    """
    related = [entry.name for entry in catalog.terms(card["method"]) if entry.across == "batch"]
    reasons = [f"method {name} relates the samples of a batch" for name in related]
    if card["train"].get("optimizer") == "dot":
        reasons.append("optimizer dot needs the gradients of each loss")
    if reasons:
        raise UserError(f"{card['name']}: {', and '.join(reasons)}; train it in one process, without torchrun")
