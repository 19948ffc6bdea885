"""CIFAR-100-C: the test images of CIFAR-100 in nineteen corruptions, at five severities each, as published.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
arXiv:1903.12261. A file per corruption holds the test images in their order, five times: severity 1 to 5.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Split
from kdcore.fetch import archives, download
from kdcore.system import workspace
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests
from kdcore.system.pointers import file_stands_for_another

MD5, LABELS = "md5", "labels"
SEVERITIES = 5
HELP = "get it anew, or remove robustness_sources, and it is downloaded"


@dataclass(frozen=True)
class Published:
    """What is published: addresses and checksums."""

    urls: tuple[str, ...]
    md5: str
    """That of the archive."""
    folder: str
    """The folder of the archive that holds the files."""
    labels_md5: str
    averaged: dict[str, str]
    """Corruption -> md5 of its file; the fifteen that figures are averages of."""
    more: dict[str, str]
    """The same of four more, which were published for validation and are no part of an average."""

    @property
    def files(self) -> dict[str, str]:
        """All files, without .npy -> md5."""
        return {LABELS: self.labels_md5, **self.averaged, **self.more}


PUBLISHED = Published(
    urls=("https://zenodo.org/record/3555552/files/CIFAR-100-C.tar",),
    md5="11f0ed0f1191edbf9fa23466ae6021d3",
    folder="CIFAR-100-C",
    labels_md5="bb4026e9ce52996b95f439544568cdb2",
    averaged={
        "gaussian_noise": "ecc4d366eac432bdf25c024086f5e97d",
        "shot_noise": "b0a1fa6e1e465a747c1b204b1914048a",
        "impulse_noise": "3b3c210ddfa0b5cb918ff4537a429fef",
        "defocus_blur": "d923e3d9c585a27f0956e2f2ad832564",
        "glass_blur": "0bf384f38e5ccbf8dd479d9059b913e1",
        "motion_blur": "732a7e2e54152ff97c742d4c388c5516",
        "zoom_blur": "0204613400c034a81c4830d5df81cb82",
        "snow": "0237be164583af146b7b144e73b43465",
        "frost": "3a39c6823bdfaa0bf8b12fe7004b8117",
        "fog": "4efc7ebd5e82b028bdbe13048e3ea564",
        "brightness": "f22d7195aecd6abb541e27fca230c171",
        "contrast": "322bb385f1d05154ee197ca16535f71e",
        "elastic_transform": "a0792bd6581f6810878be71acedfc65a",
        "pixelate": "96c00c60f144539e14cffb02ddbd0640",
        "jpeg_compression": "c851b7f1324e1d2ffddeb76920576d11",
    },
    more={
        "speckle_noise": "e3f215b1a0f9fd9fd6f0d1cf94a7ce99",
        "gaussian_blur": "5204ba0d557839772ef5a4196a052c3e",
        "spatter": "12ccf41d62564d36e1f6a6ada5022728",
        "saturate": "c0697e9fdd646916a61e9c312c77bf6b",
    },
)


@dataclass(frozen=True)
class Corrupted:
    """The corrupted test images, a file at a time."""

    test: Split
    file: Callable[[str], Path]
    """Corruption -> its file, checked; that of an archive is there until the next one is asked for."""

    def images(self, name: str) -> np.ndarray:
        """Read a corruption's images, (5, N, S, S, 3) uint8, severity by severity; they are mapped, not in memory.

        Raises:
            UserError: the file is no array of these images, or holds another number of them.
        """
        path = self.file(name)
        stored, wanted = _array(path), (SEVERITIES * len(self.test.labels), *self.test.images.shape[1:])
        if stored.dtype != np.uint8 or stored.shape != wanted:
            raise UserError(
                f"{path}: holds {stored.dtype} {stored.shape}, not uint8 {wanted}, the test images at {SEVERITIES} "
                f"severities; {HELP}"
            )
        return stored.reshape(SEVERITIES, *self.test.images.shape)


@contextmanager
def opened(source: str, test: Split) -> Iterator[Corrupted]:
    """Yield the published images, all of them checked, for as long as they are read.

    Args:
        source: "download"; the path of the archive; or of the folder extracted from it, or of one that holds it.
        test: the stored test images, of which these are the corrupted ones, in their order.

    Raises:
        UserError: the archive cannot be had or is another one, a file is missing or another one, or the labels are not
            those of the test images.
    """
    path = workspace.find(source)
    if source == "download":
        path = _downloaded()
    if not path.exists():
        raise UserError(f"{path}: there is no such archive or folder of CIFAR-100-C; {HELP}")
    if path.is_dir():
        folder = path if path.name == PUBLISHED.folder else path / PUBLISHED.folder
        for name in PUBLISHED.files:
            _check(folder / f"{name}.npy", PUBLISHED.files[name])
        _check_labels(folder / f"{LABELS}.npy", test)
        yield Corrupted(test, lambda name: folder / f"{name}.npy")
        return
    if source != "download":
        _check(path, PUBLISHED.md5)
    download.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=download.FOLDER) as temporary:

        def extracted(name: str) -> Path:
            for last in Path(temporary).glob("*.npy"):  # a file takes 150 MB
                last.unlink()
            file = archives.member(path, f"{PUBLISHED.folder}/{name}.npy", Path(temporary))
            _check(file, PUBLISHED.files[name])
            return file

        _check_labels(extracted(LABELS), test)
        yield Corrupted(test, extracted)


def _downloaded() -> Path:
    """Download the archive, unless that was done before, and check it; a wrong one is removed."""
    path = download.cached(PUBLISHED.urls[0])
    download.fetch(PUBLISHED.urls, path)
    try:
        _check(path, PUBLISHED.md5)
    except UserError:
        download.forget(path)
        raise
    return path


def _check(file: Path, md5: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: is missing; {HELP}")
    try:
        found = file_digests(file, MD5)[MD5]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if found != md5 and (pointer := file_stands_for_another(file)):
        raise UserError(f"{file}: {pointer}")
    if found != md5:
        raise UserError(f"{file}: has md5 {found}, that of CIFAR-100-C {md5}; {HELP}")


def _array(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{file}: is no NumPy array ({error}); {HELP}") from error
    return array


def _check_labels(file: Path, test: Split) -> None:
    labels = _array(file)
    count = len(test.labels)
    if labels.shape != (SEVERITIES * count,):
        raise UserError(
            f"{file}: holds labels of shape {labels.shape}, not {(SEVERITIES * count,)}: the test set's {count:,} at "
            f"{SEVERITIES} severities; {HELP}"
        )
    wrong = int((labels.reshape(SEVERITIES, count) != test.labels).sum())
    if wrong:
        raise UserError(
            f"{file}: {wrong:,} of {len(labels):,} labels are not those of the stored test images, so that the images "
            "are others, or in another order; take data.source: download, whose order is the published one"
        )
