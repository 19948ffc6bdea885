"""Folders below classes: the classes that are meant, or videos, patients and slides."""

import pytest

from kdcore.data import storage
from stages import data as stage
from tests.data.own_sets import fetch_own
from tests.pictures import write_tree

GROUPS = "hold no images of their own but several folders"
BOTH = "have images in both training and test"
LAYOUTS = {
    "places365": (["a/abbey", "a/airfield", "b/bakery/shop", "b/beach", "c/cafe"], ["a", "b"], 3),
    "lc25000": (["colon/colon_aca", "colon/colon_n", "lung/lung_aca", "lung/lung_n", "lung/lung_scc"],
                ["colon", "lung"], 2),
    "inaturalist": (["Aves/Corvidae/Corvus", "Aves/Corvidae/Pica", "Fungi/Amanita", "Fungi/Boletus"],
                    ["Aves", "Fungi"], 2),
    "one of three": (["airplane", "truck", "animals/cat", "animals/dog"], ["animals"], 3),
    "through a wrapper": (["airplane", "animals/data/cat", "animals/data/dog"], ["animals"], 2),
    "shared": (["bus/images", "cat/images/a", "cat/images/b"], ["cat"], 2),
}  # fmt: skip


def write(folder, paths, count=4, start=0):
    for number, path in enumerate(paths):
        (folder / path).mkdir(parents=True)
        write_tree(folder / path / "..", [(folder / path).name], count, start=100 * number + start)


class TestGroups:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    @pytest.mark.parametrize("inside", ["", "train"])
    def test_that_become_classes_are_said(self, tmp_path, layout, augmentation, inside, capsys):
        paths, classes, total = LAYOUTS[layout]
        write(tmp_path / inside, paths)
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation=augmentation)
        said = [line for line in capsys.readouterr().err.splitlines() if GROUPS in line]
        assert len(dataset.classes) == total
        assert len(said) == 1
        assert said[0].startswith(
            f"data.source {tmp_path}: {len(classes)} of {total} classes ({', '.join(classes)}) {GROUPS}, such as "
            f"{tmp_path / inside / classes[0]}/"
        )
        assert "count as one class. If these folders are the classes, move or link them into one folder" in said[0]

    @pytest.mark.parametrize(("train", "test"), [(True, True), (True, False), (False, True)])
    def test_are_said_once_of_both_splits(self, tmp_path, train, test, capsys):
        for folder, nested, start in (("train", train, 0), ("test", test, 50)):
            write(tmp_path / folder, ["Aves/Corvus", "Aves/Pica", "Fungi"] if nested else ["Aves", "Fungi"], 2, start)
        assert fetch_own(f"folder:{tmp_path}").classes == ["Aves", "Fungi"]
        said = capsys.readouterr().err
        assert said.count("\n") == said.count(f"1 of 2 classes (Aves) {GROUPS}") == 1

    def test_many_are_shortened(self, tmp_path, capsys):
        write(tmp_path, [f"{letter}/{letter}{number}" for letter in "abcdefgh" for number in range(2)], 2)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert f"8 of 8 classes (a, b, c, d, e ...) {GROUPS}" in capsys.readouterr().err

    @pytest.mark.parametrize("paths", [["cat", "dog"], ["cat/images", "dog/images"], ["cat/a", "dog/x/y"]])
    def test_a_single_folder_is_none(self, tmp_path, paths, capsys):
        write(tmp_path, paths)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert capsys.readouterr().err == ""


class TestDividedGroups:
    @pytest.mark.parametrize("paths", [
        ["cat/vid1", "cat/vid2", "dog/vid3", "dog/vid4"],
        ["cat/data/vid1", "cat/data/vid2", "dog/vid3/frames", "dog/vid4/frames"],
        ["cat/p1/s1", "cat/p1/s2", "cat/p2/s3", "dog/p3", "dog/p4"],
    ])  # fmt: skip
    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_in_both_splits_are_said(self, tmp_path, paths, augmentation, capsys):
        write(tmp_path, paths)
        fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation=augmentation)
        said = [line for line in capsys.readouterr().err.splitlines() if BOTH in line]
        assert len(said) == 1
        assert "4 of 4 folders below classes, such as" in said[0]
        assert "divide the folders into train/<class> and test/<class> yourself, and remove data.test_share" in said[0]

    def test_one_of_many(self, tmp_path, capsys):
        write(tmp_path, ["cat/0", "cat/1", "cat/2"], 1)
        write(tmp_path, ["cat/3"], 8, start=300)
        write(tmp_path, ["dog"], 4, start=500)
        fetch_own(f"folder:{tmp_path}", test_share=0.1)
        assert f"1 of 4 folders below classes, such as {tmp_path}/cat/3, {BOTH}" in capsys.readouterr().err

    def test_with_an_image_each_are_not_said(self, tmp_path, capsys):
        write(tmp_path, [f"{name}/{name}{number}" for name in ("cat", "dog") for number in range(4)], 1)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        said = capsys.readouterr().err
        assert GROUPS in said
        assert BOTH not in said

    def test_that_the_user_divided_are_not_said(self, tmp_path, capsys):
        write(tmp_path / "train", ["cat/vid1", "cat/vid2", "dog"])
        write(tmp_path / "test", ["cat/vid3", "dog"], start=50)
        fetch_own(f"folder:{tmp_path}")
        assert BOTH not in capsys.readouterr().err


def test_the_stage_says_how_many_classes_there_are(tmp_path, monkeypatch, capsys):
    write_tree(tmp_path / "pets", ["cat", "dog", "owl"], 4)
    monkeypatch.chdir(tmp_path)
    dataset = fetch_own(f"folder:{tmp_path / 'pets'}", test_share=0.25)
    monkeypatch.setattr(stage.sources, "fetch", lambda section: dataset)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/data.yaml").write_text("code: x\n")
    stage.main()
    assert capsys.readouterr().out == "mine: 3 classes, 9 training and 3 test images\n"
    assert storage.load(tmp_path / "data/mine").classes == ["cat", "dog", "owl"]
