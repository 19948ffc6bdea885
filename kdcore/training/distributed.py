"""Train one network in several processes, each on its share of every batch.

The batch size of the card is that of all processes together, whatever their number. Batch norms use the statistics of
the whole batch, gradients are averaged over it, and only one process writes files. Except for rounding, a run ends as
it would in one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdcore.data.feed import Shard
from kdcore.system.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class World(Shard):
    """The processes that train together; `rank` says which of them this one is."""

    @property
    def leads(self) -> bool:
        """Whether this process shows progress and writes results."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Add up tensors of one shape over the processes; each process gets the sum, and `values` is not changed."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def synchronised(self, module: Module, device: torch.device) -> Module:
        """Return the module with batch norms that use the batch of all processes; its state dict keeps its keys."""
        if self.size == 1:
            return module
        for part in module.modules():
            if isinstance(part, _BatchNorm) and not _can_be_shared(part, device):
                raise UserError(
                    f"{type(part).__name__}: a batch norm that does more, as timm's with a ReLU do, or that is of "
                    "vectors or without weights on the CPU, cannot be shared among processes; train this network in "
                    "one process"
                )
        if device.type == "cuda":
            return cast(Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = SharedBatchNorm  # changed in place, because adapters hold the teacher's norms too
        return module

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their means over the processes, in place; parameters without a gradient are skipped."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        mean = self.total(torch.cat([gradient.flatten() for gradient in gradients])) / self.size
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))


ALONE = World()


def _can_be_shared(norm: nn.Module, device: torch.device) -> bool:
    """Whether `World.synchronised` knows a batch norm: on the GPU what torch converts, on the CPU what stands here."""
    if device.type == "cuda":
        return type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return type(norm) in (nn.BatchNorm2d, SharedBatchNorm) and bool(
        norm.affine and norm.track_running_stats and norm.momentum is not None
    )


class _Total(torch.autograd.Function):
    """A sum over the processes with a gradient: each process's part gets the sum of all processes' gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return _Total.forward(_context, gradients[0])


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the batch of all processes on the CPU, which torch.nn.SyncBatchNorm does not support."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise (B, C, H, W) by the mean and variance over the B images of all processes; the shape stays the same.
        In evaluation mode, use the running mean and variance.
        """
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
