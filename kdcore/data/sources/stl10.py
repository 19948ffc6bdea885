"""STL-10: 96 x 96, 10 classes (Coates, Ng and Lee, An Analysis of Single Layer Networks in Unsupervised Feature
Learning, AISTATS 2011). Its 5,000 training and 8,000 test images with classes; the 100,000 without are left out.

The checksums of its files are those that torchvision lists (torchvision.datasets.STL10).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Dataset, Split
from kdcore.data.sources.contents import check_split
from kdcore.fetch import archives, download
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests

URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
FOLDER = "stl10_binary"
MD5 = {
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}
"""File -> its checksum."""
CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
"""In the order of the published labels, which are counted from 1."""
SIDE = 96
MEAN = (0.4467, 0.4398, 0.4066)
STD = (0.2603, 0.2566, 0.2712)
"""From giakoumoglou/distillers at a2ee80b."""


def fetch(*, source: str) -> Dataset:
    """Read STL-10.

    Args:
        source: "download", or the path of the archive or of the folder extracted from it.

    Raises:
        UserError: the source holds no STL-10, or another one than was published.
    """
    try:
        with _opened(source) as folder:
            for name, md5 in MD5.items():
                _check(folder / name, md5, source)
            splits = {name: _read(folder, name) for name in ("train", "test")}
    except UserError:
        if source == "download":  # nobody publishes the archive's sha256, by which it would be refused before
            download.forget(download.cached(URL))
        raise
    for which, split in (("training", splits["train"]), ("test", splits["test"])):
        check_split(split.images, f"data.source {source}", "get it anew", which)
    return Dataset("stl10", CLASSES, splits["train"], splits["test"], MEAN, STD, image_size=SIDE, flip=True, padding=12)


@contextmanager
def _opened(source: str) -> Iterator[Path]:
    """Yield the folder with the files of STL-10; what is extracted is removed when the block ends."""
    path = Path(source)
    if source == "download":
        path = download.cached(URL)
        download.fetch([URL], path)
    if not path.exists():
        raise UserError(f"data.source {source}: there is no such archive or folder")
    if path.is_dir():
        yield path / FOLDER if (path / FOLDER).is_dir() else path
        return
    download.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=download.FOLDER) as temporary:
        extracted = Path(temporary) / "extracted"
        archives.extract(path, extracted, members=[f"{FOLDER}/{name}" for name in MD5])
        yield extracted / FOLDER


def _check(file: Path, md5: str, source: str) -> None:
    """Refuse a file that is missing, or not as it was published."""
    if not file.is_file():
        raise UserError(f"data.source {source}: holds no {file.name}; is this STL-10 as published ({FOLDER})?")
    found = file_digests(file, "md5")["md5"]
    if found != md5:
        raise UserError(f"data.source {source}: {file.name} has md5 {found}, the published one {md5}; get it anew")


def _read(folder: Path, name: str) -> Split:
    """Read a split, whose images are stored channel by channel, and each channel column by column."""
    stored = np.fromfile(folder / f"{name}_X.bin", dtype=np.uint8).reshape(-1, 3, SIDE, SIDE)
    labels = np.fromfile(folder / f"{name}_y.bin", dtype=np.uint8).astype(np.int64) - 1
    return Split(np.ascontiguousarray(stored.transpose(0, 3, 2, 1)), labels)
