"""Keep a teacher's logits for the views of the training images, so that each is computed only once per machine.

The teacher is frozen, and an image that is cropped at one of 9 x 9 offsets and mirrored or not has 162 views. Teacher
and student must see the same view (Beyer et al., Knowledge Distillation: A Good Teacher is Patient and Consistent, CVPR
2022, arXiv:2106.05237). FKD (Shen and Xing, ECCV 2022) keeps the outputs of a few views per image. A table here keeps
those of all views that occur, and all cells of a teacher share it, whatever their student, scale, method,
standardisation or seed. A cell computes only the views that no cell before it has seen.

On a GPU the teacher is run at every step unless `KDCORE_TABLES_GB` is set (`is_wanted`).

A table is a sparse file that the processes of one machine share. Each row has a checksum, so that a row which was not
written completely, or has changed since, is computed again. Two processes that compute the same row write the same
bytes. The file is read and written by system calls and not mapped into memory: a failing disk then raises an error,
after which training continues without the table, instead of ending the process (SIGBUS).
"""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import weakref
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from kdcore.data.dataset import Split
from kdcore.data.feed import Feed
from kdcore.matrix.fingerprint import PACKAGE, fingerprint
from kdcore.networks.contract import Network
from kdcore.scales import GRID
from kdcore.system.files import allowed_bytes, remove_folder, whole, write_json
from kdcore.training.device import tf32

CACHE = Path("scratch/teacher-tables")
FOLDER_VARIABLE = "KDCORE_TABLES"
SIZE_VARIABLE = "KDCORE_TABLES_GB"
LARGEST = 40.0
"""The most gigabytes that all tables together may take, if `KDCORE_TABLES_GB` is not set."""
FORMAT = 2
ABOUT, LOGITS = "about.json", "logits"
KEY = 24
"""How many hexadecimal digits the name of a table has."""
OUTPUTS = "kdcore.training.teacher_outputs"
"""The module that runs teachers; with what it imports it determines, beside a network's own code, what a teacher says.
"""
CHECK = np.dtype("<u4")
"""The type of the checksum in front of the numbers of a row: their CRC-32. It is not 0 for a row of zeros, which tells
such a row from one that was never written.
"""
SPARE = 0.1
"""The share of the disk that tables leave free."""
BLOCK = 512
"""The bytes of a block, in which a file system counts what a file with holes takes."""


@dataclass(frozen=True)
class Shape:
    """How many images, views, regions and classes a table holds."""

    images: int
    views: int
    """How many views each image has."""
    regions: int
    """How many rows of logits each view has: one for the whole image, then, if wanted, one per cell of the grid."""
    classes: int

    @property
    def rows(self) -> int:
        """How many rows the table has: one for each view of each image."""
        return self.images * self.views

    def row_bytes(self, dtype: torch.dtype) -> int:
        """Return the size of a row in bytes, its checksum included."""
        return CHECK.itemsize + self.regions * self.classes * dtype.itemsize

    def table_bytes(self, dtype: torch.dtype) -> int:
        """Return the size of all rows in bytes."""
        return self.rows * self.row_bytes(dtype)


