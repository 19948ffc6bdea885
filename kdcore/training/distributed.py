"""Several processes that train one network, each on its share of every batch, started by torchrun.

The global batch stays what the card says, whatever the number of processes; batch norms see it whole, gradients are its
mean's, and one process alone writes. Up to rounding a run ends as it would in one process.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcore.data.feed import Shard
from kdcore.system.errors import UserError, shown

VARIABLE = "KDCORE_PROCESSES"
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class World(Shard):
    """The processes that train together, and which of them this one is."""

    @property
    def leads(self) -> bool:
        """Whether this process shows progress and writes results."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, in each of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def synchronised(self, module: Module, device: torch.device) -> Module:
        """The module with batch norms that see the batch of all processes; under the same state-dict keys."""
        if self.size == 1:
            return module
        if device.type == "cuda":
            return cast(Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = SharedBatchNorm  # in place, for adapters hold the teacher's norms too
        return module

    def averaging(self, module: nn.Module) -> nn.Module:
        """The module, whose parameters get the mean over the processes of their gradients."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, gradient_as_bucket_view=True)


ALONE = World()


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


class _Total(torch.autograd.Function):
    """The sum over the processes; each one's part gets the sum of all their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return _Total.forward(_context, gradients[0])


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the batch of all processes, on the CPU, for which torch.nn.SyncBatchNorm has no code."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(B, C, H, W) -> the same, normalised by mean and variance of all processes' B together."""
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = _Total.apply(x.new_tensor(x.numel() / x.shape[1]))
        mean = _Total.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Total.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(variance, momentum)
