"""A teacher's logits for every view of every training image, computed once per machine.

The teacher is frozen, and an image that is cropped at one of 9 x 9 offsets and mirrored or not has 162 views. Beyer et
al., Knowledge Distillation: A Good Teacher is Patient and Consistent, CVPR 2022, arXiv:2106.05237: teacher and student
must see the same view; FKD (Shen and Xing, ECCV 2022) keeps a few views' outputs. Here all that occur are kept, so that
every cell of a teacher, whatever its student, scale, method, standardisation or seed, computes only those that no
cell before it has seen.

A table is a sparse file that processes of one machine share: each row has a checksum, so that one which was never
written whole, or has changed since, is computed again; two processes that compute the same row write the same bytes.
It is read and written by calls, not mapped into memory: what goes wrong with the disk is then an error, after which
training goes on without the table, and not the end of the process (SIGBUS).
"""

import errno
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
from kdcore.networks.contract import Network
from kdcore.scales import GRID
from kdcore.system.files import allowed_bytes, remove_folder, whole, write_json

CACHE = Path("scratch/teacher-tables")
FOLDER_VARIABLE = "KDCORE_TABLES"
SIZE_VARIABLE = "KDCORE_TABLES_GB"
LARGEST = 40.0
"""GB of all tables together, where the variable says nothing."""
FORMAT = 2
ABOUT, LOGITS = "about.json", "logits"
KEY = 24
"""Hexadecimal digits of a table's name."""
CHECK = np.dtype("<u4")
"""The checksum before the numbers of a row: their CRC-32, which is not 0 where all numbers are."""
SPARE = 0.1
"""The share of the disk that stays free."""


@dataclass(frozen=True)
class Shape:
    """How many images, views, regions and classes a table holds."""

    images: int
    views: int
    """How many views each image has."""
    regions: int
    """Rows of logits per view: the whole image's, then those of the grid."""
    classes: int

    @property
    def rows(self) -> int:
        """One for each view of each image."""
        return self.images * self.views

    def row_bytes(self, dtype: torch.dtype) -> int:
        """The bytes of a row, its checksum included."""
        return CHECK.itemsize + self.regions * self.classes * dtype.itemsize

    def table_bytes(self, dtype: torch.dtype) -> int:
        """The bytes of all rows."""
        return self.rows * self.row_bytes(dtype)


class TeacherTable:
    """The table of one teacher, data set, augmentation, grid and precision.

    Args:
        folder: its own; made by `open_table`.
        shape: what it holds.
        dtype: of its numbers.
    """

    def __init__(self, folder: Path, shape: Shape, dtype: torch.dtype) -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.row_bytes = shape.row_bytes(dtype)
        self.is_readable = self.is_writable = True
        self.file = os.open(folder / LOGITS, os.O_RDWR)
        weakref.finalize(self, os.close, self.file)

    def read(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """What rows hold, (n, R, C) on the CPU, and the positions in them of those that are to be computed."""
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
        """Keep what was computed, (n,), (n, R, C) of the table's type on the CPU, as long as the disk takes it."""
        if self.is_writable:
            try:
                for row, values in zip(rows.tolist(), logits.numpy(), strict=True):
                    self._write(row, np.ascontiguousarray(values))
            except OSError as error:
                self.is_writable = False
                self._complain(error)

    def _read(self, rows: np.ndarray, logits: np.ndarray, missing: np.ndarray) -> None:
        """Fill in the bytes of those that are there, (n, bytes), and that they are not missing, (n,)."""
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


def open_table_of(
    teacher: Network, feed: Feed, batch_size: int, dtype: torch.dtype, *, regions: bool
) -> TeacherTable | None:
    """The table of a teacher's logits for the views of a feed; None where there can be none, or none are wanted.

    Half precision holds all of bfloat16's digits, so nothing is lost in the table. A cell without regions takes the
    table of cells with them where there is one.

    Args:
        teacher: in float32.
        feed: of images that have a countable number of views.
        batch_size: how many images the teacher is run on at a time, which decides its kernels.
        dtype: the type in which it is computed.
        regions: whether the logits of the 4 x 4 grid are wanted too.
    """
    look = feed.dataset
    identity: dict[str, object] = {
        "teacher": _digest(value.cpu().numpy() for value in teacher.state_dict().values()),
        "images": _digest([cast(Split, look.train).images]),
        "look": [look.image_size, look.padding, look.flip, look.mean, look.std],
        "network": type(teacher).__name__,
        "computed": [str(dtype), batch_size, str(feed.device), torch.__version__, torch.get_num_threads()],
    }
    kept = torch.float16 if dtype == torch.bfloat16 else torch.float32
    alone = Shape(len(feed.labels), cast(int, feed.view_count), 1, teacher.classifier.out_features)
    with_grid = replace(alone, regions=1 + GRID**2)
    if regions:
        return open_table(identity, with_grid, kept)
    return open_table(identity, with_grid, kept, make=False) or open_table(identity, alone, kept)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def open_table(
    identity: dict[str, object], shape: Shape, dtype: torch.dtype, *, make: bool = True
) -> TeacherTable | None:
    """The table of this identity, made if there is none; None where there can be none, or none are wanted.

    The tables used longest ago make room for a new one; processes that have one of those open keep it until they end.

    Args:
        identity: all that determines the teacher's outputs.
        shape: what it holds.
        dtype: float16 or float32.
        make: False returns None where there is none.
    """
    if allowed_bytes(SIZE_VARIABLE, LARGEST) == 0:
        return None
    content = {**identity, **asdict(shape), "dtype": str(dtype), "machine": platform.node(), "format": FORMAT}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY]
    cache = Path(os.environ.get(FOLDER_VARIABLE) or CACHE)
    size = shape.table_bytes(dtype)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock"):
            if not _is_whole(cache / key, size):
                if not make or not _make_room(cache, size):
                    return None
                _make(cache / key, content, size)
            os.utime(cache / key)
            return TeacherTable(cache / key, shape, dtype)
    except OSError as error:
        if not make:  # the caller will ask for another one
            return None
        print(
            f"warning: {cache}: {error.strerror or error}; training goes on without a table of the teacher's logits. "
            f"{FOLDER_VARIABLE} names another folder for tables, {SIZE_VARIABLE}=0 wants none",
            file=sys.stderr,
        )
        return None


def tables(cache: Path) -> list[Path]:
    """Folders of tables, and nothing else that may be in the same place."""
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


def _make_room(cache: Path, needed: int) -> bool:
    """Whether a table of so many bytes fits, once the tables used longest ago are removed."""
    limit = allowed_bytes(SIZE_VARIABLE, LARGEST)
    oldest = sorted(tables(cache), key=lambda path: path.stat().st_mtime)
    while True:
        disk = shutil.disk_usage(cache)
        used = sum((path / LOGITS).stat().st_size for path in oldest)
        if used + needed <= limit and disk.free - needed >= SPARE * disk.total:
            return True
        if not oldest or needed > limit:
            return False
        remove_folder(oldest.pop(0))