class TeacherTable:
    """The table of one teacher, data set, augmentation, grid and precision.

    Args:
        folder: the table's folder, made by `open_table`.
        shape: how much the table holds.
        dtype: the type of the logits: float16 or float32.
    """

    def __init__(self, folder: Path, shape: Shape, dtype: torch.dtype) -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.row_bytes = shape.row_bytes(dtype)
        self.is_readable = self.is_writable = True
        self.file = os.open(folder / LOGITS, os.O_RDWR)
        weakref.finalize(self, os.close, self.file)

    def read(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Read the rows with these numbers (n,). After a disk error the table is not used any more.

        Returns:
            Logits (n, R, C) on the CPU, and the positions in `rows` of those that the table lacks.
        """
        kind = np.float16 if self.dtype == torch.float16 else np.float32
        logits = np.zeros((len(rows), self.shape.regions, self.shape.classes), kind)
        missing = np.ones(len(rows), bool)
        if self.is_readable:
            try:
                self._read(rows, logits.view(np.uint8).reshape(len(rows), -1), missing)
            except OSError as error:
                self.is_readable = self.is_writable = False
                self._complain(error)
        return torch.from_numpy(logits), np.flatnonzero(missing)

    def write(self, rows: np.ndarray, logits: Tensor) -> None:
        """Store computed logits. After a disk error, such as a full disk, nothing more is stored.

        Args:
            rows: the numbers (n,) of the rows.
            logits: (n, R, C) on the CPU, in the table's type.
        """
        if self.is_writable:
            try:
                for row, values in zip(rows.tolist(), logits.numpy(), strict=True):
                    self._write(row, np.ascontiguousarray(values))
            except OSError as error:
                self.is_writable = False
                self._complain(error)

    def _read(self, rows: np.ndarray, logits: np.ndarray, missing: np.ndarray) -> None:
        """Fill the rows that the file holds into `logits` (n, bytes); mark in `missing` (n,) those that it lacks."""
        check = np.zeros(1, CHECK)
        for position, row in enumerate(rows.tolist()):
            values = logits[position].data
            size = os.preadv(self.file, [check.data, values], row * self.row_bytes)
            missing[position] = size < self.row_bytes or zlib.crc32(values) != check[0]

    def _write(self, row: int, values: np.ndarray) -> None:
        check = np.array([zlib.crc32(values.data)], CHECK)
        if os.pwritev(self.file, [check.data, values.data], row * self.row_bytes) < self.row_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _complain(self, error: OSError) -> None:
        print(
            f"warning: {self.folder}: {error.strerror}; training goes on, and computes what this table lacks of the "
            "teacher's logits",
            file=sys.stderr,
        )


def is_wanted(device: torch.device) -> bool:
    """Return whether tables are read and written while a network trains on this device: on the CPU; elsewhere only
    where `KDCORE_TABLES_GB` is set.

    The host starts no kernel while it reads a batch from a table (0.3 to 0.6 ms) or writes it (1.6 ms), and a teacher
    that is not run saves 0.4 to 0.7 ms on a large GPU.
    """
    return device.type == "cpu" or SIZE_VARIABLE in os.environ


def computed_on(device: torch.device) -> list[object]:
    """Return what decides, beside code, weights and images, how a teacher's outputs on a device are rounded: GPUs of
    one kind agree whatever their numbers, and CPU threads count on the CPU alone.
    """
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), torch.__version__, *tf32()]
    return [device.type, torch.__version__, torch.get_num_threads()]


def open_table_of(
    teacher: Network, feed: Feed, batch_size: int, dtype: torch.dtype, *, regions: bool, is_compiled: bool = False
) -> TeacherTable | None:
    """Open the table of a teacher's logits for the views of a feed; None if no table can be made, or none is wanted.
    That one is wanted and does not fit is said on stderr.

    Logits that are computed in bfloat16 are stored in float16, which holds all of their digits. A cell that needs no
    regions uses the table of cells that do, if there is one.

    Args:
        teacher: in float32.
        feed: its images must have a countable number of views.
        batch_size: how many images the teacher is run on at a time, which decides its kernels.
        dtype: the type in which the teacher is computed.
        regions: whether the logits of the cells of the 4 x 4 grid are needed too.
        is_compiled: whether the teacher's pass is compiled, which rounds otherwise.
    """
    if not is_wanted(feed.device):
        return None
    look = feed.dataset
    identity: dict[str, object] = {
        "teacher": digest_of(value.cpu().numpy() for value in teacher.state_dict().values()),
        "images": digest_of([cast(Split, look.train).images]),
        "look": [look.image_size, look.padding, look.flip, look.mean, look.std],
        "network": teacher.identity,
        "code": code_of(teacher),
        "computed": [str(dtype), batch_size, *computed_on(feed.device)],
    }
    if is_compiled:
        identity["compiled"] = True
    kept = torch.float16 if dtype == torch.bfloat16 else torch.float32
    alone = Shape(len(feed.labels), cast(int, feed.view_count), 1, len(look.classes))
    with_grid = replace(alone, regions=1 + GRID**2)
    if regions:
        return open_table(identity, with_grid, kept)
    return open_table(identity, with_grid, kept, make=False) or open_table(identity, alone, kept)


def code_of(teacher: Network) -> list[str]:
    """Return fingerprints of the code that computes a teacher's outputs: its network's, and that which feeds it."""
    ours = {type(part).__module__ for part in teacher.modules() if type(part).__module__.startswith(f"{PACKAGE}.")}
    return [fingerprint(module) for module in (*sorted(ours), OUTPUTS)]


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """Compute the SHA-256 of the bytes of arrays, in hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def open_table(
    identity: dict[str, object], shape: Shape, dtype: torch.dtype, *, make: bool = True
) -> TeacherTable | None:
    """Open the table with this identity, and make it if there is none; None if it cannot be made, or none is wanted.

    If space is short, the tables that were used longest ago are removed; a process that has one of them open can use it
    until the process ends.

    Args:
        identity: everything that determines the teacher's outputs.
        shape: how much the table holds.
        dtype: the type of the logits: float16 or float32.
        make: whether to make the table if there is none; False returns None instead.
    """
    if allowed_bytes(SIZE_VARIABLE, LARGEST) == 0:
        return None
    content = {**identity, **asdict(shape), "dtype": str(dtype), "machine": platform.node(), "format": FORMAT}
    folder = folder_of(content)
    cache, size = folder.parent, shape.table_bytes(dtype)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock"):
            if not _is_whole(folder, size):
                if not make:
                    return None
                if not make_room(cache, size):
                    _say_too_large(cache, shape, size)
                    return None
                _make(folder, content, size)
            os.utime(folder)
            return TeacherTable(folder, shape, dtype)
    except OSError as error:
        if not make:  # the caller asks for another table next
            return None
        print(
            f"warning: {cache}: {error.strerror or error}; training goes on without a table of the teacher's logits. "
            f"{FOLDER_VARIABLE} names another folder for tables, {SIZE_VARIABLE}=0 wants none",
            file=sys.stderr,
        )
        return None


@functools.cache
def _say_too_large(folder: Path, shape: Shape, size: int) -> None:
    """Say, once in a process, that a table of `size` bytes finds no room."""
    limit = allowed_bytes(SIZE_VARIABLE, LARGEST)
    regions = f" of {shape.regions} regions" if shape.regions > 1 else ""
    print(
        f"warning: {folder}: the table of the teacher's logits{regions}, of up to {size / 1e9:.3g} GB, finds no room, "
        f"for {SIZE_VARIABLE} allows {limit / 1e9:g} GB and a tenth of the disk stays free; training goes on, and runs "
        "the teacher at every step. train.precision: bfloat16 halves a table of float32",
        file=sys.stderr,
    )


def folder_of(content: dict[str, object]) -> Path:
    """Return where the table is kept that has this identity."""
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY]
    return Path(os.environ.get(FOLDER_VARIABLE) or CACHE) / key


