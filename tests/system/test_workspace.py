"""Experiments in temporary folders find the inputs that git ignores, and store what they would in the workspace."""

import shutil
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
from tests.project import PARAMS

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
    for start, split in ((0, "train"), (10, "test")):
        write_tree(folder / split, ("cat", "dog"), 2, size=(20, 20), start=start)


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


def test_what_is_there_in_name_alone_is_taken_from_the_workspace(root, enter):
    """A relative link, and the folder of a submodule, which are in the temporary folder, and lead to nothing."""
    (root.parent / "outside").mkdir()
    (root / "link").symlink_to("../outside")
    (root / "submodule").mkdir()
    (root / "submodule/image").touch()
    folder = enter()
    (folder / "link").symlink_to("../outside")
    (folder / "submodule").mkdir()
    (folder / "broken").symlink_to("nowhere")
    assert workspace.find(Path("link")) == root / "link"
    assert workspace.find(Path("submodule")) == root / "submodule"
    for name in ("broken", "x" * 300, "a\0b"):
        assert workspace.find(Path(name)) == Path(name)


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
    content = yamlfile.read(PARAMS)
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


class TestWhatIsLeft:
    """Of a failed experiment, in params.yaml."""

    @pytest.fixture
    def committed(self, root, monkeypatch):
        """A params.yaml that is committed, and a way to change it and ask."""
        before = {"seeds": [0], "train": {"lr": 0.1, "epochs": 3}, "methods_config": {}}
        yamlfile.write(root / "params.yaml", before)
        (root / ".gitignore").write_text("/.dvc\n")
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        for command in (["add", "-A"], [*who, "commit", "-qm", "test"]):
            subprocess.run(["git", *command], check=True)
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "HEAD")

        def left(**changes):
            yamlfile.write(root / "params.yaml", {**before, **changes})
            return workspace.left_in_params()

        return left

    def test_keys_that_differ(self, committed):
        assert committed() == ""
        assert committed(seeds=[1], train={"lr": 0.2, "epochs": 3}) == (
            "params.yaml still differs from the commit in seeds, train.lr; where -S changed it, 'git checkout "
            "params.yaml' takes that back, and all edits of yours that are not committed"
        )
        assert "in methods_config, methods_config.kd.temperature;" in committed(
            methods_config={"kd": {"temperature": 2}}
        )
        assert "a0, a1, a2, a3, a4 and 3 more;" in committed(**{f"a{i}": None for i in range(8)})

    def test_only_in_an_experiment_in_the_workspace(self, committed, root, enter, monkeypatch):
        assert committed(seeds=[1])
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
        assert committed(seeds=[1]) == ""
        monkeypatch.delenv("DVC_EXP_BASELINE_REV")
        assert committed(seeds=[1]) == ""
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "HEAD")
        shutil.copy(root / "params.yaml", enter())
        assert workspace.left_in_params() == ""

    def test_a_file_that_cannot_be_read(self, committed, root):
        committed(seeds=[1])
        for content in ("", "seeds: [", "- 1"):
            (root / "params.yaml").write_text(content)
            assert workspace.left_in_params() == ""
        (root / "params.yaml").unlink()
        assert workspace.left_in_params() == ""
