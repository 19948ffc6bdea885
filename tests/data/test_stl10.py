"""STL-10 in its real layout: files of a few images, with checksums of their own."""

import shutil
import tarfile

import numpy as np
import pytest

from kdcore.data.sources import stl10
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests
from tests.server import serving


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder of three training and two test images; image i is red in its first row, and i + 1 in all else."""
    folder = tmp_path / stl10.FOLDER
    folder.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        images = np.stack([np.full((3, 96, 96), number + 1, dtype=np.uint8) for number in range(count)])
        images[:, 0, :, 0] = 255  # stored column by column: the last axis is the row
        images.tofile(folder / f"{split}_X.bin")
        np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{split}_y.bin")
    sums = {name: file_digests(folder / name, "md5")["md5"] for name in stl10.MD5}
    monkeypatch.setattr(stl10, "MD5", sums)
    monkeypatch.chdir(tmp_path)
    return folder


def archive(folder):
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    return path


def check(dataset):
    assert dataset.train.images.shape == (3, 96, 96, 3)
    assert dataset.train.labels.tolist() == [0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.train.images[1, 0].tolist() == [[255, 2, 2]] * 96
    assert (dataset.train.images[1, 1:] == 2).all()


@pytest.mark.parametrize("where", ["folder", "above", "archive"])
def test_every_form_of_a_copy(written, where):
    source = {"folder": written, "above": written.parent}.get(where) or archive(written)
    check(stl10.fetch(source=str(source)))


def test_a_download(written, monkeypatch):
    with serving() as site:
        monkeypatch.setattr(stl10, "URL", site.add("stl10.tar.gz", archive(written).read_bytes()))
        shutil.rmtree(written)
        check(stl10.fetch(source="download"))


def test_a_download_of_something_else_is_refused_and_removed(written, monkeypatch):
    shutil.rmtree(written)
    with serving() as site:
        monkeypatch.setattr(stl10, "URL", site.add("stl10.tar.gz", b"<!DOCTYPE html><html>Sign in</html>"))
        with pytest.raises(UserError):
            stl10.fetch(source="download")
    assert not list(written.parent.rglob("*stl10.tar.gz"))


def test_another_file_is_refused(written):
    (written / "test_y.bin").write_bytes(bytes([1, 1]))
    with pytest.raises(UserError, match=r"test_y\.bin has md5 .*, the published one .*; get it anew"):
        stl10.fetch(source=str(written))


def test_a_missing_file_and_a_missing_folder(written):
    (written / "train_y.bin").unlink()
    with pytest.raises(UserError, match=r"holds no train_y\.bin; is this STL-10 as published"):
        stl10.fetch(source=str(written))
    with pytest.raises(UserError, match="there is no such archive or folder"):
        stl10.fetch(source="no/such")


def test_checksums_are_those_that_torchvision_lists():
    from torchvision.datasets import STL10

    listed = dict([*STL10.train_list, *STL10.test_list])
    assert {name: listed[name] for name in stl10.MD5} == stl10.MD5
    assert STL10.url == stl10.URL
