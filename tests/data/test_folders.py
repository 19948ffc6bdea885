"""Folders of images: which are splits, and which are classes."""

import os

import pytest
from PIL import Image

from kdcore.data import sources, storage
from kdcore.data.dataset import Encoded
from kdcore.data.sources import contents, folders, imagenet, splits
from kdcore.data.sources.divided import _divide
from kdcore.matrix import params
from kdcore.system.errors import UserError
from tests.data.own_sets import fetch_own, write_parquet
from tests.data.test_parquet_files import LFS
from tests.pictures import encoded, picture, write_tree

CLASSES = ["cat", "dog"]
NFC, NFD = "caf\u00e9", "cafe\u0301"


class TestSplits:
    @pytest.mark.parametrize(("train", "test"), [
        ("training", "testing"), ("Training", "Test"), ("training_set", "test_set"), ("train-set", "val-set"),
        ("seg_train", "seg_test"), ("seg_train/seg_train", "seg_test/seg_test"), ("train", "eval"), ("train", "dev"),
        ("train", "evaluation"), ("Training Set", "Test Set"), ("train/train", "test"), ("train", "validation_set"),
    ])  # fmt: skip
    def test_common_names(self, tmp_path, train, test, capsys):
        write_tree(tmp_path / train, CLASSES, 3)
        write_tree(tmp_path / test, CLASSES, 2, start=10)
        dataset = fetch_own(f"folder:{tmp_path}")
        assert (dataset.classes, len(dataset.train.labels), len(dataset.test.labels)) == (CLASSES, 6, 4)
        assert capsys.readouterr().err == ""
        with pytest.raises(UserError, match="is split already, into"):
            fetch_own(f"folder:{tmp_path}", test_share=0.2)

    def test_no_name_means_two_splits(self):
        assert len(set(splits.ALL)) == len(splits.ALL)
        assert [splits.role(name) for name in splits.ALL] == list(splits.ALL)

    @pytest.mark.parametrize("other", ["val", "extra", "unlabelled"])
    def test_others_are_said(self, tmp_path, other, capsys):
        for start, folder in enumerate(("train", "test", other)):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        fetch_own(f"folder:{tmp_path}")
        assert capsys.readouterr().err == (
            f"data.source {tmp_path}: left out, for they are of no split that is used: '{other}'\n"
        )

    def test_test_images_without_classes(self, tmp_path, capsys):
        for start, folder in enumerate(("train", "val")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        write_tree(tmp_path, ["test"], 3, start=50)
        assert len(fetch_own(f"folder:{tmp_path}").test.labels) == 4
        assert "left out, for they are of no split that is used: 'test'" in capsys.readouterr().err

    @pytest.mark.parametrize("test", ["test", "Test/Test", "val"])
    def test_images_without_classes_beside_training_images(self, tmp_path, test, capsys):
        write_tree(tmp_path / "train", CLASSES, 4)
        write_tree((tmp_path / test).parent, [test[-4:].strip("/")], 3, start=50)
        with pytest.raises(
            UserError, match=rf"no class's folder; sort them, or set data\.source: folder:{tmp_path}/train and"
        ):
            fetch_own(f"folder:{tmp_path}")
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.25)
        assert (dataset.classes, len(dataset.train.labels), len(dataset.test.labels)) == (CLASSES, 6, 2)
        assert f"left out, for they are of no split that is used: '{test[:4].strip('/')}'" in capsys.readouterr().err

    @pytest.mark.parametrize("outer", ["set/set", "archive/set"])
    def test_further_down(self, tmp_path, outer):
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / outer / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=rf"but {tmp_path / outer} has; name that in data\.source"):
            fetch_own(f"folder:{tmp_path / outer.split('/')[0] if outer == 'archive/set' else tmp_path}")

    def test_two_of_a_kind(self, tmp_path):
        for start, folder in enumerate(("train", "val", "valid")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match="holds val and valid; keep one of them"):
            fetch_own(f"folder:{tmp_path}")


