"""Open published archives of data sets: download, verify and extract them for as long as they are read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdcore.fetch import archives, download
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.system.pointers import file_stands_for_another


@dataclass(frozen=True)
class Archive:
    """Where a data set is published, and what its archive holds."""

    urls: tuple[str, ...]
    sha256: str
    folder: str
    """The folder of the archive that holds the data set."""


@contextmanager
def opened(source: str, archive: Archive) -> Iterator[Path]:
    """Yield the extracted folder of an archive, which is removed when the block ends.

    Args:
        source: "download"; the path of the archive, whose checksum is verified; or of the folder extracted from it, or
            of one that holds it.
        archive: says what is published.

    Raises:
        UserError: there is no such folder, or the archive cannot be had whole or is another one.
    """
    path = Path(source)
    if source == "download":
        path = download.cached(archive.urls[0])
        download.fetch(archive.urls, path, checksum=f"sha256:{archive.sha256}")
    if not path.exists():
        raise UserError(f"data.source {source}: there is no such archive or folder")
    if path.is_dir():
        yield _folder(path, archive)
        return
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise UserError(f"data.source {source}: cannot be read ({error.strerror})") from error
    if sha256 != archive.sha256 and (pointer := file_stands_for_another(path)):
        raise UserError(f"data.source {source}: {pointer}")
    if sha256 != archive.sha256:
        raise UserError(
            f"data.source {source}: has sha256 {sha256}, the published archive {archive.sha256}; get it anew, or set "
            "data.source: download"
        )
    download.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=download.FOLDER) as temporary:
        extracted = Path(temporary) / "extracted"
        archives.extract(path, extracted, members=[archive.folder])
        yield _folder(extracted, archive)


def _folder(path: Path, archive: Archive) -> Path:
    if path.name == archive.folder:
        return path
    if not (path / archive.folder).is_dir():
        raise UserError(f"data.source {path}: holds no folder {archive.folder}")
    return path / archive.folder
