"""A teacher's logits for every view of every training image, computed once per machine.

The teacher is frozen, and an image that is cropped at one of 9 x 9 offsets and mirrored or not has 162 views. Beyer et
al., Knowledge Distillation: A Good Teacher is Patient and Consistent, CVPR 2022, arXiv:2106.05237: teacher and student
must see the same view; FKD (Shen and Xing, ECCV 2022) keeps a few views' outputs. Here all that occur are kept, so that
every cell of a teacher, whatever its student, scale, method, standardisation or seed, computes only those that no
cell before it has seen.

A table is a sparse file that processes of one machine share: a row is written before it is marked, and two processes
that compute the same row write the same bytes.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from kdcore import folders, jsonfile, limits

CACHE = Path("scratch/teacher-tables")
FOLDER_VARIABLE = "KDCORE_TABLES"
SIZE_VARIABLE = "KDCORE_TABLES_GB"
LARGEST = 40.0
"""GB of all tables together, where the variable says nothing."""
ABOUT = "about.json"
SPARE = 0.1
"""Of the disk, which stays free."""


@dataclass(frozen=True)
class Shape:
    """What a table holds."""

    images: int
    views: int
    """Of each image."""
    regions: int
    """Rows of logits per view: the whole image's, then those of the grid."""
    classes: int

    @property
    def size(self) -> int:
        """Numbers in all."""
        return self.images * self.views * self.regions * self.classes


class TeacherTable:
    """The table of one teacher, data set, augmentation, grid and precision.

    Args:
        folder: its own; made by `open_table`.
        shape: what it holds.
        dtype: of its numbers.
    """

    def __init__(self, folder: Path, shape: Shape, dtype: torch.dtype) -> None:
        kind = np.float16 if dtype == torch.float16 else np.float32
        rows = (shape.images * shape.views, shape.regions, shape.classes)
        self.shape, self.dtype = shape, dtype
        self.logits = np.memmap(folder / "logits", kind, "r+", shape=rows)
        self.filled = np.memmap(folder / "filled", np.uint8, "r+", shape=rows[:1])

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `rows` of those that nobody has computed."""
        return np.flatnonzero(self.filled[rows] == 0)

    def write(self, rows: np.ndarray, logits: Tensor) -> None:
        """Keep what was computed. (n,), (n, R, C)."""
        self.logits[rows] = logits.to(self.dtype).cpu().numpy()
        self.filled[rows] = 1

    def read(self, rows: np.ndarray) -> Tensor:
        """(n, R, C), on the CPU."""
        return torch.from_numpy(self.logits[rows])


def open_table(
    identity: dict[str, object], shape: Shape, dtype: torch.dtype, *, make: bool = True
) -> TeacherTable | None:
    """The table of this identity, made if there is none; None where the disk has no room for it, or none are wanted.

    The tables used longest ago make room for a new one. Tables do not outlive a restart of the machine: what was
    marked before a loss of power may never have been written.

    Args:
        identity: all that determines the teacher's outputs.
        shape: what it holds.
        dtype: float16 or float32.
        make: False returns None where there is none.
    """
    if limits.in_bytes(SIZE_VARIABLE, LARGEST) == 0:
        return None
    content = {**identity, **asdict(shape), "dtype": str(dtype), "boot": _boot()}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    cache = Path(os.environ.get(FOLDER_VARIABLE) or CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        if not (cache / key / ABOUT).is_file():
            if not make or not _make_room(cache, shape.size * dtype.itemsize + shape.images * shape.views):
                return None
            _make(cache / key, content, shape, dtype)
        os.utime(cache / key)
        return TeacherTable(cache / key, shape, dtype)


def _make(folder: Path, content: dict[str, object], shape: Shape, dtype: torch.dtype) -> None:
    with folders.whole(folder) as aside:
        for name, size in (("logits", shape.size * dtype.itemsize), ("filled", shape.images * shape.views)):
            with (aside / name).open("wb") as file:
                file.truncate(size)
        jsonfile.write(aside / ABOUT, content)


def _make_room(cache: Path, needed: int) -> bool:
    """Whether a table of so many bytes fits, once the tables used longest ago are removed."""
    limit = limits.in_bytes(SIZE_VARIABLE, LARGEST)
    tables = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    while True:
        disk = shutil.disk_usage(cache)
        used = sum(file.stat().st_size for file in cache.rglob("logits"))
        if used + needed <= limit and disk.free - needed >= SPARE * disk.total:
            return True
        if not tables or needed > limit:
            return False
        folders.remove(tables.pop(0))


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""
