"""Stream images that do not fit into memory: worker processes decode them whenever they are seen.

Training sees random resized crops, evaluation the middle of the resized image, as all published ImageNet code does
(Szegedy et al., arXiv:1409.4842; torchvision's transforms). What is drawn for an image depends on (seed, epoch, image)
alone, not on the number of workers.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as Decoded

from kdcore.data.augment import STRONG_CROP, VIEWS
from kdcore.data.dataset import Encoded
from kdcore.data.images import UnreadableError, read_image
from kdcore.system.errors import UserError

VARIABLE = "KDCORE_WORKERS"
MOST_WORKERS = 16
CONTEXT = 8 / 7
"""Short side of the resized image divided by the side of the crop: 256 for 224."""


def workers() -> int:
    """Return how many processes decode: KDCORE_WORKERS of the environment, else one per spare core.

    Raises:
        UserError: the variable is no number from 0 (decode in the main process) upwards.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return max(1, min(MOST_WORKERS, _cores() - 1))
    if not given.isdecimal():
        raise UserError(f"{VARIABLE}={given}: must be a number from 0 upwards, of processes that decode images")
    return int(given)


def _cores() -> int:
    """Count the cores that this process may use; on macOS and Windows, all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Wanted:
    """Request for an image: its position and the seeds of its random views; without seeds it is not augmented."""

    position: int
    seeds: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Broken:
    """An image that cannot be decoded."""

    where: str
    reason: str


class StreamedViews:
    """Random views of encoded training images (implements `kdcore.data.views.WeakViews`).

    Args:
        split: the images.
        size: S, side of the views.
        flip: whether half of them are mirrored.
        device: takes the views.
        augmented: whether views are random; if not, images are seen as in evaluation.
        interpolation: how crops are resized.
    """

    view_count: int | None = None

    def __init__(
        self,
        split: Encoded,
        *,
        size: int,
        flip: bool,
        device: torch.device,
        augmented: bool = True,
        interpolation: str = "bilinear",
    ) -> None:
        self.wanted = _Order()
        self.loader = _loader(_Decoder(split, size, flip, interpolation), self.wanted, device)
        self.device, self.augmented = device, augmented

    def names(self, seed: int, epoch: int) -> None:
        """Return None: the views cannot be counted."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """For each batch (B,) of positions, yield `count` views (B, 3, S, S) uint8 on the device."""
        purposes = (VIEWS, STRONG_CROP)[:count] if self.augmented else ()
        self.wanted.batches = [
            [Wanted(i, tuple((seed, epoch, purpose, i) for purpose in purposes)) for i in batch.tolist()]
            for batch in batches
        ]
        for batch in _decoded(self.loader):
            yield list(batch.to(self.device, non_blocking=True).unbind(dim=1))


def stream_unaugmented(
    split: Encoded, batches: Sequence[Tensor], *, size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the middle of each batch's images, as (B, 3, size, size) uint8 on the device.

    Args:
        split: the images.
        batches: positions (B,) of images, on the CPU.
        size: side of the middle, in pixels.
        device: takes the images.
    """
    wanted = _Order()
    wanted.batches = [[Wanted(i) for i in batch.tolist()] for batch in batches]
    for batch in _decoded(_loader(_Decoder(split, size, flip=False), wanted, device)):
        yield batch.to(device, non_blocking=True)[:, 0]


class _Order(Sampler[list[Wanted]]):
    """Batches of the next pass; read when the pass begins, so that the workers can outlive an epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Wanted]] = []

    def __iter__(self) -> Iterator[list[Wanted]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Decoder(Decoded[Any]):
    """Decodes, crops and resizes one image."""

    def __init__(self, split: Encoded, size: int, flip: bool, interpolation: str = "bilinear") -> None:
        from torchvision.transforms import v2  # a second to import, and only streams need it

        self.split = split
        mirror = [v2.RandomHorizontalFlip()] if flip else []
        between = v2.InterpolationMode(interpolation)
        self.random = v2.Compose([v2.RandomResizedCrop(size, interpolation=between), *mirror, v2.PILToTensor()])
        self.plain = v2.Compose([v2.Resize(round(CONTEXT * size)), v2.CenterCrop(size), v2.PILToTensor()])

    def __getitem__(self, wanted: Wanted) -> Tensor | Broken:
        """Decode one image and return its V views (V, 3, S, S) uint8."""
        try:
            image = read_image(self._file(wanted.position))
        except UnreadableError as error:
            return Broken(self._name(wanted.position), str(error))
        if not wanted.seeds:
            return self.plain(image)[None]
        return torch.stack([self._view(image, seed) for seed in wanted.seeds])

    def _file(self, position: int) -> Path | bytes:
        table, row = self.split.table, self.split.row(position)
        if "image" in table.column_names:
            content: bytes = table["image"][row].as_py()
            return content
        return (self.split.root or Path()) / table["path"][row].as_py()

    def _name(self, position: int) -> str:
        file = self._file(position)
        return str(file) if isinstance(file, Path) else f"{self.split.file}: image {self.split.row(position)}"

    def _view(self, image: Image.Image, seed: tuple[int, ...]) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
            return self.random(image)


def _loader(decoder: _Decoder, wanted: _Order, device: torch.device) -> DataLoader[Any]:
    count = workers()
    return DataLoader(
        decoder,
        batch_sampler=wanted,
        num_workers=count,
        persistent_workers=count > 0,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )


def _collate(views: list[Tensor | Broken]) -> Tensor | Broken:
    broken = [view for view in views if isinstance(view, Broken)]
    return broken[0] if broken else torch.stack([view for view in views if isinstance(view, Tensor)])


def _decoded(loader: DataLoader[Any]) -> Iterator[Tensor]:
    for batch in loader:
        if isinstance(batch, Broken):
            raise UserError(
                f"{batch.where}: cannot be decoded ({batch.reason}); replace it, or remove it and run "
                "'dvc repro --force data'"
            )
        yield batch
