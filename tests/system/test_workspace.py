"""Experiments in temporary folders find the inputs that git ignores, and store what they would in the workspace."""

import subprocess
from pathlib import Path

import pytest

from kdcore.data import sources, storage
from kdcore.fetch import download
from kdcore.matrix import data_section, params
from kdcore.matrix.listed_teachers import own_copy
from kdcore.system import workspace, yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.training import adopt
from tests.matrix import test_cards
from tests.pictures import write_tree
from tests.project import ROOT

OWN = {"name": "mine", "source": "folder:images", "image_size": 16, "augmentation": "random_resized_crop",
       "flip": True, "stem": None, "test_share": None}  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workspace, where the test is."""
    folder = tmp_path / "project"
    (folder / ".dvc/tmp").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", folder], check=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["standalone/tmp1hq71cpj", "tmpcgrq6xds"], ids=["--temp", "queue"])
def enter(request, root, monkeypatch):
    """Go to the temporary folder of an experiment."""

    def enter():
        folder = root / ".dvc/tmp/exps" / request.param
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        return folder

    return enter


def images(folder):
    for split in ("train", "test"):
        write_tree(folder / split, ("cat", "dog"), 2, size=(20, 20))


def test_only_a_temporary_folder_has_an_origin(root, enter, monkeypatch):
    assert workspace.origin() is None
    enter()
    assert workspace.origin() == root
    monkeypatch.chdir(root / ".dvc/tmp")
    assert workspace.origin() is None


def test_what_is_here_comes_first_then_the_workspace(root, enter):
    for name in ("both", "there", "folder/file"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("there")
    assert workspace.find(root / "there") == root / "there"
    (root / "../beside").touch()
    (enter() / "both").write_text("here")
    for name in ("there", "folder", "folder/file", "../beside"):
        assert workspace.find(Path(name)) == root / name
    for name in ("both", "nowhere"):
        assert workspace.find(Path(name)) == Path(name)


def test_a_folder_that_git_tracks_in_part_is_taken_whole(root, enter):
    """The temporary folder has the tracked part alone."""
    for name in ("part/tracked", "part/ignored", "all/tracked"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / ".gitignore").write_text("ignored\n")
    subprocess.run(["git", "add", "-A"], check=True)
    folder = enter()
    for name in ("part/tracked", "all/tracked"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    assert workspace.find(Path("part")) == root / "part"
    assert workspace.find(Path("all")) == Path("all")


def test_own_copies_are_those_of_the_workspace(root, enter):
    copy = root / "checkpoints/digits/resnet14.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"weights")
    before = own_copy("digits", "resnet14")
    enter()
    assert own_copy("digits", "resnet14") == before
    path, sha256 = adopt._file(before.as_posix(), file_sha256(copy), download.PATIENT)
    assert (path, sha256) == (copy, file_sha256(copy))
    copy.with_suffix(".safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="are both there"):
        own_copy("digits", "resnet14")


def test_cards_are_those_of_the_workspace(root, enter, monkeypatch):
    """The teacher's file and the images have relative paths, and are in the workspace alone."""
    images(root / "images")
    (root / "mine.pth").write_bytes(b"weights")
    data = {key: value for key, value in OWN.items() if value is not None}
    wanted = {"data": data, "teachers": {name: {"source": "mine.pth", "published_top1": 50.0}
                                         for name in ("resnet20", "wrn_16_2")}}  # fmt: skip
    before = test_cards.cards(**wanted)
    enter()
    assert test_cards.cards(**wanted) == before
    (root / "mine.pth").unlink()
    with pytest.raises(UserError, match=r"'mine.pth' cannot be read \(No such file or directory\)"):
        test_cards.cards(**wanted)


def test_a_source_that_looks_like_a_slip_may_be_in_the_workspace(root, enter):
    (root / "trian").write_bytes(b"weights")
    enter()
    content = yamlfile.read(ROOT / "params.yaml")
    content["teachers"]["resnet20"] = {"source": "trian", "published_top1": 50.0}
    assert params.Params.model_validate(content).teachers["resnet20"].source == "trian"


@pytest.mark.parametrize("source", ["folder:images", "folder:./images"])
@pytest.mark.parametrize("augmentation", ["random_resized_crop", "pad_crop"])
def test_images_of_the_workspace_are_stored_and_read_as_there(root, enter, tmp_path, source, augmentation):
    images(root / "images")
    section = {**OWN, "source": source, "augmentation": augmentation}
    stored = []

    def store(name):
        folder = tmp_path / name
        folder.mkdir()
        storage.save(sources.fetch(section), folder)
        stored.append({path.name: path.read_bytes() for path in folder.iterdir()})
        return folder

    store("there")
    enter()
    data_section.check_there(section, "params.yaml")
    folder = store("here")
    assert stored[0] == stored[1]
    split = storage.load(folder).train
    if augmentation == "random_resized_crop":
        assert all((split.root / path).is_file() for path in split.table["path"].to_pylist())


def test_downloads_are_kept_in_the_workspace(root, enter):
    before = download.cached("https://a.org/b.tar")
    enter()
    assert download.cached("https://a.org/b.tar") == root / before