class TestSplitsAsClasses:
    @pytest.mark.parametrize("names", [
        ["fold1", "fold2"], ["fold1", "fold2", "fold3"], ["part_a", "part_b"], ["imgs_test", "imgs_train"],
        ["mine_testing", "mine_training"],
    ])  # fmt: skip
    @pytest.mark.parametrize("test_share", [0.5, None])
    def test_share_the_names_of_their_folders(self, tmp_path, names, test_share):
        for start, folder in enumerate(names):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=rf"{', '.join(names)} hold no images themselves but folders of the same "
                                            r"names \(cat, dog\)") as error:  # fmt: skip
            fetch_own(f"folder:{tmp_path}", test_share=test_share)
        assert "set data.test_share" not in str(error.value)

    @pytest.mark.parametrize(("holder", "flat"), [
        ("train_images", "test_images"), ("Train_Data", "Test_Data"), ("train2017", "val2017"),
        ("labeled", "unlabeled"), ("TrainingData", "unlabelled"), ("training set", "x"),
    ])  # fmt: skip
    def test_beside_a_flat_folder(self, tmp_path, holder, flat):
        write_tree(tmp_path / holder, CLASSES, 2)
        write_tree(tmp_path, [flat], 4, start=10)
        with pytest.raises(UserError, match=rf"holds {holder}, with folders of its own, beside {flat}; is it a split"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("name", ["trainers", "testudo", "valley", "device", "label"])
    def test_classes_with_folders_of_their_own(self, tmp_path, name):
        write_tree(tmp_path / name, ["red", "blue"], 2)
        write_tree(tmp_path, ["cat"], 4, start=10)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == sorted(["cat", name])

    def test_in_capitals_or_not(self, tmp_path):
        write_tree(tmp_path / "fold1", ["Cat", "Dog"], 2)
        write_tree(tmp_path / "fold2", CLASSES, 2, start=10)
        with pytest.raises(UserError, match=r"fold1, fold2 hold no images .* same names \(cat, dog\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("inside", ["images", "data/images", "{}"])
    def test_below_a_folder(self, tmp_path, inside):
        for start, folder in enumerate(("amazon", "webcam")):
            write_tree(tmp_path / folder / inside.format(folder), CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=r"amazon, webcam hold no images .* same names \(cat, dog\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_one_has_fewer(self, tmp_path):
        write_tree(tmp_path / "fold1", CLASSES, 2)
        write_tree(tmp_path / "fold2", CLASSES[:1], 2)
        with pytest.raises(UserError, match=r"fold1, fold2 hold no images .* same names \(cat\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("names", [["2019", "2020"], ["fold_1", "fold_2"], ["part-a", "part-b", "part-c"]])
    def test_share_one_name(self, tmp_path, names):
        for start, folder in enumerate(names):
            write_tree(tmp_path / folder, ["cat", f"other{folder}"], 2, start=10 * start)
        with pytest.raises(UserError, match=rf"{', '.join(names)} hold no images .* same names \(cat\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_share_one_name_and_may_be_classes(self, tmp_path, capsys):
        for start, folder in enumerate(("amazon", "webcam")):
            write_tree(tmp_path / folder, ["cat", f"other{start}"], 2, start=10 * start)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == ["amazon", "webcam"]
        assert capsys.readouterr().err.startswith(
            f"{tmp_path}: amazon, webcam are taken as classes, though each holds a folder cat; if that is a class, "
            "they are parts of a split\n"
        )

    def test_beside_classes(self, tmp_path):
        write_tree(tmp_path, ["bird"], 2)
        for folder in ("fold1", "fold2"):
            write_tree(tmp_path / folder, CLASSES, 2)
        with pytest.raises(UserError, match="fold1, fold2 hold no images themselves"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("inside", ["", "train"])
    def test_another_set_beside_classes(self, tmp_path, inside):
        write_tree(tmp_path / inside, CLASSES, 2)
        write_tree(tmp_path / inside / "masks", CLASSES, 2, start=10)
        if inside:
            write_tree(tmp_path / "test", [*CLASSES, "masks"], 2, start=20)
        with pytest.raises(UserError, match=r"masks: holds no images itself but folders that are called like those"):
            fetch_own(f"folder:{tmp_path}", test_share=None if inside else 0.5)

    def test_accents_do_not_hide_it(self, tmp_path):
        write_tree(tmp_path / "fold1", [NFC, "tee"], 2)
        write_tree(tmp_path / "fold2", [NFD, "tee"], 2)
        with pytest.raises(UserError, match=rf"\({NFC}, tee\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_the_work_grows_with_the_number_of_classes(self, tmp_path, monkeypatch):
        """And not with its square: there may be 20 thousand."""
        composed = []
        monkeypatch.setattr(folders, "composed", lambda name: composed.append(name) or name)
        for number in range(50):
            (tmp_path / f"class{number}").mkdir()
            (tmp_path / f"class{number}/image.png").touch()
        folders.check_no_splits(folders.visible_folders(tmp_path), tmp_path)
        assert len(composed) <= 2 * 50

    def test_inside_splits(self, tmp_path):
        for start, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=r"train: a, b hold no images themselves"):
            fetch_own(f"folder:{tmp_path}")

    def test_inside_a_known_set(self, tmp_path):
        for start, folder in enumerate(("train/a", "train/b", "val/a", "val/b")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=r"train: a, b hold no images themselves"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    def test_classes_that_are_split(self, tmp_path):
        for number, folder in enumerate(CLASSES):
            write_tree(tmp_path / folder, ["train", "test"], 2, start=10 * number)
        for test_share in (0.5, None):
            with pytest.raises(UserError, match="cat, dog hold no images themselves"):
                fetch_own(f"folder:{tmp_path}", test_share=test_share)

    @pytest.mark.parametrize("inside", ["", "data/", "train/"])
    @pytest.mark.parametrize("test", ["test", "Val"])
    @pytest.mark.parametrize("own", [True, False])
    def test_one_class_that_is_split(self, tmp_path, inside, test, own):
        root = tmp_path / "train" if inside == "train/" else tmp_path
        write_tree(root, ["dog", *["cat"] * own], 4)
        holder = root / f"cat/{inside.removeprefix('train/')}"
        write_tree(holder, ["train", test], 2, start=10)
        if inside == "train/":
            write_tree(tmp_path / "test", CLASSES, 2, start=20)
        with pytest.raises(
            UserError, match=rf"{holder}: holds the folders train and {test}, so this class seems to be"
        ):
            fetch_own(f"folder:{tmp_path}", test_share=None if inside == "train/" else 0.5)

    @pytest.mark.parametrize(("cat", "dog"), [
        (["persian", "siamese"], ["poodle"]), (["persian", "other"], ["poodle", "other"]), (["images"], ["images"]),
        (["a", "b"], []),
    ])  # fmt: skip
    def test_classes_may_have_folders(self, tmp_path, cat, dog):
        for start, (name, inside) in enumerate((("cat", cat), ("dog", dog))):
            write_tree(tmp_path / name, inside, 2, start=10 * start)
            if not inside:
                write_tree(tmp_path, [name], 2, start=20)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == CLASSES

    def test_classes_may_have_several_names_of_splits(self, tmp_path, capsys):
        write_tree(tmp_path, ["bird", "dev", "test", "testing", "valid"], 4)
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.5).classes) == 5
        assert capsys.readouterr().err.count("is taken for a class, though it is called like a split") == 4

    def test_a_class_called_like_the_training_split(self, tmp_path, capsys):
        write_tree(tmp_path, ["bus", "train"], 4)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == ["bus", "train"]
        assert "train: is taken for a class, though it is called like a split" in capsys.readouterr().err

    @pytest.mark.parametrize("name", [
        "test_images", "val2017", "samples", "BACKGROUND_Google", "extra", "unsorted", "Thumbnails",
        "extra-images",
    ])  # fmt: skip
    @pytest.mark.parametrize("inside", ["", "train"])
    def test_called_like_no_class(self, tmp_path, name, inside, capsys):
        write_tree(tmp_path / inside, [*CLASSES, name], 4)
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.5).classes) == 3
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(f"{tmp_path / inside / name}: is taken for a class, though it is called like ")
        assert said.endswith("; move it away if it is none\n")

    @pytest.mark.parametrize("name", ["background", "sampler", "other", "extravagant", "temple", "new", "valley"])
    def test_called_like_a_class(self, tmp_path, name, capsys):
        write_tree(tmp_path, [*CLASSES, name], 4)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("name", ["samples", "unlabeled"])
    def test_called_like_no_class_in_splits(self, tmp_path, name, capsys):
        for start, split in enumerate(("train", "test")):
            write_tree(tmp_path / split, [*CLASSES, name], 2, start=10 * start)
        assert len(fetch_own(f"folder:{tmp_path}").classes) == 3
        assert f"{tmp_path / 'train' / name}: is taken for a class, though" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["nan", "None", "-1"])
    def test_called_like_a_missing_label(self, tmp_path, name, capsys):
        write_tree(tmp_path, [*CLASSES, name], 2)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert f"'{name}' became a class; is the label missing there?" in capsys.readouterr().err

    @pytest.mark.parametrize(("names", "said"), [
        (["cats", "cats_test", "dogs", "dogs_test"], ["cats and cats_test", "dogs and dogs_test"]),
        (["cats", "dogs", "test_cats"], ["cats and test_cats"]), (["x_train", "x_test"], ["x_train and x_test"]),
        (["asl_alphabet_train/asl_alphabet_train", "asl_alphabet_test/asl_alphabet_test"],
         ["asl_alphabet_train and asl_alphabet_test"]),
        (["cat (train)", "cat (test)"], ["cat (train) and cat (test)"]),
        (["crash_test", "cat"], []), (["contest", "con", "latest", "la"], []),
    ])  # fmt: skip
    def test_called_like_training_and_test_of_one_class(self, tmp_path, names, said, capsys):
        for start, name in enumerate(names):
            write_tree((tmp_path / name).parent, [name.split("/")[-1]], 3, start=10 * start)
        fetch_own(f"folder:{tmp_path}", test_share=0.3)
        lines = [line for line in capsys.readouterr().err.splitlines() if "like the training and test images" in line]
        assert len(lines) == len(said)
        for line, both in zip(lines, said, strict=True):
            assert line.startswith(f"{tmp_path}: {both} are taken for classes")

    @pytest.mark.parametrize("names", [
        ["trainA", "trainB", "testA", "testB"], ["trainCats", "trainDogs", "testCats", "testDogs"],
        ["catsTrain", "dogsTrain", "catsVal", "dogsVal"], ["cat.train", "cat.test", "dog.train", "dog.test"],
        ["cat (train)", "dog (train)", "cat (test)", "dog (test)"],
    ])  # fmt: skip
    def test_called_after_a_split_and_a_class_in_capitals(self, tmp_path, names):
        for start, name in enumerate(names):
            write_tree(tmp_path, [name], 3, start=10 * start)
        with pytest.raises(UserError, match="which are called after a split and a class each"):
            fetch_own(f"folder:{tmp_path}", test_share=0.3)

    @pytest.mark.parametrize("inside", ["cat", "Cat", "data/cat", "cat/2019", "birds/../cat"])
    def test_a_folder_called_like_a_class_beside(self, tmp_path, inside):
        write_tree(tmp_path, CLASSES, 4)
        path = tmp_path / "new" / inside
        write_tree(path.parent, [path.name], 2, start=10)
        with pytest.raises(UserError, match=r"new: holds no images itself but folders that are called like .* \(cat\)"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("names", [["0", "1", "2"], ["00", "01", "02"]])
    def test_folders_of_numbered_subjects_in_numbered_classes(self, tmp_path, names):
        """Whoever moved them into the folders of the same names beside would mix the classes."""
        for start, name in enumerate(names):
            write_tree(tmp_path / name, names, 2, start=10 * start)
        with pytest.raises(UserError, match="or, if they are classes, put their images into them, without"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_images_beside_folders_of_the_same_names(self, tmp_path, capsys):
        for start, name in enumerate(CLASSES):
            write_tree(tmp_path, [name], 2, start=10 * start)
            write_tree(tmp_path / name, ["2019", "2020"], 2, start=10 * start + 5)
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.5).train.labels) == 6
        said = capsys.readouterr().err
        assert f"4 folders with images lie beside images of a class, such as {tmp_path / 'cat/2019'}; their" in said

    @pytest.mark.parametrize(("names", "message"), [
        (["test", "animals"], "holds test, with folders of its own, beside animals; is it a split or a class"),
        (["training", "extra"], "holds training, with folders of its own, beside extra; is it a split or a class"),
        (["images"], "holds one folder, images, with folders and no images; name that one"),
    ])  # fmt: skip
    def test_what_holds_the_classes(self, tmp_path, names, message):
        for number, folder in enumerate(names):
            write_tree(tmp_path / folder, [f"{name}{number}" for name in CLASSES], 2, start=10 * number)
        with pytest.raises(UserError, match=message):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_several_further_down(self, tmp_path):
        for start, folder in enumerate(("a/train", "a/test", "b/train", "b/test")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=r"but .*/a and .*/b have; name one of them in data.source"):
            fetch_own(f"folder:{tmp_path}")

    @pytest.mark.parametrize(("test_share", "message"), [
        (None, "has no folders train and test or val .*, but .*/images has; name that in data.source"),
        (0.5, r"images is split already; name it in data\.source, and remove test_share"),
    ])  # fmt: skip
    def test_splits_further_down(self, tmp_path, test_share, message):
        for start, folder in enumerate(("images/train", "images/test")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        with pytest.raises(UserError, match=message):
            fetch_own(f"folder:{tmp_path}", test_share=test_share)

    def test_images_of_no_class_are_said(self, tmp_path, capsys):
        write_tree(tmp_path, CLASSES, 2)
        for number in range(3):
            (tmp_path / f"{number}.jpg").write_bytes(encoded(5, number))
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert capsys.readouterr().err == f"{tmp_path}: 3 images left out, for they lie in no class's folder\n"


@pytest.mark.parametrize("packed", ["eel.tar", "eel.zip", "eel.tar.gz", "eel.npy"])
@pytest.mark.parametrize("inside", ["", "train"])
def test_classes_in_archives_are_said(tmp_path, packed, inside, capsys):
    write_tree(tmp_path / inside, CLASSES, 2)
    for name in (packed, "readme.txt"):
        (tmp_path / inside / name).write_bytes(b"x")
    assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == CLASSES
    said = f"{tmp_path / inside}: '{packed}' left out, for a class is a folder; unpack what holds images of a class\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found"])
def test_folders_of_systems(tmp_path, name, capsys):
    for inside in (".", "cat", "cat/deep"):
        write_tree(tmp_path / inside, CLASSES if inside == "." else ["x"], 2)
        write_tree(tmp_path / inside, [name], 3, start=50)
    dataset = fetch_own(f"folder:{tmp_path}", test_share=0.1)
    assert (dataset.classes, len(dataset.train.labels) + len(dataset.test.labels)) == (CLASSES, 8)


class TestAccents:
    def test_one_class_in_two_forms(self, tmp_path):
        write_tree(tmp_path / "train", [NFC, "tee"], 2)
        write_tree(tmp_path / "test", [NFD, "tee"], 2, start=10)
        assert fetch_own(f"folder:{tmp_path}").classes == [NFC, "tee"]

    def test_the_order_of_classes_and_files(self, tmp_path):
        """Decomposed, é sorts before f; composed, behind z."""
        paths = []
        for form in (NFC, NFD):
            folder = tmp_path / f"form {len(form)}"
            write_tree(folder, [form, "cafz", "cafe"], 4)
            for number, name in enumerate((f"{form}.jpg", "cafz.jpg")):
                (folder / "cafe" / name).write_bytes(encoded(0, 50 + number))
            dataset = fetch_own(f"folder:{folder}", test_share=0.2, augmentation="random_resized_crop")
            assert dataset.classes == ["cafe", "cafz", NFC]
            paths.append([splits.composed(path) for path in dataset.train.table["path"].to_pylist()])
        assert paths[0] == paths[1]
        assert paths[0].index("cafe/cafz.jpg") < paths[0].index(f"cafe/{NFC}.jpg")

    def test_two_folders(self, tmp_path):
        write_tree(tmp_path, [NFC, NFD], 2)
        if len(os.listdir(tmp_path)) == 1:
            pytest.skip("this file system knows one form only")
        with pytest.raises(UserError, match=f"two folders are called {NFC}, with accents written in two ways"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)


class TestApart:
    """Training and test."""

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_a_link_to_the_same_folder(self, tmp_path, augmentation):
        write_tree(tmp_path / "train", CLASSES, 2)
        (tmp_path / "test").symlink_to("train")
        with pytest.raises(UserError, match=r"cat_0\.jpg: is the training image .*4 of 4 test images are files of the"):
            fetch_own(f"folder:{tmp_path}", augmentation=augmentation)

    def test_one_link(self, tmp_path):
        write_tree(tmp_path / "train", CLASSES, 2)
        write_tree(tmp_path / "test", CLASSES, 2, start=10)
        (tmp_path / "test/dog/more.jpg").symlink_to(tmp_path / "train/dog/dog_1.jpg")
        with pytest.raises(UserError, match=r"more\.jpg: is the training image .*dog_1\.jpg; 1 of 5 test images"):
            fetch_own(f"folder:{tmp_path}")

    @pytest.mark.parametrize("read", [
        lambda folder: imagenet.fetch(source=str(folder), subset=True), lambda folder: fetch_own(f"folder:{folder}")
    ])  # fmt: skip
    def test_one_image_in_two_classes(self, tmp_path, read):
        for start, folder in enumerate(("train", "val")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        (tmp_path / "train/dog/more").symlink_to(tmp_path / "train/cat")
        with pytest.raises(
            UserError, match=r"more/cat_0\.jpg: is the image .*/cat_0\.jpg of another class.*; 2 images"
        ):
            read(tmp_path)

    def test_known_sets_too(self, tmp_path):
        write_tree(tmp_path / "train", CLASSES, 2)
        (tmp_path / "val").symlink_to("train")
        with pytest.raises(UserError, match="4 of 4 test images are files of the training images"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    def test_copies(self, tmp_path, capsys):
        write_tree(tmp_path / "train", CLASSES, 3)
        write_tree(tmp_path / "test", CLASSES, 3, start=2)
        fetch_own(f"folder:{tmp_path}")
        assert capsys.readouterr().err == (
            f"data.source folder:{tmp_path}: 2 of 6 test images are equal to training images\n"
        )
        write_tree(tmp_path / "copied/train", CLASSES, 3)
        write_tree(tmp_path / "copied/test", CLASSES, 2, start=1)
        with pytest.raises(UserError, match="all 4 test images are training images too"):
            fetch_own(f"folder:{tmp_path}/copied")


def test_a_name_that_is_no_text(tmp_path):
    """An index of files holds text alone; where images are decoded at once, names do not matter."""
    write_tree(tmp_path, CLASSES, 4)
    (tmp_path / "cat/cat_0.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xff.jpg"))
    assert len(fetch_own(f"folder:{tmp_path}", test_share=0.5).train.labels) == 4
    with pytest.raises(UserError, match=r"the name of the file 'cat/\\udcff\.jpg' is not in UTF-8; rename it"):
        fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation="random_resized_crop")


def test_what_is_kept_follows_the_files_behind_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    for start, name in enumerate(("train", "test")):
        write_tree(tmp_path / "disk" / name, CLASSES, 2, start=10 * start)
        (tmp_path / "pets" / name).symlink_to(tmp_path / "disk" / name)
    section = params.data_section(name="mine", source="folder:pets", image_size=16)
    assert len(sources.fetch_once(section).train.labels) == 4
    write_tree(tmp_path / "disk/train", CLASSES, 2, start=50)
    assert len(sources.fetch_once(section).train.labels) == 8


def test_an_image_that_is_a_pointer(tmp_path):
    write_tree(tmp_path, CLASSES, 2)
    (tmp_path / "cat/cat_0.jpg").write_bytes(LFS)
    for augmentation in (None, "random_resized_crop"):
        with pytest.raises(
            UserError, match=r"cat_0\.jpg: is a Git LFS pointer, not the file itself; run 'git lfs pull'"
        ):
            fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation=augmentation)


@pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
def test_a_path_in_the_home_folder(tmp_path, monkeypatch, augmentation):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_tree(tmp_path / "pets", CLASSES, 4)
    dataset = fetch_own("folder:~/pets", test_share=0.5, augmentation=augmentation)
    if isinstance(dataset.train, Encoded):
        assert dataset.train.root == tmp_path / "pets"
    (tmp_path / "stored").mkdir()
    storage.save(dataset, tmp_path / "stored")
    assert len(storage.load(tmp_path / "stored").train.labels) == 4


class TestNormalisation:
    MEAN, STD = (0.5, 0.25, 1.0), (0.5, 0.125, 1.0)

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_of_ones_own(self, tmp_path, augmentation):
        write_tree(tmp_path, CLASSES, 4)
        given = {"mean": list(self.MEAN), "std": list(self.STD)}
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation=augmentation, **given)
        assert (dataset.mean, dataset.std) == (self.MEAN, self.STD)
        (tmp_path / "stored").mkdir()
        storage.save(dataset, tmp_path / "stored")
        assert storage.load(tmp_path / "stored").mean == self.MEAN

    def test_of_a_known_set(self, tmp_path):
        for start, folder in enumerate(("train", "val")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        section = {"name": "imagenet", "subset": True}
        plain = sources.fetch(params.data_section(source=str(tmp_path), **section))
        assert plain.mean == imagenet.MEAN
        given = params.data_section(source=str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3, **section)
        assert (sources.fetch(given).mean, sources.fetch(given).std) == ((0.5,) * 3, (0.5,) * 3)

    def test_embedded(self):
        digits = {"name": "digits", "source": "embedded", "image_size": 16, "train_per_class": 2}
        given = sources.fetch(params.data_section(**digits, mean=[0, 0.5, 1], std=[0.5, 1, 0.25]))
        assert (given.mean, given.std) == ((0, 0.5, 1), (0.5, 1, 0.25))


def test_a_channel_that_is_always_the_same(tmp_path):
    """It has no deviation; a data set may be so, and its user says by what to divide."""
    write_tree(tmp_path, CLASSES, 4)
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            red, green, _ = image.split()
        Image.merge("RGB", (red, green, Image.new("L", image.size, 7))).save(path.with_suffix(".png"))
        path.unlink()
    with pytest.raises(UserError, match=r"blue hardly differ over the training images .* set data\.mean and data\.std"):
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
    assert fetch_own(f"folder:{tmp_path}", test_share=0.5, mean=[0.5] * 3, std=[0.5] * 3).std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("share", "count", "kept"), [(0.07, 100, 7), (0.2, 10, 2), (0.25, 10, 3), (0.001, 4, 1)])
