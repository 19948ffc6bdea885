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
from kdcore.training import device
from kdcore.training.distributed import ALONE, World

VARIABLE = "KDCORE_PROCESSES"


def processes() -> int:
    """Read how many processes the environment variable KDCORE_PROCESSES asks for; 1 if it is not set.

    Raises:
        UserError: it is not a whole number from 1 to the machine's number of GPUs, or KDCORE_DEVICE names a single one.
            On the CPU, the limit is the number of cores, or 2 if there is only one core.
    """
    gpus = torch.cuda.device_count() if _is_on_gpus() else 0
    given, most = os.environ.get(VARIABLE, "1"), gpus or max(2, os.cpu_count() or 1)
    if given not in map(str, range(1, most + 1)):
        raise UserError(
            f"{VARIABLE}={shown(given)}: must be a number from 1 to {most}, of processes that train a cell: one per "
            "GPU, or core where there is none"
        )
    if int(given) > 1:
        _refuse_one_gpu(int(given))
    return int(given)


def _is_on_gpus() -> bool:
    """Say whether processes compute on GPUs: by KDCORE_DEVICE, or where it is not set, if there are any."""
    return (os.environ.get(device.VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda")


def _refuse_one_gpu(count: int) -> None:
    named = os.environ.get(device.VARIABLE, "")
    if _is_on_gpus() and ":" in named:
        raise UserError(
            f"{device.VARIABLE}={named}: names one GPU, and {count} processes need one each; unset it, and choose GPUs "
            "by CUDA_VISIBLE_DEVICES"
        )


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

    Raises:
        UserError: there are not as many GPUs as processes, or KDCORE_DEVICE names a single one.
    """
    if not is_joined():
        yield ALONE
        return
    if _is_on_gpus():
        _refuse_one_gpu(int(os.environ["WORLD_SIZE"]))
        rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if rank >= gpus:
            raise UserError(
                f"torchrun: process {rank + 1} on this machine has no GPU, for {gpus} can be seen; start fewer"
            )
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if _is_on_gpus() else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def check_divisible(card: dict[str, Any]) -> None:
    """Refuse a cell that several processes cannot train: its loss is not a mean over samples, its optimiser is dot,
    or it mixes images.

    Raises:
        UserError: names the method, the optimiser or the key that relates the samples of a batch.
    """
    related = [entry.name for entry in catalog.terms(card["method"]) if entry.across == "batch"]
    reasons = [f"method {name} relates the samples of a batch" for name in related]
    if card["train"].get("optimizer") == "dot":
        reasons.append("optimizer dot needs the gradients of each loss")
    mixed = [key for key in ("mixup", "cutmix") if card["train"].get(key)]
    if mixed:
        reasons.append(f"{' and '.join(mixed)} mix{'' if len(mixed) > 1 else 'es'} images of the whole batch")
    if reasons:
        raise UserError(f"{card['name']}: {', and '.join(reasons)}; train it in one process, without torchrun")