def tables(cache: Path) -> list[Path]:
    """List the folders of tables, and of `kdcore.training.kept`, in a folder that may hold other things too."""
    return [
        path for path in cache.iterdir() if re.fullmatch(f"[0-9a-f]{{{KEY}}}", path.name) and (path / ABOUT).is_file()
    ]


def _is_whole(folder: Path, size: int) -> bool:
    file = folder / LOGITS
    return file.is_file() and file.stat().st_size == size


def _make(folder: Path, content: dict[str, object], size: int) -> None:
    with whole(folder) as aside:
        with (aside / LOGITS).open("wb") as file:
            file.truncate(size)
        write_json(aside / ABOUT, content)


def make_room(cache: Path, needed: int) -> bool:
    """Remove the tables that were used longest ago until one of `needed` bytes fits; returns whether it fits.

    Where it would not fit without all of them either, all stay. The caller holds the lock of the folder.
    """
    limit, disk = allowed_bytes(SIZE_VARIABLE, LARGEST), shutil.disk_usage(cache)
    oldest = sorted(tables(cache), key=lambda path: path.stat().st_mtime)
    on_disk = sum(file.stat().st_blocks * BLOCK for path in oldest for file in path.iterdir())
    if needed > limit or disk.free + on_disk - needed < SPARE * disk.total:
        return False
    while True:
        disk = shutil.disk_usage(cache)
        used = sum(file.stat().st_size for path in oldest for file in path.iterdir() if file.name != ABOUT)
        if used + needed <= limit and disk.free - needed >= SPARE * disk.total:
            return True
        if not oldest:
            return False
        remove_folder(oldest.pop(0))
