"""Keep what methods compute once of a teacher and its training images, such as costs between classes, on disk.

It stands beside the tables of the teacher's logits, within their limit, and is removed like them. What is damaged or
absent is computed again. Processes that want the same tensor at the same time wait for the first one.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor

from kdcore.data import storage
from kdcore.data.dataset import Dataset, Encoded
from kdcore.matrix.fingerprint import fingerprint
from kdcore.networks.contract import Network
from kdcore.system.errors import UserError
from kdcore.system.files import allowed_bytes, alone, read_json, whole, write_json
from kdcore.training.teacher_cache import (
    ABOUT,
    FOLDER_VARIABLE,
    LARGEST,
    SIZE_VARIABLE,
    code_of,
    computed_on,
    digest_of,
    folder_of,
    make_room,
)

VALUES = "values.safetensors"


@dataclass(frozen=True)
class Keeper:
    """Gives a method what `kdcore.methods.contract.Setting.kept` promises."""

    teacher: Network
    """In float32."""
    dataset: Dataset
    """With the training images."""
    device: torch.device
    """Where tensors are computed and wanted."""

    def __call__(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return the tensor that is kept under a name, or compute and keep it; on the device.

        Args:
            name: says what is computed.
            compute: a function whose module determines what it computes.
        """
        images = _identity(self.dataset)
        if images is None or allowed_bytes(SIZE_VARIABLE, LARGEST) == 0:
            return compute()
        content: dict[str, object] = {
            "kept": name,
            "code": [fingerprint(compute.__module__), *code_of(self.teacher)],
            "teacher": digest_of(value.cpu().numpy() for value in self.teacher.state_dict().values()),
            "network": self.teacher.identity,
            "images": images,
            "labels": digest_of([self.dataset.train.labels]),
            "look": [self.dataset.image_size, self.dataset.mean, self.dataset.std],
            "computed": computed_on(self.device),
            "machine": platform.node(),
        }
        folder = folder_of(content)
        with ExitStack() as stack:
            lock_file = folder.with_name(f".{folder.name}.lock")
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone(folder, "computes", lock_file=lock_file))
            except OSError as error:
                _complain(folder, error)
                return compute()
            stack.callback(lock_file.unlink, missing_ok=True)
            values = _read(folder)
            if values is None:
                values = compute()
                _write(folder, content, values)
            return values.to(self.device)


def _identity(dataset: Dataset) -> list[str] | None:
    """What tells training images from others: checksums; None for encoded images that no manifest lists."""
    train = dataset.train
    if not isinstance(train, Encoded):
        return [digest_of([train.images]), str(train.images.shape)]
    if train.file is None:
        return None
    try:
        listed = storage.read_manifest(train.file.parent).sha256[train.file.name]
    except (UserError, KeyError):
        return None
    return [listed, str(train.root), "all" if train.rows is None else digest_of([train.rows])]


def _read(folder: Path) -> Tensor | None:
    """The tensor of a folder; None if it is absent or damaged."""
    try:
        content = (folder / VALUES).read_bytes()
        if read_json(folder / ABOUT).get("sha256") != hashlib.sha256(content).hexdigest():
            return None
        os.utime(folder)
    except (OSError, UserError):
        return None
    return load(content)["values"]


def _write(folder: Path, content: dict[str, object], values: Tensor) -> None:
    """Keep a tensor in a folder, if there is room; a disk error is a warning."""
    data = save({"values": values.contiguous().cpu()})
    try:
        with FileLock(folder.parent / "lock"):
            if make_room(folder.parent, len(data)):
                with whole(folder) as aside:
                    (aside / VALUES).write_bytes(data)
                    write_json(aside / ABOUT, {**content, "sha256": hashlib.sha256(data).hexdigest()})
    except OSError as error:
        _complain(folder, error)


def _complain(folder: Path, error: OSError) -> None:
    print(
        f"warning: {folder}: {error.strerror or error}; training goes on, and the next run computes again what this "
        f"one cannot keep. {FOLDER_VARIABLE} names another folder for it",
        file=sys.stderr,
    )