def test_the_share_that_is_kept(tmp_path, share, count, kept):
    """Exactly the share of each class, rounded up: 0.07 times 100 is 7, though computed it is a little more."""
    files = {name: [tmp_path / f"{name}{i:03}" for i in range(count)] for name in CLASSES}
    train, test = _divide(files, share, tmp_path)
    assert [len(paths) for paths in (*train.values(), *test.values())] == [count - kept] * 2 + [kept] * 2
    assert all(sorted(train[name] + test[name]) == files[name] for name in CLASSES)
    assert (train, test) == _divide(files, share, tmp_path)


@pytest.mark.parametrize(("names", "said"), [
    (["Cat", "cat", "dog"], "Cat, cat are different classes, though their names differ in capitals, spaces or leading "
     "zeros alone"),
    (["01", "02", "1"], "01, 1 are different classes, though their names differ in capitals, spaces or leading zeros"),
    (["2", "9", "10"], "classes are counted in alphabetical order, 10, 2, 9 ..., though their names are numbers"),
    (["02", "09", "10"], None),
    (["cat", "dog", "10"], None),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_names_that_may_be_mistaken(tmp_path, names, said, kind, capsys):
    for start, split in enumerate(("train", "test")):
        if kind == "folder":
            write_tree(tmp_path / split, names, 2, start=10 * start)
        else:
            write_parquet(tmp_path / f"{split}.parquet", names, start=10 * start)
    assert fetch_own(f"{kind}:{tmp_path}").classes == sorted(names)
    printed = capsys.readouterr().err
    assert said in printed if said else not printed


@pytest.mark.parametrize("names", [
    ["train_cat", "train_dog", "test_cat", "test_dog"], ["cat-train", "dog-train", "cat-val", "dog-val"],
    ["training set cat", "training set dog", "Test Set cat", "Test Set dog"], ["train_cat", "train_dog", "dev_dog"],
])  # fmt: skip
def test_folders_that_are_called_after_split_and_class(tmp_path, names):
    write_tree(tmp_path, names, 3)
    with pytest.raises(UserError, match="which are called after a split and a class each; move them into folders"):
        fetch_own(f"folder:{tmp_path}", test_share=0.3)


@pytest.mark.parametrize("names", [["test_pass", "test_fail"], ["cat", "train_cat", "test_cat"], ["bus_train", "bus"]])
def test_names_of_splits_in_those_of_classes(tmp_path, names):
    write_tree(tmp_path, names, 3)
    assert fetch_own(f"folder:{tmp_path}", test_share=0.3).classes == sorted(names)


class TestMasks:
    @pytest.mark.parametrize("names", [["images", "masks"], ["img", "gt"], ["Images", "Labels", "Annotations"]])
    def test_as_classes(self, tmp_path, names):
        for start, split in enumerate(("train", "test")):
            write_tree(tmp_path / split, names, 2, start=10 * start)
        with pytest.raises(UserError, match="look like kinds of files and not like classes"):
            fetch_own(f"folder:{tmp_path}")

    def test_in_the_test_alone(self, tmp_path, capsys):
        for start, split in enumerate(("train", "test")):
            write_tree(tmp_path / split, CLASSES, 2, start=10 * start)
        for path in [path for path in (tmp_path / "test").rglob("*") if path.is_file()]:
            path.with_stem(f"{path.stem}_mask").write_bytes(path.read_bytes() + b"x")
        fetch_own(f"folder:{tmp_path}")
        assert "mask" in capsys.readouterr().err

    @pytest.mark.parametrize("names", [["mask", "no_mask"], ["mask", "label"], ["images", "cat"]])
    def test_other_classes(self, tmp_path, names):
        write_tree(tmp_path, names, 4)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == sorted(names)

    @pytest.mark.parametrize(("name", "is_said"), [
        ("masks", True), ("cat_masks", True), ("Ground Truth", True), ("annotations", True), ("gt", True),
        ("mask", False), ("no_mask", False), ("masked", False),
    ])  # fmt: skip
    def test_beside_classes(self, tmp_path, name, is_said, capsys):
        write_tree(tmp_path, [*CLASSES, name], 4)
        fetch_own(f"folder:{tmp_path}", test_share=0.25)
        said = f"data.source {tmp_path}: {name} is taken for a class; move it away if it holds masks\n"
        assert capsys.readouterr().err == said * is_said

    @pytest.mark.parametrize(("ending", "is_said"), [
        ("_mask", True), ("-Mask_1", True), ("_masks", True), ("_gt", True), ("_thumb", True),
        ("_superpixels", True), ("_masked", False), ("_1", False), ("mask_", True), ("GT-", True), ("masked_", False),
    ])  # fmt: skip
    def test_beside_images(self, tmp_path, ending, is_said, capsys):
        write_tree(tmp_path, CLASSES, 4)
        for number in range(4):
            name = f"cat_{number}"
            called = f"{name}{ending}" if ending[0] in "-_" else f"{ending}{name}"
            (tmp_path / f"cat/{called}.png").write_bytes(encoded(5, number, form="PNG"))
        fetch_own(f"folder:{tmp_path}", test_share=0.25)  # an image and its mask may be in different splits
        assert ("4 images are called like masks or previews of others" in capsys.readouterr().err) == is_said

    def test_beside_cropped_images(self, tmp_path, capsys):
        write_tree(tmp_path, ["cat_crop", "dog"], 4)
        for path in [*(tmp_path / "cat_crop").iterdir()]:
            number = path.stem.rpartition("_")[2]
            path.rename(path.with_stem(f"cat_{number}_crop"))
            for kind in ("mask", "depth"):
                other = path.with_stem(f"cat_{number}_{kind}crop")
                other.write_bytes(encoded(len(kind), int(number)))
        fetch_own(f"folder:{tmp_path}", test_share=0.25)
        assert "8 images are called like masks or previews of others" in capsys.readouterr().err


class TestImagesTwice:
    @pytest.mark.parametrize("kind", ["image", "folder"])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_through_links_in_one_class(self, tmp_path, kind, split):
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / folder, CLASSES, 4, start=10 * start)
        folder = tmp_path / split / "cat"
        if kind == "folder":
            write_tree(folder, ["one"], 2, start=50)
            (folder / "two").symlink_to("one")
        else:
            for path in sorted(folder.iterdir())[:2]:
                path.with_name(f"again_{path.name}").symlink_to(path.name)
        with pytest.raises(UserError, match="of the same class, through a link; 2 images would count twice; remove"):
            fetch_own(f"folder:{tmp_path}")

    def test_links_to_a_store(self, tmp_path, capsys):
        """As git-annex and DVC keep equal images; copies would be said, and so are they."""
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / folder, CLASSES, 2, start=10 * start)
        write_tree(tmp_path / ".store", ["cat"], 1, start=50)
        for path in (tmp_path / "train/cat").iterdir():
            path.unlink()
            path.symlink_to("../../.store/cat/cat_50.jpg")
        fetch_own(f"folder:{tmp_path}")
        assert "1 of 4 training images are equal to earlier ones" in capsys.readouterr().err
        for path in ("test/cat/again.jpg", "train/dog/again.jpg"):  # as copies would be said, and so are they
            (tmp_path / path).symlink_to("../../.store/cat/cat_50.jpg")
        fetch_own(f"folder:{tmp_path}")
        said = capsys.readouterr().err
        assert "1 of 5 test images are equal to training images" in said
        assert "1 of 5 training images are equal to one of another class" in said

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    @pytest.mark.parametrize(("copied", "message"), [
        (4, "all 4 test images are training images too"), (3, "3 of 4 test images are training images too"), (1, None),
    ])  # fmt: skip
    def test_a_copy_of_the_training_images(self, tmp_path, copied, message, augmentation, capsys):
        write_tree(tmp_path / "train", CLASSES, 4)
        write_tree(tmp_path / "test", CLASSES, 2, start=50)
        others = sorted((tmp_path / "train").rglob("*.jpg"))
        for path, other in zip(sorted((tmp_path / "test").rglob("*.jpg"))[:copied], others, strict=False):
            path.write_bytes(other.read_bytes())
        if message:
            with pytest.raises(UserError, match=message):
                fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
        else:
            fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
            assert "1 of 4 test images are equal to training images\n" in capsys.readouterr().err

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_one_class_twice(self, tmp_path, split, augmentation, capsys):
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / folder, ["bird", "cat", "dog"], 4, start=10 * start)
        for path in sorted((tmp_path / split / "cat").iterdir()):
            path.with_stem(f"{path.stem}_copy").write_bytes(path.read_bytes())
        fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
        which = {"train": "training", "test": "test"}[split]
        assert capsys.readouterr().err == (
            f"data.source folder:{tmp_path}: 4 of 16 {which} images are equal to earlier ones, at least half in 1 of 3 "
            "classes; are two versions of the data set in one place?\n"
        )

    def test_in_two_classes_of_the_test(self, tmp_path, capsys):
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / folder, CLASSES, 4, start=10 * start)
        (tmp_path / "test/dog/cat.jpg").write_bytes((tmp_path / "test/cat/cat_10.jpg").read_bytes())
        (tmp_path / "test/dog/cat_2.jpg").write_bytes((tmp_path / "train/cat/cat_0.jpg").read_bytes())
        fetch_own(f"folder:{tmp_path}")
        said = capsys.readouterr().err
        assert "1 of 10 test images are equal to one of another class" in said
        assert "1 of 10 test images are equal to training images, 1 of them of another class" in said

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_one_test_image_all_over(self, tmp_path, augmentation):
        write_tree(tmp_path / "train", CLASSES, 4)
        write_tree(tmp_path / "test", CLASSES, 2)
        for path in (tmp_path / "test").rglob("*.jpg"):
            path.write_bytes(encoded(0, 50))
        with pytest.raises(UserError, match="all 4 test images are one and the same, so they carry nothing"):
            fetch_own(f"folder:{tmp_path}", augmentation=augmentation)

    def test_files_that_differ_outside_of_the_piece(self, tmp_path, monkeypatch):
        monkeypatch.setattr(contents, "PIECE", 2)
        for name, content in {"a": b"1234567", "b": b"0234567", "c": b"0234567", "d": b"123"}.items():
            (tmp_path / name).write_bytes(content)
        (a, b), (c, d) = contents.keys_of([tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"])
        assert (b == c, len({a, b, c, d})) == (True, 3)

    def test_of_a_known_set(self, tmp_path):
        for folder in ("train", "val"):
            write_tree(tmp_path / folder, CLASSES, 2)
        with pytest.raises(UserError, match="all 4 test images are training images too"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_a_few(self, tmp_path, augmentation, capsys):
        """As where one part of several was fetched in place of another."""
        for start, folder in enumerate(("train", "test")):
            write_tree(tmp_path / folder, CLASSES, 4, start=10 * start)
        (tmp_path / "train/cat/again.jpg").write_bytes((tmp_path / "train/cat/cat_0.jpg").read_bytes())
        fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
        assert capsys.readouterr().err == (
            f"data.source folder:{tmp_path}: 1 of 9 training images are equal to earlier ones\n"
        )

    def test_in_two_formats(self, tmp_path, capsys):
        """Copies, or masks as in Pascal VOC: pixels differ, but not names."""
        write_tree(tmp_path, CLASSES, 4)
        for number in range(3):
            picture(0, number).save(tmp_path / f"cat/cat_{number}.png")
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        said = capsys.readouterr().err
        assert f"3 images have the names of others with another suffix, such as {tmp_path}/cat/cat_" in said
