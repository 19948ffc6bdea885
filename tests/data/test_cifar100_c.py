"""CIFAR-100-C from a tiny copy made here: read right from an archive, a folder and a download; refused when wrong."""

import hashlib
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from kdcore.data import cifar100_c
from kdcore.data.dataset import Split
from kdcore.fetch import download
from kdcore.system.errors import UserError
from kdcore.training import preflight
from tests.server import serving

COUNT, SIDE = 6, 8
NAMES = ("fog", "snow", "spatter")
RANDOM = np.random.default_rng(0)
TEST = Split(
    RANDOM.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8), np.array([3, 1, 4, 1, 5, 9], dtype=np.int64)
)
IMAGES = {name: RANDOM.integers(0, 256, (5 * COUNT, SIDE, SIDE, 3), dtype=np.uint8) for name in NAMES}


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def make(folder, *, labels=None, **images):
    """Write a set and its archive, and return what is published of it."""
    inside = folder / "CIFAR-100-C"
    inside.mkdir(parents=True)
    for name, array in {**IMAGES, **images, "labels": np.tile(TEST.labels, 5) if labels is None else labels}.items():
        np.save(inside / f"{name}.npy", array)
    with tarfile.open(folder / "CIFAR-100-C.tar", "w") as tar:
        tar.add(inside, "CIFAR-100-C")
    sums = {path.stem: md5(path) for path in inside.iterdir()}
    return replace(
        cifar100_c.PUBLISHED,
        md5=md5(folder / "CIFAR-100-C.tar"),
        labels_md5=sums["labels"],
        averaged={name: sums[name] for name in NAMES[:2]},
        more={NAMES[2]: sums[NAMES[2]]},
    )


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Make a copy in `tmp_path`, and have it taken for the published one."""
    monkeypatch.chdir(tmp_path)

    def copy(**changes):
        monkeypatch.setattr(cifar100_c, "PUBLISHED", make(tmp_path / "own", **changes))
        return tmp_path / "own"

    return copy


def read(source):
    with cifar100_c.opened(str(source), TEST) as stored:
        return {name: np.array(stored.images(name)) for name in NAMES}


def check(found):
    for name in NAMES:
        assert (found[name].reshape(IMAGES[name].shape) == IMAGES[name]).all()
        assert (found[name][2, 1] == IMAGES[name][2 * COUNT + 1]).all()  # severity 3, image 1


def test_all_that_is_published_is_named():
    assert len(cifar100_c.PUBLISHED.averaged) == 15
    assert len(cifar100_c.PUBLISHED.files) == 20
    assert len({*cifar100_c.PUBLISHED.files.values()}) == 20


@pytest.mark.parametrize("part", ["CIFAR-100-C.tar", "CIFAR-100-C", ""])
def test_archives_and_folders_are_read_alike(copy, part):
    check(read(copy() / part))


def test_an_archive_leaves_nothing_behind(copy):
    read(copy() / "CIFAR-100-C.tar")
    assert list(download.FOLDER.iterdir()) == []


def test_it_is_downloaded_once(copy, monkeypatch):
    archive = copy() / "CIFAR-100-C.tar"
    with serving() as site:
        address = site.add("CIFAR-100-C.tar", archive.read_bytes())
        monkeypatch.setattr(cifar100_c, "PUBLISHED", replace(cifar100_c.PUBLISHED, urls=(address,)))
        check(read("download"))
        check(read("download"))
        assert len(site.asked) == 1


def test_a_wrong_download_is_refused_and_forgotten(copy, monkeypatch):
    copy()
    with serving() as site:
        monkeypatch.setattr(
            cifar100_c, "PUBLISHED", replace(cifar100_c.PUBLISHED, urls=(site.add("c.tar", b"another file"),))
        )
        with pytest.raises(UserError, match=r"has md5 .*, that of CIFAR-100-C"):
            read("download")
        assert not download.cached(site.url + "/c.tar").exists()


@pytest.mark.parametrize("part", ["CIFAR-100-C.tar", "CIFAR-100-C/snow.npy"])
def test_a_wrong_file_is_refused_before_anything_is_read(copy, part):
    folder = copy()
    with (folder / part).open("ab") as file:
        file.write(b"more")
    source = folder / part if part.endswith("tar") else folder / "CIFAR-100-C"
    with (
        pytest.raises(UserError, match=f"{part}: has md5 .*, that of CIFAR-100-C .*; get it anew"),
        cifar100_c.opened(str(source), TEST),
    ):
        pytest.fail("the block began")


def test_a_missing_copy_and_a_missing_file_are_named(copy, tmp_path):
    folder = copy()
    with pytest.raises(UserError, match="elsewhere: there is no such archive or folder of CIFAR-100-C"):
        read(tmp_path / "elsewhere")
    (folder / "CIFAR-100-C/fog.npy").unlink()
    with pytest.raises(UserError, match=r"fog\.npy: is missing; get it anew"):
        read(folder)


def test_an_archive_without_a_file_is_refused(copy, monkeypatch):
    folder = copy()
    shutil.rmtree(folder / "CIFAR-100-C")
    with tarfile.open(folder / "CIFAR-100-C.tar", "w"):
        pass
    monkeypatch.setattr(cifar100_c, "PUBLISHED", replace(cifar100_c.PUBLISHED, md5=md5(folder / "CIFAR-100-C.tar")))
    with pytest.raises(UserError, match=r"has no member 'CIFAR-100-C/labels\.npy'"):
        read(folder / "CIFAR-100-C.tar")


@pytest.mark.parametrize("count", [5 * COUNT - 1, 4 * COUNT])
def test_another_number_of_images_is_refused(copy, count):
    folder = copy(snow=IMAGES["snow"][:count])
    with pytest.raises(UserError, match=rf"snow\.npy: holds uint8 \({count}, 8, 8, 3\), not uint8 \(30, 8, 8, 3\)"):
        read(folder)


def test_labels_of_other_images_are_refused(copy):
    """In another order, for instance."""
    folder = copy(labels=np.tile(TEST.labels[::-1], 5))
    with pytest.raises(UserError, match=r"labels\.npy: 30 of 30 labels are not those of the stored test images"):
        read(folder / "CIFAR-100-C.tar")


def test_labels_of_another_number_are_refused(copy):
    folder = copy(labels=TEST.labels)
    with pytest.raises(UserError, match=r"holds labels of shape \(6,\), not \(30,\)"):
        read(folder)


def test_what_is_no_array_is_refused(copy, monkeypatch):
    folder = copy()
    (folder / "CIFAR-100-C/labels.npy").write_bytes(b"no array")
    monkeypatch.setattr(
        cifar100_c, "PUBLISHED", replace(cifar100_c.PUBLISHED, labels_md5=md5(folder / "CIFAR-100-C/labels.npy"))
    )
    with pytest.raises(UserError, match=r"labels\.npy: is no NumPy array"):
        read(folder)


class TestBeforeAnythingIsTrained:
    """The plan reads no images, so it finds what lacks files, and other sets."""

    @pytest.mark.parametrize("part", ["CIFAR-100-C.tar", "CIFAR-100-C", "", "download", "nowhere"])
    def test_a_whole_copy(self, copy, part):
        source = part if part in ("download", "nowhere") else str(copy() / part)
        preflight.check_images({"robustness/a-b-cifar100_c": {"source": source}, "robustness/a-b-corruptions": {}})

    @pytest.mark.parametrize(("change", "part", "said"), [
        (lambda at: (at / "CIFAR-100-C/fog.npy").unlink(), "", r"CIFAR-100-C: fog.npy is missing; get it anew"),
        (lambda at: shutil.rmtree(at / "CIFAR-100-C"), "", r"labels.npy, fog.npy, snow.npy, spatter.npy are missing"),
        (lambda at: np.save(at / "CIFAR-100-C/labels.npy", np.zeros(30)), "CIFAR-100-C", r"its labels.npy has md5 "),
        (lambda at: (at / "CIFAR-100-C.tar").write_bytes(b"<html>"), "CIFAR-100-C.tar", r"CIFAR-100-C.tar"),
        (lambda at: make(at / "other", labels=np.zeros(30)), "other/CIFAR-100-C.tar", r"its labels.npy has md5 "),
    ])  # fmt: skip
    def test_what_cannot_be_the_published_set(self, copy, change, part, said):
        folder = copy()
        change(folder)
        with pytest.raises(UserError, match=rf"params.yaml: robustness_sources.cifar100_c: .*{said}"):
            preflight.check_images({"robustness/a-b-cifar100_c": {"source": str(folder / part)}})
