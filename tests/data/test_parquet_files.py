"""Which parquet files a split consists of, and what they must have in common."""

import errno
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from kdcore.data.sources import cifar100, parquet
from kdcore.system.errors import UserError
from tests.data.own_sets import fetch_own, write_parquet
from tests.pictures import encoded

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


def write(folder, *names):
    """Files of 2 images each, no image twice."""
    for number, name in enumerate(names):
        write_parquet(folder / (name if name.endswith("PARQUET") else f"{name}.parquet"), start=10 * number)


def count(folder, **changes):
    dataset = fetch_own(f"parquet:{folder}", **changes)
    return len(dataset.train.labels), len(dataset.test.labels)


class TestWhole:
    @pytest.mark.parametrize(("names", "missing"), [
        (["train-00000-of-00002"], "train-00001-of-00002.parquet"),
        (["train-00001-of-00002"], "train-00000-of-00002.parquet"),
        (["train-00000-of-00003-a1b2", "train-00002-of-00003-a1b2"], "train-00001-of-00003-a1b2.parquet"),
        (["train-1-of-3", "train-3-of-3"], "train-2-of-3.parquet"),
        (["train-0", "train-2"], "train-1.parquet"),
        (["train-00001", "train-00003"], "train-00002.parquet"),
        (["train/0000", "train/0002"], "0001.parquet"),
        (["train/0003"], "0000.parquet, 0001.parquet, 0002.parquet"),
        (["train/part-00000-x.snappy", "train/part-00002-x.snappy"], "part-00001-x.snappy.parquet"),
        (["train-3"], "train-0.parquet, train-1.parquet, train-2.parquet"), (["train.part2"], "train.part0.parquet"),
        (["train/9"], "0.parquet, 1.parquet"), (["train-999"], "train-000.parquet"),
        (["train-00000-OF-00002"], "train-00001-OF-00002.parquet"), (["train-0_of_2"], "train-1_of_2.parquet"),
        (["train-0of2"], "train-1of2.parquet"), (["train.part0of3", "train.part1of3"], "train.part2of3.parquet"),
        (["data/train-00000-of-00009"], "train-00005-of-00009.parquet \\.\\.\\.; get the missing ones"),
    ])  # fmt: skip
    def test_a_part_is_missing(self, tmp_path, names, missing):
        write(tmp_path, *names, f"{names[0].split('train')[0]}test-0")
        with pytest.raises(UserError, match=rf"of \d+ parts, without .*{missing}"):
            fetch_own(f"parquet:{tmp_path}")

    def test_the_same_name_in_capitals(self, tmp_path):
        write(tmp_path, "train", "train.PARQUET", "test")
        with pytest.raises(UserError, match=r"train\.\w+ and train\.\w+ are the same part; move one away"):
            fetch_own(f"parquet:{tmp_path}")

    def test_of_the_test(self, tmp_path):
        write(tmp_path, "train-00000-of-00001", "test-00000-of-00002")
        with pytest.raises(UserError, match=r"holds 1 of 2 parts, without test-00001-of-00002\.parquet; get"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("names", [
        ["train-00000-of-00002", "train-00001-of-00002"], ["train-1-of-2", "train-2-of-2"], ["train-0", "train-1"],
        ["train-00000-of-00002-a1b2", "train-00001-of-00002-a1b2"], ["train.0", "train.1"], ["train-1", "train-2"],
        ["train/0000", "train/0001"], ["train/part-00000-x.snappy", "train/part-00001-x.snappy"],
        ["train.parquet/part.0", "train.parquet/part.1"], ["train/train-00000-of-00002", "train/train-00001-of-00002"],
        ["Train-0", "Train-1"], ["training-0", "training-1"], ["train-0", "train-1.PARQUET"],
    ])  # fmt: skip
    def test_all_are_there(self, tmp_path, names, capsys):
        write(tmp_path, *names, "test")
        assert count(tmp_path) == (4, 2)
        assert capsys.readouterr().err == ""

    def test_each_part_has_a_fingerprint(self, tmp_path):
        """As the hubs once wrote them."""
        one, two = "-6c8ad2b2a2b0a2f0", "-d41d8cd98f00b204"
        write(tmp_path, f"train-00000-of-00002{one}", f"test-00000-of-00001{two}")
        with pytest.raises(UserError, match=r"without train-00001-of-00002-\*\.parquet"):
            fetch_own(f"parquet:{tmp_path}")
        write_parquet(tmp_path / f"train-00001-of-00002{two}.parquet", start=50)
        assert count(tmp_path) == (4, 2)
        write(tmp_path, f"train-00001-of-00002{one}")
        with pytest.raises(UserError, match="are the same part; move one away"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("name", ["train", "train-2017", "train-0", "train-clean", "train.v2", "train/images"])
    def test_a_single_file(self, tmp_path, name):
        write(tmp_path, name, "test")
        assert count(tmp_path) == (2, 2)

    @pytest.mark.parametrize(("names", "missing"), [
        (["train-0", "test-1"], "test-0"), (["train-1", "test-0"], "train-0"),
        (["train-0", "train-1", "test-1"], "test-0"),
    ])  # fmt: skip
    def test_the_other_split_is_counted_from_0(self, tmp_path, names, missing):
        write(tmp_path, *names)
        with pytest.raises(
            UserError, match=rf"-1\.parquet: is alone, and .*-0\.parquet is counted from 0; get {missing}"
        ):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("names", [["train-1", "test-1"], ["train-1", "test"], ["train-0", "test-0"]])
    def test_lone_numbers(self, tmp_path, names):
        write(tmp_path, *names)
        assert count(tmp_path) == (2, 2)

    def test_too_many(self, tmp_path):
        write(tmp_path, "train-0-of-2", "train-1-of-2", "train-2-of-2", "train-5-of-2", "test")
        with pytest.raises(UserError, match=r"train-5-of-2\.parquet is beyond the last of 2 parts"):
            fetch_own(f"parquet:{tmp_path}")

    def test_a_part_twice(self, tmp_path):
        write(tmp_path, "train-0-of-2", "train-00-of-2", "train-1-of-2", "test")
        with pytest.raises(UserError, match=r"train-0-of-2\.parquet.*are the same part"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("name", [
        "train-1.parquet.part", "train-1.parquet.crdownload", "train/x.parquet.gz", "train-1.parquet.filepart",
        "train-1.PARQUET.XZ", "train-1.parquet.part2", "train-1.parquet.tar.gz", "train-0.parquet.aria2",
        "test-1.parquet.tmp-1234",
    ])  # fmt: skip
    def test_an_unfinished_download(self, tmp_path, name):
        write(tmp_path, "train/0" if "/" in name else "train-0", "test")
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(UserError, match=rf"{name}: is an unfinished download, or packed; finish or unpack it"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("name", [
        "train-1.parquet.bak", "train-1.parquet.dvc", "train-1.parquet~", "train-1.parquet (1)", "train/1.parquet.old",
    ])  # fmt: skip
    def test_what_stands_for_a_part(self, tmp_path, name):
        write(tmp_path, "train/0" if "/" in name else "train-0", "test")
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(UserError, match=r"1\.parquet.*: stands for .*1\.parquet, which is not there; get that one"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("name", ["train-0.parquet.bak", "test.parquet.dvc", "train-0.parquet~", "x.parquet.bak"])
    def test_what_stands_beside_a_part(self, tmp_path, name):
        write(tmp_path, "train-0", "test")
        (tmp_path / name).write_bytes(b"PAR1")
        assert count(tmp_path) == (2, 2)

    @pytest.mark.parametrize("name", ["train-1.parq", "train-1.PQ", "test/1.pqt"])
    def test_another_suffix(self, tmp_path, name):
        write(tmp_path, "train-0", "test/0" if "/" in name else "test")
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(UserError, match=rf"{name}: may be a part, but ends in .*; rename it to \.parquet"):
            fetch_own(f"parquet:{tmp_path}")

    def test_another_archive(self, tmp_path):
        write(tmp_path, "train", "test")
        (tmp_path / "pets.parquet.zip").write_bytes(b"PK")
        assert count(tmp_path) == (2, 2)

    def test_a_link_that_leads_nowhere(self, tmp_path):
        """It is a part that would be left out."""
        write(tmp_path, "train-0", "test")
        (tmp_path / "train-1.parquet").symlink_to("gone")
        with pytest.raises(UserError, match=r"train-1\.parquet: is a link to gone, which is missing"):
            fetch_own(f"parquet:{tmp_path}")


class TestOneVersion:
    @pytest.mark.parametrize("names", [
        ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
        ["train", "train-00000-of-00001"],
        ["train", "train-0"],
        ["train-00000-of-00001-a1b2", "train-00000-of-00001-c3d4"],
        ["train-00000-of-00001", "train-00000-of-00001-c3d4"],
        ["train-00000-of-00001", "train-00000-of-00001 (1)"],
        ["train-0", "train-00000-of-00001"],
        ["train-v1", "train-v2"],
        ["train", "train.old"],
        ["train", "training"],
        ["train/0000", "train/data"],
    ])  # fmt: skip
    def test_two_in_one_place(self, tmp_path, names):
        write(tmp_path, *names, "test")
        with pytest.raises(UserError, match="which are not parts of one whole; keep one version") as error:
            fetch_own(f"parquet:{tmp_path}")
        assert f"{names[0].split('/')[-1]}.parquet" in str(error.value)

    @pytest.mark.parametrize("names", [
        ["train", "data/train-00000-of-00001"], ["a/train-0", "b/train-0"], ["train-0", "train/0000"],
        ["data/train-0", "default/train/0000"],
    ])  # fmt: skip
    def test_two_in_several_places(self, tmp_path, names):
        write(tmp_path, *names, "test")
        with pytest.raises(UserError, match=r"has train files in several folders, .*name the one above"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize(("train", "test"), [("a/train-0", "b/test-0"), ("train", "b/test"), ("a/train/0", "test")])
    def test_two_sets(self, tmp_path, train, test):
        write(tmp_path, train, test)
        with pytest.raises(UserError, match=r"training files are in .*, test files in .*; name the folder that holds"):
            fetch_own(f"parquet:{tmp_path}")

    def test_deeper_files(self, tmp_path):
        write(tmp_path, "train/0000", "train/more/0001", "test/0000")
        with pytest.raises(UserError, match=r"train/more/0001\.parquet: lies further down than .*/train, which holds"):
            fetch_own(f"parquet:{tmp_path}")

    def test_a_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        write(tmp_path, "train/0000", "test/0000")
        iterdir = Path.iterdir

        def look(path):
            if path == tmp_path / "train":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return iterdir(path)

        monkeypatch.setattr(Path, "iterdir", look)
        with pytest.raises(UserError, match=r"train: cannot be read \(Permission denied\); see its permissions"):
            fetch_own(f"parquet:{tmp_path}")

    def test_cifar_too(self, tmp_path):
        write(tmp_path, "train-00000-of-00002", "test-00000-of-00001")
        with pytest.raises(UserError, match=r"without train-00001-of-00002\.parquet"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)


class TestNames:
    @pytest.mark.parametrize("other", ["train_extra", "training_notes", "test_old", "trainer", "notes", "valid-0"])
    def test_what_is_of_no_split_is_said(self, tmp_path, other, capsys):
        write(tmp_path, "train-0", "test-0", other)
        assert count(tmp_path) == (2, 2)
        assert capsys.readouterr().err == (
            f"data.source {tmp_path}: left out, for they are of no split that is used: '{other}.parquet'\n"
        )

    def test_what_lies_beside_folders_of_splits_is_said(self, tmp_path, capsys):
        write(tmp_path, "data/train/0", "data/test/0", "data/validation")
        assert count(tmp_path) == (2, 2)
        assert "left out, for they are of no split that is used: 'data/validation.parquet'" in capsys.readouterr().err

    @pytest.mark.parametrize("inside", ["", "default/"])
    @pytest.mark.parametrize("other", ["train_extra", "partial-test", "unsupervised"])
    def test_folders_beside_folders_of_splits_are_said(self, tmp_path, inside, other, capsys):
        write(tmp_path, *(f"{inside}{folder}/0" for folder in ("train", "test", other)))
        assert count(tmp_path) == (2, 2)
        said = f"left out, for they are of no split that is used: '{inside}{other}/0.parquet'\n"
        assert capsys.readouterr().err.endswith(said)

    def test_nothing_else(self, tmp_path):
        write(tmp_path, "train_part1", "train_part2", "test")
        near = r"train_part1\.parquet, train_part2\.parquet: the name of a split ends at - or \.; rename"
        with pytest.raises(UserError, match=rf"has no train-\*\.parquet.*{near}"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "testing", "eval", "dev", "Test"])
    def test_of_the_test(self, tmp_path, test):
        write(tmp_path, "train-0", f"{test}-0")
        assert count(tmp_path) == (2, 2)

    def test_test_comes_before_validation(self, tmp_path, capsys):
        write(tmp_path, "train", "validation")
        write_parquet(tmp_path / "test.parquet", (0, 1, 1), start=50)
        assert count(tmp_path) == (2, 3)
        assert "left out, for they are of no split that is used: 'validation.parquet'" in capsys.readouterr().err

    @pytest.mark.parametrize("hidden", ["train/.0001", "train/._0000", ".train-0"])
    def test_hidden_files(self, tmp_path, hidden):
        write(tmp_path, "train/0000", "test/0000")
        (tmp_path / f"{hidden}.parquet").write_bytes(b"of a Macintosh")
        assert count(tmp_path) == (2, 2)

    @pytest.mark.parametrize("name", ["dev", "train"])
    def test_the_source_may_be_called_after_a_split(self, tmp_path, name):
        write(tmp_path / name, "train-0", "test-0")
        assert count(tmp_path / name) == (2, 2)

    @pytest.mark.parametrize("layout", ["pets/{}-00000-of-00001", "pets/{}/0000", "{}/0000", "data/{}", "{}"])
    def test_layouts(self, tmp_path, layout, capsys):
        write(tmp_path, *(layout.format(split) for split in ("train", "test")))
        assert count(tmp_path) == (2, 2)
        assert capsys.readouterr().err == ""


class TestContents:
    @pytest.mark.parametrize(("first", "second", "message"), [
        ({"label": [0, 1]}, {"fine_label": [0, 1]}, "has labels in column 'fine_label', but .*'label'; set"),
        ({"label": [0, 1]}, {"label": ["cat", "dog"]}, "has labels that are 'text', but .*: 'numbers'; write all"),
        ({"label": [0, 1]}, {"label": [0, 1], "img": [b"x", b"y"]}, "has images in column 'img', but .*'image'; set"),
    ])  # fmt: skip
    def test_parts_of_other_columns(self, tmp_path, first, second, message):
        images = {"image": [encoded(0, 0), encoded(1, 1)]}
        for number, columns in enumerate((first, second)):
            others = {} if "img" in columns else images
            write_parquet(tmp_path / f"train-{number}.parquet", columns=others | columns)
        write(tmp_path, "test")
        with pytest.raises(UserError, match=message):
            fetch_own(f"parquet:{tmp_path}")

    def test_train_and_test_of_other_columns(self, tmp_path):
        write(tmp_path, "train")
        write_parquet(tmp_path / "test.parquet", columns={"image": [encoded(0, 9), encoded(1, 9)], "class": [0, 1]})
        with pytest.raises(UserError, match=r"test\.parquet: takes labels from column 'class', but .*: 'label'; set"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("file", ["train-1", "test"])
    def test_other_names_of_classes(self, tmp_path, file):
        for number, name in enumerate(("train-0", "train-1", "test")):
            names = ["dog", "cat"] if name == file else ["cat", "dog"]
            write_parquet(tmp_path / f"{name}.parquet", start=10 * number, names=names)
        with pytest.raises(
            UserError, match=rf"{file}\.parquet: names the classes \['dog', 'cat'\], but .*'cat', 'dog'"
        ):
            fetch_own(f"parquet:{tmp_path}")

    def test_names_in_the_test_files_alone(self, tmp_path):
        write_parquet(tmp_path / "train.parquet")
        write_parquet(tmp_path / "test.parquet", start=9, names=["cat", "dog"])
        assert fetch_own(f"parquet:{tmp_path}").classes == ["cat", "dog"]

    def test_a_broken_image_is_named_by_its_file(self, tmp_path):
        write(tmp_path, "train-0", "test")
        write_parquet(tmp_path / "train-1.parquet", columns={"image": [encoded(0, 0), b"no image"], "label": [0, 1]})
        table = pyarrow.parquet.read_table(tmp_path / "train-0.parquet")
        images = [image["bytes"] for image in table["image"].to_pylist()]
        write_parquet(tmp_path / "train-0.parquet", columns={"image": images, "label": [0, 1]})
        with pytest.raises(UserError, match=r"image 1 of train-1\.parquet: cannot be decoded"):
            fetch_own(f"parquet:{tmp_path}")

    def test_a_part_without_rows(self, tmp_path, capsys):
        write(tmp_path, "train-0", "test")
        with pyarrow.parquet.ParquetFile(tmp_path / "train-0.parquet") as file:
            pyarrow.parquet.write_table(file.read().slice(0, 0), tmp_path / "train-1.parquet")
        assert count(tmp_path) == (2, 2)
        assert capsys.readouterr().err == f"{tmp_path}/train-1.parquet: holds no rows\n"

    def test_labels_however_accents_are_written(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", ("caf\u00e9", "tee"))
        write_parquet(tmp_path / "test.parquet", ("cafe\u0301", "tee"), start=9)
        assert fetch_own(f"parquet:{tmp_path}").classes == ["caf\u00e9", "tee"]

    def test_labels_that_differ_in_spaces(self, tmp_path):
        for start, name in enumerate(("train", "test")):
            write_parquet(tmp_path / f"{name}.parquet", ("cat", "cat ", "dog"), start=10 * start)
        with pytest.raises(UserError, match="the labels 'cat', 'cat ' differ in spaces alone; write each class in one"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("label", ["nan", "None", "-1", "unlabeled", "No label", "?", "NaT", "undefined"])
    def test_classes_that_look_like_missing_labels(self, tmp_path, label, capsys):
        for start, name in enumerate(("train", "test")):
            write_parquet(tmp_path / f"{name}.parquet", ("cat", label, "dog"), start=10 * start)
        fetch_own(f"parquet:{tmp_path}")
        assert f"'{label}' became a class; is the label missing there?" in capsys.readouterr().err

    @pytest.mark.parametrize("name", [
        "segmentation_mask", "mask_image", "image_mask", "thumbnail", "heatmap", "GradCAM", "depth", "masks",
    ])  # fmt: skip
    def test_a_lone_column_of_other_pictures(self, tmp_path, name):
        for start, split in enumerate(("train", "test")):
            pictures = [encoded(label, 10 * start + label) for label in (0, 1)]
            write_parquet(tmp_path / f"{split}.parquet", columns={name: pictures, "label": [0, 1]})
        with pytest.raises(UserError, match=f"only {name} holds images; set data.image_column"):
            fetch_own(f"parquet:{tmp_path}")
        assert fetch_own(f"parquet:{tmp_path}", image_column=name).classes == ["0", "1"]

    @pytest.mark.parametrize("name", ["photo", "jpg", "segment", "masked_lm", "labelled"])
    def test_a_lone_column_of_another_name(self, tmp_path, name):
        for start, split in enumerate(("train", "test")):
            pictures = [encoded(label, 10 * start + label) for label in (0, 1)]
            write_parquet(tmp_path / f"{split}.parquet", columns={name: pictures, "label": [0, 1]})
        assert fetch_own(f"parquet:{tmp_path}").classes == ["0", "1"]

    @pytest.mark.parametrize("label", ["", " "])
    def test_empty_labels(self, tmp_path, label):
        write_parquet(tmp_path / "train.parquet", ("cat", label, "dog"))
        write(tmp_path, "test")
        with pytest.raises(UserError, match=r"row 1 of train\.parquet has no image or no label; write"):
            fetch_own(f"parquet:{tmp_path}")

    def test_images_of_one_colour_in_a_known_set(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cifar100, "COUNTS", {"train": 100, "test": 100})
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32)).save(buffer, "PNG")
        for split in cifar100.COUNTS:
            columns = {"img": [buffer.getvalue()] * 100, "fine_label": range(100)}
            write_parquet(tmp_path / f"{split}.parquet", columns=columns)
        with pytest.raises(UserError, match=r"all 100 training images are of one colour, \(0, 0, 0\).*; get it anew"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)

    @pytest.mark.parametrize("link", [True, False])
    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_the_same_file_twice(self, tmp_path, link, augmentation):
        write(tmp_path, "train")
        if link:
            (tmp_path / "test.parquet").symlink_to("train.parquet")
        else:
            (tmp_path / "test.parquet").write_bytes((tmp_path / "train.parquet").read_bytes())
        with pytest.raises(UserError, match="all 2 test images are training images too"):
            fetch_own(f"parquet:{tmp_path}", augmentation=augmentation)

    def test_all_images_are_the_same(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", columns={"image": [encoded(0, 0)] * 4, "label": [0, 1, 0, 1]})
        write(tmp_path, "test")
        with pytest.raises(UserError, match="all 4 training images are one and the same, so they carry nothing"):
            fetch_own(f"parquet:{tmp_path}")

    def test_some_images_twice(self, tmp_path, capsys):
        images = [encoded(0, number) for number in (1, 1, 2, 2, 3)]
        write_parquet(tmp_path / "train.parquet", columns={"image": images[:4], "label": [0, 0, 1, 1]})
        write_parquet(tmp_path / "test.parquet", columns={"image": images[3:], "label": [1, 0]})
        assert count(tmp_path) == (4, 2)
        said = capsys.readouterr().err
        assert "1 of 2 test images are equal to training images\n" in said
        assert "2 of 4 training images are equal to earlier ones, at least half in 2 of 2 classes; are two" in said
        assert "another class" not in said

    def test_one_image_in_two_classes(self, tmp_path, capsys):
        images = [encoded(0, number) for number in (1, 2, 1, 3)]
        write_parquet(tmp_path / "train.parquet", columns={"image": images, "label": [0, 0, 1, 1]})
        write(tmp_path, "test")
        fetch_own(f"parquet:{tmp_path}")
        assert "1 of 4 training images are equal to one of another class" in capsys.readouterr().err

    def test_a_pointer(self, tmp_path):
        write(tmp_path, "train")
        (tmp_path / "test.parquet").write_bytes(LFS)
        with pytest.raises(UserError, match=r"test\.parquet: is a Git LFS pointer, not the file itself; run 'git lfs"):
            fetch_own(f"parquet:{tmp_path}")

    def test_an_image_that_is_a_pointer(self, tmp_path):
        write(tmp_path, "train")
        write_parquet(tmp_path / "test.parquet", columns={"image": [LFS, encoded(1, 1)], "label": [0, 1]})
        with pytest.raises(UserError, match=r"image 0 of test\.parquet: is a Git LFS pointer, not"):
            fetch_own(f"parquet:{tmp_path}")

    def test_the_archive_is_a_pointer(self, tmp_path):
        (tmp_path / "cifar.tar.gz").write_bytes(LFS)
        with pytest.raises(UserError, match=r"data\.source .*cifar\.tar\.gz: is a Git LFS pointer, not the file"):
            cifar100.fetch(source=str(tmp_path / "cifar.tar.gz"), train_per_class=None)


class TestColumns:
    @pytest.fixture
    def folder(self, tmp_path):
        for split, start in (("train", 0), ("test", 9)):
            images = [encoded(label, start + label) for label in (0, 1)]
            thumbnails = [encoded(label, start + label, (8, 8)) for label in (0, 1)]
            columns = {"photo": images, "small": thumbnails, "fine_label": [0, 1], "class": [1, 0], "kind": ["b", "a"]}
            write_parquet(tmp_path / f"{split}.parquet", columns=columns)
        return tmp_path

    def test_are_named(self, folder):
        dataset = fetch_own(f"parquet:{folder}", image_column="small", label_column="kind", image_size=8)
        assert (dataset.classes, dataset.train.labels.tolist()) == (["a", "b"], [1, 0])
        other = fetch_own(f"parquet:{folder}", image_column="photo", label_column="class", image_size=8)
        assert other.train.labels.tolist() == [1, 0]
        assert (other.train.images != dataset.train.images).any()

    @pytest.mark.parametrize(("columns", "message"), [
        ({}, "Set data.image_column and data.label_column to name them"),
        ({"image_column": "photo"}, "labels may be in fine_label or class: set data.label_column to one of them"),
        ({"label_column": "kind"}, "expected one of images"),
        ({"image_column": "photos", "label_column": "kind"}, r"data\.image_column names 'photos', and must name one of "
                                                             r"them\. Did you mean photo\?"),
        ({"image_column": "photo", "label_column": "label"}, "data.label_column names 'label', and must name one"),
        ({"image_column": "class", "label_column": "kind"}, "column class is of type int64; images are binary"),
    ])  # fmt: skip
    def test_are_unclear(self, folder, columns, message):
        with pytest.raises(UserError, match=message):
            fetch_own(f"parquet:{folder}", **columns)

    def test_in_capitals(self, tmp_path):
        """`class` alone would be taken, and `Label` left out in silence."""
        write_parquet(tmp_path / "train.parquet", columns={"image": [encoded(0, 0)], "Label": [0], "class": [1]})
        with pytest.raises(UserError, match=r"labels may be in Label or class: set data\.label_column to one of them"):
            fetch_own(f"parquet:{tmp_path}")

    def test_of_a_known_set(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cifar100, "COUNTS", {"train": 100, "test": 100})
        for split in cifar100.COUNTS:
            images = [encoded(0, 0, (32, 32))] * 100
            write_parquet(tmp_path / f"{split}.parquet", columns={"x": images, "y": range(100), "label": [0] * 100})
        dataset = cifar100.fetch(source=str(tmp_path), train_per_class=None, image_column="x", label_column="y")
        assert dataset.train.labels.tolist() == list(range(100))
        with pytest.raises(UserError, match=r"is not of parquet files; remove data\.image_column and label_column"):
            cifar100.fetch(source="download", train_per_class=None, image_column="x")


class TestPaths:
    """Images of which the files hold paths, and no bytes."""

    def write(self, folder, split, images):
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns = {"image": pa.array(images, kind), "label": [0, 1]}
        write_parquet(folder / f"{split}.parquet", columns=columns)

    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(4):
            (tmp_path / "images" / f"{number}.jpg").parent.mkdir(exist_ok=True)
            (tmp_path / "images" / f"{number}.jpg").write_bytes(encoded(number, number))
        self.write(tmp_path / "data", "train", [{"bytes": None, "path": f"images/{number}.jpg"} for number in (0, 1)])
        self.write(tmp_path / "data", "test", [{"bytes": encoded(2, 2), "path": "a"}, {"path": "images/3.jpg"}])
        return tmp_path

    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_below_the_source(self, folder, augmentation):
        dataset = fetch_own(f"parquet:{folder}", augmentation=augmentation)
        assert (len(dataset.train.labels), len(dataset.test.labels)) == (2, 2)

    def test_same_pixels_as_with_bytes(self, folder):
        found = fetch_own(f"parquet:{folder}").train.images
        self.write(folder / "data", "train", [{"bytes": encoded(number, number)} for number in (0, 1)])
        assert (fetch_own(f"parquet:{folder}").train.images == found).all()

    def test_a_column_of_paths(self, folder):
        columns = {"file": ["images/0.jpg", "images/1.jpg"], "label": [0, 1]}
        write_parquet(folder / "data/train.parquet", columns=columns)
        write_parquet(folder / "data/test.parquet", columns=columns | {"file": ["images/2.jpg", "images/3.jpg"]})
        assert len(fetch_own(f"parquet:{folder}", image_column="file").train.labels) == 2

    @pytest.mark.parametrize(("path", "message"), [
        ("gone.jpg", "has no bytes of an image but its path, 'gone.jpg', and there is no such file below"),
        ("../images/0.jpg", "has no bytes of an image but its path, '../images/0.jpg', which is not below"),
        ("x" * 5000, "and there is no such file below"),
        ("/etc/passwd", "has no bytes of an image but its path, '/etc/passwd', which is not below"),
    ])  # fmt: skip
    def test_elsewhere(self, folder, path, message):
        self.write(folder / "data", "train", [{"path": path}, {"path": "images/1.jpg"}])
        with pytest.raises(UserError, match=message):
            fetch_own(f"parquet:{folder}")

    def test_too_many_for_memory(self, folder, monkeypatch):
        monkeypatch.setattr(parquet, "LARGEST", 3000)
        with pytest.raises(UserError, match=r"train\.parquet: stands for more than 3,000 bytes of images, too many"):
            fetch_own(f"parquet:{folder}")

    def test_without_any_bytes(self, folder):
        """All are missing, so that the field has no type."""
        for split, numbers in (("train", (0, 1)), ("test", (2, 3))):
            images = [{"bytes": None, "path": f"images/{number}.jpg"} for number in numbers]
            write_parquet(folder / f"data/{split}.parquet", columns={"image": images, "label": [0, 1]})
        assert len(fetch_own(f"parquet:{folder}").train.labels) == 2


@pytest.mark.parametrize("label", [pa.array([-1]), *(pa.nulls(1, kind) for kind in (pa.int64(), pa.string(), None))])
def test_a_test_split_whose_classes_are_secret(tmp_path, label, capsys):
    write(tmp_path, "train", "validation")
    write_parquet(tmp_path / "test.parquet", columns={"image": [encoded(0, 50)], "label": label})
    assert count(tmp_path) == (2, 2)
    assert "left out, for they are of no split that is used: 'test.parquet'" in capsys.readouterr().err
    (tmp_path / "validation.parquet").unlink()
    with pytest.raises(UserError, match=r"has no labels \(-1 or nothing everywhere\)"):
        count(tmp_path)
