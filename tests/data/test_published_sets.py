"""ImageNet, CUB-200 and Tiny-ImageNet in their real layouts, and data sets of one's own."""

import errno
import io
import json
import os
import pickle
import shutil
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from kdcore.data import images as picture_file
from kdcore.data import storage
from kdcore.data.dataset import Encoded
from kdcore.data.feed import Feed
from kdcore.data.sources import cifar100, cub200, folders, imagenet, own, parquet, tiny_imagenet
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from tests.pictures import encoded, picture, write_tree
from tests.server import serving

CPU = torch.device("cpu")
WNIDS = ["n01440764", "n01443537", "n01484850"]


def write_imagenet(root, train=4, val=2):
    write_tree(root / "train", WNIDS, train, size=(96, 80), suffix=".JPEG")
    write_tree(root / "val", WNIDS, val, size=(96, 80), suffix=".JPEG", start=100)
    return root


def write_cub(root, classes=3, count=4):
    folder = root / "CUB_200_2011"
    names = [f"{i + 1:03}.Bird_{i}" for i in range(classes)]
    write_tree(folder / "images", names, count, size=(60, 50))
    files = [(label, f"{name}/{name}_{number}.jpg") for label, name in enumerate(names) for number in range(count)]
    lists = {
        "classes.txt": [f"{i + 1} {name}" for i, name in enumerate(names)],
        "images.txt": [f"{i + 1} {path}" for i, (_, path) in enumerate(files)],
        "image_class_labels.txt": [f"{i + 1} {label + 1}" for i, (label, _) in enumerate(files)],
        "train_test_split.txt": [f"{i + 1} {int(i % count < count - 1)}" for i in range(len(files))],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def write_tiny(root, count=4):
    folder = root / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        write_tree(folder / "train" / wnid, ["images"], count, size=(64, 64), suffix=".JPEG")
        for number, path in enumerate(sorted((folder / "train" / wnid / "images").iterdir())):
            path.write_bytes(encoded(label, number, (64, 64)))
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(6):
        (folder / "val" / "images" / f"val_{number}.JPEG").write_bytes(encoded(number % 3, 50 + number, (64, 64)))
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t0\t9\t9")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "test" / "images").mkdir(parents=True)
    return folder


class TestImagenet:
    def test_index(self, tmp_path):
        dataset = imagenet.fetch(source=str(write_imagenet(tmp_path)), subset=True)
        assert dataset.classes == WNIDS
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert dataset.train.table["path"][4].as_py() == f"train/{WNIDS[1]}/{WNIDS[1]}_0.JPEG"
        assert (dataset.image_size, dataset.stem, len(dataset.test.labels)) == (224, "large", 6)
        (views,) = next(Feed(dataset, CPU).batches(12, views=1, seed=0, epoch=1)).views
        assert views.shape == (12, 3, 224, 224)

    def test_a_subset_is_looked_at_as_own_data_are(self, tmp_path, capsys):
        for start, split in enumerate(("train", "val")):
            for name in ("1", "2", "10"):
                write_tree(tmp_path / split / name, [f"{name}a", f"{name}b"], 2, size=(96, 80), start=10 * start)
        imagenet.fetch(source=str(tmp_path), subset=True)
        said = capsys.readouterr().err
        assert "3 of 3 classes (1, 10, 2) hold no images of their own but several folders" in said
        assert "classes are counted in alphabetical order, 1, 10, 2" in said

    def test_only_the_whole(self, tmp_path):
        with pytest.raises(UserError, match=r"train holds 12 images in 3 classes, ImageNet 1281167 in 1000.*subset"):
            imagenet.fetch(source=str(write_imagenet(tmp_path)), subset=False)

    def test_whole(self, tmp_path, monkeypatch):
        monkeypatch.setattr(imagenet, "CLASSES", 3)
        monkeypatch.setattr(imagenet, "COUNTS", {"train": 12, "val": 6})
        assert imagenet.fetch(source=str(write_imagenet(tmp_path)), subset=False).classes == WNIDS

    def test_flat_validation_images(self, tmp_path):
        write_tree(tmp_path / "train", WNIDS, 1)
        write_tree(tmp_path, ["val"], 2)
        with pytest.raises(UserError, match="val: holds no folders; expected one folder of images per class"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    def test_without_validation(self, tmp_path):
        write_tree(tmp_path / "train", WNIDS, 1)
        with pytest.raises(UserError, match=r"has no folder val\. Get ImageNet .* from image-net\.org"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    def test_a_class_without_images_or_counterpart(self, tmp_path):
        write_imagenet(tmp_path)
        (tmp_path / "val" / "n99999999").mkdir()
        with pytest.raises(UserError, match="n99999999: holds no images"):
            imagenet.fetch(source=str(tmp_path), subset=True)
        write_tree(tmp_path / "val", ["n99999999"], 1)
        with pytest.raises(UserError, match=r"in one of them alone: \['n99999999'\]"):
            imagenet.fetch(source=str(tmp_path), subset=True)

    def test_one_class(self, tmp_path):
        write_tree(tmp_path / "train", WNIDS[:1], 1)
        write_tree(tmp_path / "val", WNIDS[:1], 1)
        with pytest.raises(UserError, match="holds one class, n01440764; at least two are needed"):
            imagenet.fetch(source=str(tmp_path), subset=True)


class TestCub200:
    def test_lists_decide(self, tmp_path):
        folder = write_cub(tmp_path)
        for source in (tmp_path, folder):
            dataset = cub200.fetch(source=str(source), subset=True)
            assert dataset.classes == ["001.Bird_0", "002.Bird_1", "003.Bird_2"]
            assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
            assert dataset.test.labels.tolist() == [0, 1, 2]
            assert dataset.train.images.shape == (9, 256, 256, 3)
        with Image.open(folder / "images/002.Bird_1/002.Bird_1_1.jpg") as image:
            expected = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
        assert np.array_equal(dataset.train.images[4], expected)
        assert (dataset.image_size, dataset.stem, dataset.flip, dataset.padding) == (224, "large", True, 0)

    def test_a_class_without_test_images(self, tmp_path):
        folder = write_cub(tmp_path)
        marks = folder / "train_test_split.txt"
        marks.write_text(marks.read_text().replace("12 0", "12 1"))
        with pytest.raises(UserError, match=r"the same in training and test; in one of them alone: \['003\.Bird_2'\]"):
            cub200.fetch(source=str(tmp_path), subset=True)

    def test_only_the_whole(self, tmp_path):
        write_cub(tmp_path)
        with pytest.raises(UserError, match=r"'train': 9, 'test': 3\} images of 3 classes, CUB-200-2011 .*5994"):
            cub200.fetch(source=str(tmp_path), subset=False)

    @pytest.mark.parametrize(("file", "content", "message"), [
        ("classes.txt", "1 x\n", "is in one of its lists alone"),
        ("image_class_labels.txt", "", "is in one of its lists alone"),
        ("images.txt", None, "cannot be read"),
        ("images.txt", "1 a.jpg\n2\n", r"images\.txt, line 2: expected <number> <text>, not '2'"),
        ("classes.txt", "1 Vog\u00e9l".encode("latin-1"), r"classes\.txt: is not text in UTF-8"),
        ("train_test_split.txt", "1 1\n", "image '2' is in one of its lists alone"),
        ("train_test_split.txt", "\n".join(f"{i} train" for i in range(1, 13)), r"must say 1 .* not 'train'"),
        ("image_class_labels.txt", "\n".join(f"{i} 1" for i in range(1, 13)), "holds one class, 1; at least two"),
    ])  # fmt: skip
    def test_broken_lists(self, tmp_path, file, content, message):
        path = write_cub(tmp_path) / file
        path.unlink()
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=message):
            cub200.fetch(source=str(tmp_path), subset=True)

    def test_another_folder(self, tmp_path):
        with pytest.raises(UserError, match="holds no folder CUB_200_2011"):
            cub200.fetch(source=str(tmp_path), subset=True)

    @pytest.mark.parametrize(("file", "line", "name"), [
        ("classes.txt", "3 004.Bird_3", "'3'"), ("classes.txt", "4 001.Bird_0", "'001.Bird_0'"),
        ("images.txt", "3 001.Bird_0/x.jpg", "'3'"), ("images.txt", "13 001.Bird_0/001.Bird_0_0.jpg", "'001.Bird_0/"),
        ("image_class_labels.txt", "12 1", "'12'"), ("train_test_split.txt", "12 1", "'12'"),
    ])  # fmt: skip
    def test_entries_that_occur_twice(self, tmp_path, file, line, name):
        path = write_cub(tmp_path) / file
        path.write_text(f"{path.read_text()}{line}\n")
        with pytest.raises(UserError, match=rf"{file}: 1 entries occur more than once, such as {name}"):
            cub200.fetch(source=str(tmp_path), subset=True)

    def test_what_is_not_listed_is_said(self, tmp_path, capsys):
        folder = write_cub(tmp_path)
        (folder / "classes.txt").write_text("1 a\n2 b\n3 c\n4 d\n")
        (folder / "images.txt").write_text("\n".join((folder / "images.txt").read_text().splitlines()[:8]))
        cub200.fetch(source=str(tmp_path), subset=True)
        said = capsys.readouterr().err
        assert "images.txt: does not list 4 images, such as " in said
        assert "2 of 4 classes have no images" in said

    def test_contents_of_the_test(self, tmp_path):
        folder = write_cub(tmp_path)
        for name in ("001.Bird_0", "002.Bird_1", "003.Bird_2"):
            picture(0, 0).save(folder / f"images/{name}/{name}_3.jpg")
        with pytest.raises(UserError, match="all 3 test images are"):
            cub200.fetch(source=str(tmp_path), subset=True)


class TestTinyImagenet:
    def test_published_layout(self, tmp_path):
        folder = write_tiny(tmp_path)
        dataset = tiny_imagenet.fetch(source=str(folder), subset=True)
        assert dataset.classes == WNIDS
        assert dataset.train.images.shape == (12, 64, 64, 3)
        assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        with Image.open(folder / "val/images/val_3.JPEG") as image:
            assert np.array_equal(dataset.test.images[1], np.asarray(image))
        assert (dataset.rotation, dataset.flip, dataset.padding, dataset.stem) == (20.0, True, 0, "small")

    def test_validation_images_sorted_by_the_user(self, tmp_path):
        folder = write_tiny(tmp_path)
        (folder / "val" / "val_annotations.txt").unlink()
        for path in (folder / "val" / "images").iterdir():
            path.unlink()
        (folder / "val" / "images").rmdir()
        write_tree(folder / "val", WNIDS, 2, size=(64, 64), start=50)
        assert tiny_imagenet.fetch(source=str(folder), subset=True).test.labels.tolist() == [0, 0, 1, 1, 2, 2]

    def test_only_the_whole(self, tmp_path):
        write_tiny(tmp_path)
        with pytest.raises(UserError, match=r"holds \{'train': 12, 'val': 6\} images of 3 classes, Tiny-ImageNet"):
            tiny_imagenet.fetch(source=str(tmp_path), subset=False)

    def test_other_sizes_are_refused(self, tmp_path):
        folder = write_tiny(tmp_path)
        picture(0, 0, (32, 32)).save(folder / "val/images/val_0.JPEG")
        with pytest.raises(UserError, match=r"val_0\.JPEG: is of \(32, 32\) pixels, not \(64, 64\)"):
            tiny_imagenet.fetch(source=str(folder), subset=True)

    def test_a_missing_image_is_named(self, tmp_path):
        folder = write_tiny(tmp_path)
        (folder / "val/images/val_4.JPEG").unlink()
        with pytest.raises(UserError, match=r"val_4\.JPEG: cannot be decoded \(.*No such file"):
            tiny_imagenet.fetch(source=str(folder), subset=True)

    @pytest.mark.parametrize(("content", "message"), [
        (b"val_0.JPEG\n", r"val_annotations\.txt, line 1: expected <file> <tab> <class>"),
        (b"val_0.JPEG\t\xff\n", r"val_annotations\.txt: is not text in UTF-8"),
    ])  # fmt: skip
    def test_broken_annotations(self, tmp_path, content, message):
        folder = write_tiny(tmp_path)
        (folder / "val/val_annotations.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            tiny_imagenet.fetch(source=str(folder), subset=True)

    def test_an_entry_twice(self, tmp_path):
        folder = write_tiny(tmp_path)
        with (folder / "val/val_annotations.txt").open("a") as file:
            file.write(f"val_0.JPEG\t{WNIDS[2]}\n")
        with pytest.raises(
            UserError, match=r"val_annotations\.txt: 1 entries occur more than once, such as 'val_0\.JP"
        ):
            tiny_imagenet.fetch(source=str(folder), subset=True)

    def test_what_is_not_listed_is_said(self, tmp_path, capsys):
        folder = write_tiny(tmp_path)
        (folder / "val/images/val_9.JPEG").write_bytes(encoded(0, 9, (64, 64)))
        assert len(tiny_imagenet.fetch(source=str(folder), subset=True).test.labels) == 6
        assert "val_annotations.txt: does not list 1 images, such as " in capsys.readouterr().err

    @pytest.mark.parametrize(("kind", "message"), [
        ("black", r"all 6 test images are of one colour, \(0"), ("train", "all 6 test images are training images"),
    ])  # fmt: skip
    def test_contents_of_the_validation(self, tmp_path, kind, message):
        folder = write_tiny(tmp_path)
        for number, path in enumerate(sorted((folder / "val/images").iterdir())):
            wnid = WNIDS[number % 3]
            train = folder / f"train/{wnid}/images/images_{number % 4}.JPEG"
            if kind == "black":
                Image.new("RGB", (64, 64)).save(path)
            else:
                path.write_bytes(train.read_bytes())
        with pytest.raises(UserError, match=message):
            tiny_imagenet.fetch(source=str(folder), subset=True)

    def test_a_blank_line_and_boxes_say_nothing(self, tmp_path, capsys):
        folder = write_tiny(tmp_path)
        with (folder / "val/val_annotations.txt").open("a") as file:
            file.write("\n")
        (folder / "train" / WNIDS[0] / f"{WNIDS[0]}_boxes.txt").write_text("x")
        assert len(tiny_imagenet.fetch(source=str(folder), subset=True).test.labels) == 6
        assert capsys.readouterr().err == ""

    def test_one_class(self, tmp_path):
        folder = write_tiny(tmp_path)
        for wnid in WNIDS[1:]:
            shutil.rmtree(folder / "train" / wnid)
        (folder / "val/val_annotations.txt").write_text(f"val_0.JPEG\t{WNIDS[0]}\n")
        with pytest.raises(UserError, match="holds one class, n01440764; at least two are needed"):
            tiny_imagenet.fetch(source=str(folder), subset=True)


class TestArchives:
    """The user's archive, verified and extracted; downloads are in test_download.py."""

    def published(self, monkeypatch, module, path):
        monkeypatch.setattr(module, "ARCHIVE", replace(module.ARCHIVE, sha256=file_sha256(path)))

    def test_tar(self, tmp_path, monkeypatch):
        write_cub(tmp_path)
        with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as archive:
            archive.add(tmp_path / "CUB_200_2011", "CUB_200_2011")
        self.published(monkeypatch, cub200, tmp_path / "CUB_200_2011.tgz")
        monkeypatch.chdir(tmp_path)
        dataset = cub200.fetch(source="CUB_200_2011.tgz", subset=True)
        assert dataset.train.images.shape == (9, 256, 256, 3)
        assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []

    def test_zip(self, tmp_path, monkeypatch):
        folder = write_tiny(tmp_path)
        with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
            for path in folder.rglob("*"):
                archive.write(path, path.relative_to(tmp_path))
        self.published(monkeypatch, tiny_imagenet, tmp_path / "tiny.zip")
        monkeypatch.chdir(tmp_path)
        assert len(tiny_imagenet.fetch(source="tiny.zip", subset=True).train.labels) == 12

    def test_another_archive_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "tiny.zip").write_bytes(b"something else")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"tiny\.zip.*sha256"):
            tiny_imagenet.fetch(source="tiny.zip", subset=True)
        assert (tmp_path / "tiny.zip").exists()

    @pytest.mark.parametrize("module", [cifar100, cub200, tiny_imagenet])
    def test_download_of_something_else(self, tmp_path, monkeypatch, module):
        """Refused, explained, and removed."""
        monkeypatch.chdir(tmp_path)
        options = {"train_per_class": None} if module is cifar100 else {"subset": True}
        with serving() as site:
            url = site.add("data.zip", b"<!DOCTYPE html><html><body>Sign in first</body></html>")
            monkeypatch.setattr(module, "ARCHIVE", replace(module.ARCHIVE, urls=(url,)))
            with pytest.raises(UserError, match=f"^{url}: has sha256 .*, not {module.ARCHIVE.sha256}; it was removed$"):
                module.fetch(source="download", **options)
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_pickles_of_others_are_not_read(self, tmp_path):
        """CIFAR-100 is published as pickles, of which the reader knows the checksums."""
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        order = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
        for name in ("train", "test", "meta"):
            (folder / name).write_bytes(order)
        with pytest.raises(UserError, match=r"cifar-100-python: is not CIFAR-100 as published"):
            cifar100.fetch(source=str(folder), train_per_class=None)
        assert not (tmp_path / "ran").exists()
        pickle.loads(order)
        assert (tmp_path / "ran").exists(), "the order is none"


def fetch_own(source, **changes):
    fields = {"name": "mine", "image_size": 32, "augmentation": None, "flip": True, "stem": None, "test_share": None}
    return own.fetch(source=source, **{**fields, **changes})


class TestOwnFolder:
    @pytest.mark.parametrize("test", ["test", "val", "validation"])
    def test_split_by_the_user(self, tmp_path, test):
        write_tree(tmp_path / "train", ["cat", "dog"], 3)
        write_tree(tmp_path / test, ["cat", "dog"], 2, start=10, suffix=".png")
        dataset = fetch_own(f"folder:{tmp_path}")
        assert (dataset.name, dataset.classes) == ("mine", ["cat", "dog"])
        assert dataset.train.images.shape == (6, 32, 32, 3)
        assert dataset.test.labels.tolist() == [0, 0, 1, 1]
        assert (dataset.padding, dataset.stem, dataset.image_size) == (4, "small", 32)
        pixels = dataset.train.images.reshape(-1, 3) / 255
        assert dataset.mean == pytest.approx(pixels.mean(axis=0), abs=1e-4)
        assert dataset.std == pytest.approx(pixels.std(axis=0), abs=1e-4)

    def test_divided_here(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 10)
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.2)
        assert dataset.train.labels.tolist() == [0] * 8 + [1] * 8
        assert dataset.test.labels.tolist() == [0, 0, 1, 1]
        seen = {image.tobytes() for image in dataset.train.images}
        assert not any(image.tobytes() in seen for image in dataset.test.images)
        again = fetch_own(f"folder:{tmp_path}", test_share=0.2)
        assert np.array_equal(dataset.test.images, again.test.images)

    def test_large_images(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 4)
        dataset = fetch_own(f"folder:{tmp_path}", image_size=84, test_share=0.5)
        assert dataset.train.images.shape == (4, 96, 96, 3)
        assert (dataset.padding, dataset.stem, dataset.image_size) == (0, "large", 84)

    def test_streamed(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 4)
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.25, augmentation="random_resized_crop", stem="large")
        assert isinstance(dataset.train, Encoded)
        assert (dataset.mean, dataset.stem) == (imagenet.MEAN, "large")
        (views,) = next(Feed(dataset, CPU).batches(6, views=1, seed=0, epoch=1)).views
        assert views.shape == (6, 3, 32, 32)

    @pytest.mark.parametrize(("changes", "message"), [
        ({}, r"has no folders train and test or val .* set data\.test_share, for example 0\.2"),
        ({"test_share": 0.9}, r"cat: of 2 images 2 would be kept for the test, none left"),
    ])  # fmt: skip
    def test_no_split(self, tmp_path, changes, message):
        write_tree(tmp_path, ["cat", "dog"], 2)
        with pytest.raises(UserError, match=message):
            fetch_own(f"folder:{tmp_path}", **changes)

    def test_split_twice(self, tmp_path):
        write_tree(tmp_path / "train", ["cat"], 1)
        write_tree(tmp_path / "test", ["cat"], 1)
        with pytest.raises(UserError, match=r"test_share: .* is split already, into train and test"):
            fetch_own(f"folder:{tmp_path}", test_share=0.2)

    def test_too_many_for_memory(self, tmp_path, monkeypatch):
        write_tree(tmp_path, ["cat", "dog"], 2)
        monkeypatch.setattr(folders, "LARGEST", 2000)
        with pytest.raises(UserError, match=r"2 images of 32 x 32 pixels are too many.*random_resized_crop"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_broken_image(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 2)
        (tmp_path / "dog" / "dog_1.jpg").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"dog_1\.jpg: cannot be decoded"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("splits", [("Train", "Test"), ("TRAIN", "Val"), ("train", "VALID")])
    def test_splits_in_capitals(self, tmp_path, splits):
        for start, folder in enumerate(splits):
            write_tree(tmp_path / folder, ["cat", "dog"], 2, start=10 * start)
        assert fetch_own(f"folder:{tmp_path}").classes == ["cat", "dog"]
        with pytest.raises(UserError, match=rf"is split already, into {splits[0]} and {splits[1]}"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_train_alone_is_divided(self, tmp_path):
        write_tree(tmp_path / "Train", ["cat", "dog"], 4)
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.25)
        assert (dataset.classes, len(dataset.train.labels), len(dataset.test.labels)) == (["cat", "dog"], 6, 2)

    @pytest.mark.parametrize("classes", [["bus", "train"], ["invalid", "valid"]])
    def test_classes_may_have_the_names_of_splits(self, tmp_path, classes):
        write_tree(tmp_path, classes, 2)
        assert fetch_own(f"folder:{tmp_path}", test_share=0.5).classes == classes

    @pytest.mark.parametrize(("names", "message"), [
        (["test"], "holds test, but no folder train; add it and remove data.test_share"),
        (["train", "unlabelled"], "holds train, with folders of its own, beside unlabelled; is it a split or a class"),
        (["train", "Train"], "holds Train and train; keep one of them"),
    ])  # fmt: skip
    def test_splits_that_are_no_classes(self, tmp_path, names, message):
        for folder in names:
            write_tree(tmp_path / folder, ["cat", "dog"], 2)
        with pytest.raises(UserError, match=message):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_one_class(self, tmp_path):
        write_tree(tmp_path, ["cat"], 2)
        with pytest.raises(UserError, match="holds one class, cat; at least two are needed"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("kind", ["folder", "parquet"])
    @pytest.mark.parametrize(("name", "message"), [("file", "is not a folder"), ("nothing", "does not exist")])
    def test_no_folder(self, tmp_path, kind, name, message):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=rf"data\.source {kind}:.*{name} {message}"):
            fetch_own(f"{kind}:{tmp_path / name}", test_share=0.5 if kind == "folder" else None)

    def test_what_is_hidden_or_no_image(self, tmp_path, capsys):
        write_tree(tmp_path, ["cat", "dog"], 2)
        write_tree(tmp_path / "cat", [".ipynb_checkpoints"], 3)
        (tmp_path / "cat" / "._cat_0.jpg").write_bytes(b"of a Macintosh")
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.5).train.labels) == 2
        assert capsys.readouterr().err == ""
        for name in ("cat/a.gif", "dog/b.gif", "dog/c.TXT", "dog/README"):
            (tmp_path / name).write_text("")
        picture(1, 1).convert("L").save(tmp_path / "dog" / "d.pgm")
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert len(dataset.train.labels) + len(dataset.test.labels) == 5
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.endswith("1 without a suffix, 1 .TXT, 2 .gif\n")

    @pytest.mark.parametrize("name", ["cow", "cat/cat_9.jpg", "cat/more"])
    def test_links(self, tmp_path, name):
        write_tree(tmp_path / "photos", ["cat", "dog"], 2)
        write_tree(tmp_path, ["elsewhere"], 2)
        link = tmp_path / "photos" / name
        link.symlink_to(tmp_path / "gone")
        with pytest.raises(UserError, match=rf"{name}: is a link to .*gone, which is missing"):
            fetch_own(f"folder:{tmp_path / 'photos'}", test_share=0.5)
        link.unlink()
        if "." not in name:
            link.symlink_to(tmp_path / "elsewhere")
            dataset = fetch_own(f"folder:{tmp_path / 'photos'}", test_share=0.5)
            assert len(dataset.train.labels) + len(dataset.test.labels) == 6

    def test_a_link_in_circles(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 2)
        (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
        with pytest.raises(UserError, match="again: is a link to a folder that it is in"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
    def test_a_pipe_or_a_device(self, tmp_path, make):
        """Neither of which would end."""
        write_tree(tmp_path, ["cat", "dog"], 2)
        make(tmp_path / "cat" / "cat_9.jpg")
        with pytest.raises(UserError, match=r"cat_9\.jpg: is a pipe or a device; remove it"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("folder", ["", "cat", "cat/deep"])
    def test_a_folder_that_cannot_be_read(self, tmp_path, monkeypatch, folder):
        """Whatever is in it would be left out in silence."""
        write_tree(tmp_path, ["cat", "dog"], 2)
        write_tree(tmp_path / "cat", ["deep"], 2)
        closed, scandir = str(tmp_path / folder), os.scandir

        def look(path):
            if str(path) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", closed)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", look)
        monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in look(path)])
        with pytest.raises(UserError, match=f"^{closed}: cannot be read \\(Permission denied\\); see its permissions$"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_streams_are_looked_at(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 2)
        (tmp_path / "dog" / "dog_1.jpg").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"dog_1\.jpg: cannot be decoded \(cannot identify"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation="random_resized_crop")


def saved(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


class TestPicture:
    GREY = np.arange(0, 65536, 16).reshape(64, 64)

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    def test_of_16_bits(self, form):
        content = saved(Image.fromarray(self.GREY.astype(np.uint16)), form)
        assert np.array_equal(np.asarray(picture_file.read_image(content))[..., 1], self.GREY >> 8)

    def test_a_16_bit_pgm(self):
        content = b"P5 64 64 65535\n" + self.GREY.astype(">u2").tobytes()
        assert np.array_equal(np.asarray(picture_file.read_image(content))[..., 0], self.GREY >> 8)

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    @pytest.mark.parametrize("look", [picture_file.read_image, picture_file.check_image])
    def test_of_32_bits(self, kind, look):
        with pytest.raises(picture_file.UnreadableError, match=r"of 32 bits per pixel.*convert it"):
            look(saved(Image.fromarray(self.GREY.astype(kind)), "TIFF"))

    def test_as_torchvisions_loader(self, tmp_path):
        """An orientation is ignored, transparency dropped."""
        from torchvision.datasets.folder import pil_loader

        exif = Image.Exif()
        exif[0x0112] = 6
        picture(0, 0).save(tmp_path / "turned.jpg", exif=exif)
        clear = picture(1, 0).convert("RGBA")
        clear.putalpha(0)
        clear.save(tmp_path / "clear.png")
        for name in ("turned.jpg", "clear.png"):
            image = picture_file.read_image(tmp_path / name)
            assert image.size == (48, 40)
            assert np.array_equal(np.asarray(image), np.asarray(pil_loader(tmp_path / name)))

    @pytest.mark.parametrize("form", [*picture_file.FORMATS, "MPO"])
    def test_formats(self, form):
        assert picture_file.read_image(encoded(0, 0, form=form)).size == (48, 40)

    @pytest.mark.parametrize("form", ["EPS", "ICO", "TGA", "PCX", "PDF", "DDS"])
    def test_other_formats(self, form, tmp_path, monkeypatch):
        """Are none, under any name: for PostScript, a program would be started."""
        (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        (tmp_path / "gs").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        (tmp_path / "a.png").write_bytes(encoded(0, 0, form=form))
        for look in (picture_file.read_image, picture_file.check_image):
            with pytest.raises(picture_file.UnreadableError, match="cannot identify an image in it"):
                look(tmp_path / "a.png")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("look", [picture_file.read_image, picture_file.check_image])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_too_large(self, look):
        """Told from the beginning: there is nothing to decode."""
        size = (13_300).to_bytes(4, "big")
        content = encoded(0, 0, form="PNG")[:16] + size + size + bytes((16, 0, 0, 0, 0))
        content += zlib.crc32(content[12:]).to_bytes(4, "big") + bytes(4) + b"IDAT"
        with pytest.raises(picture_file.UnreadableError, match=r"of 13,300 x 13,300 pixels; at most 89,478,485"):
            look(content)

    def test_large_ones_one_at_a_time(self, monkeypatch):
        convert, running, most = Image.Image.convert, [], []

        def slowly(*args):
            running.append(1)
            most.append(len(running))
            time.sleep(0.02)
            running.pop()
            return convert(*args)

        monkeypatch.setattr(Image.Image, "convert", slowly)
        images = [encoded(0, number) for number in range(8)]
        assert folders.decode_images(images, 16).shape == (8, 16, 16, 3)
        assert max(most) > 1
        most.clear()
        monkeypatch.setattr(picture_file, "LARGE", 48 * 40)
        folders.decode_images(images, 16)
        assert most == [1] * 8

    @pytest.mark.parametrize(("error", "message"), [
        (KeyError("x"), "'x'"), (TypeError(), "TypeError"), (RuntimeError("a\x1b[31m"), r"'a\\x1b\[31m'"),
        (NotImplementedError("mode"), "mode"), (Image.DecompressionBombError("bomb"), "bomb"),
    ])  # fmt: skip
    def test_whatever_pillow_raises(self, monkeypatch, error, message):
        monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=error))
        with pytest.raises(picture_file.UnreadableError, match=f"^{message}$"):
            picture_file.read_image(encoded(0, 0))

    def test_memory_is_not_the_images_fault(self, monkeypatch):
        monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            picture_file.read_image(encoded(0, 0))

    def test_the_check_does_not_decode(self):
        content = encoded(0, 0)[:-200]
        picture_file.check_image(content)
        with pytest.raises(picture_file.UnreadableError, match="truncated"):
            picture_file.read_image(content)


class TestOwnParquet:
    def write(self, folder, name="train-00000-of-00001", labels=(0, 1, 0, 1), image=None, metadata=None):
        start = 0 if "train" in f"{folder.name}/{name}" else 100  # no image is in both splits
        pictures = image or [
            {"bytes": encoded(int(str(label)[-1]), start + i), "path": "x"} for i, label in enumerate(labels)
        ]
        table = pa.table({"image": pictures, "label": list(labels)})
        if metadata:
            table = table.replace_schema_metadata({"huggingface": metadata})
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet")

    def test_layout_of_the_hubs(self, tmp_path):
        names = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
        self.write(tmp_path / "data", metadata=names)
        self.write(tmp_path / "data", "validation-00000-of-00001", labels=(1, 0))
        dataset = fetch_own(f"parquet:{tmp_path}")
        assert dataset.classes == ["cat", "dog"]
        assert dataset.train.images.shape == (4, 32, 32, 3)
        assert dataset.test.labels.tolist() == [1, 0]

    def test_plain_bytes_and_text_labels(self, tmp_path):
        content = [encoded(0, 0), encoded(1, 1)]
        self.write(tmp_path, labels=("a1", "a0"), image=content)
        self.write(tmp_path, "test-0", labels=("a0", "a1"))
        dataset = fetch_own(f"parquet:{tmp_path}")
        assert dataset.classes == ["a0", "a1"]
        assert dataset.train.labels.tolist() == [1, 0]

    def test_streamed(self, tmp_path):
        self.write(tmp_path)
        self.write(tmp_path, "test-0")
        dataset = fetch_own(f"parquet:{tmp_path}", augmentation="random_resized_crop")
        stored = tmp_path / "stored"
        stored.mkdir()
        storage.save(dataset, stored)
        (views,) = next(Feed(storage.load(stored), CPU).batches(4, views=1, seed=0, epoch=1)).views
        assert views.shape == (4, 3, 32, 32)

    @pytest.mark.parametrize(("train", "test", "message"), [
        ((0, 1), (0, 2), r"in one of them alone: \['1', '2'\]"),
        ((0, 2), (0, 2), r"labels must be 0 to 1, each in use; found \[0, 2\] to 2"),
        ((0, None), (0, 1), "has no image or no label"),
    ])  # fmt: skip
    def test_labels_that_do_not_fit(self, tmp_path, train, test, message):
        image = [encoded(0, 0)] * 2
        self.write(tmp_path, labels=train, image=image)
        self.write(tmp_path, "test-0", labels=test, image=image)
        with pytest.raises(UserError, match=message):
            fetch_own(f"parquet:{tmp_path}")

    def test_columns_that_do_not_fit(self, tmp_path):
        pyarrow.parquet.write_table(pa.table({"pixels": [[1]], "label": [0]}), tmp_path / "train-0.parquet")
        with pytest.raises(UserError, match="has the columns pixels, label; expected one of images"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("name", ["label", "image"])
    def test_two_columns_of_a_name(self, tmp_path, name):
        columns = {"image": pa.array([encoded(0, 0)]), "label": pa.array([0])}
        table = pa.Table.from_arrays([*columns.values(), pa.array([1])], names=[*columns, name])
        pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
        with pytest.raises(UserError, match=f"has the columns image, label, {name}; expected one of images"):
            fetch_own(f"parquet:{tmp_path}")

    def test_names_of_many_columns(self, tmp_path):
        table = pa.table({"\x1b[31m": [0]} | {f"c{i}": [0] for i in range(99)})
        pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
        with pytest.raises(
            UserError, match=r"has the columns '\\x1b\[31m', c0, .*, c18, \.\.\.; expected one of images"
        ):
            fetch_own(f"parquet:{tmp_path}")

    def test_labels_in_another_encoding(self, tmp_path):
        offsets = pa.py_buffer(np.array([0, 2, 4], np.int32))
        labels = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"\xff\xfeab"))
        table = pa.table({"image": [encoded(0, 0)] * 2, "label": labels})
        pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
        with pytest.raises(UserError, match=r"train-0\.parquet: holds text that is not UTF-8 .*; write labels"):
            fetch_own(f"parquet:{tmp_path}")

    def test_a_file_that_stands_for_much_more(self, tmp_path, monkeypatch):
        """One image that its dictionary has once, and its rows many times."""
        monkeypatch.setattr(parquet, "FREE", 1 << 20)
        image = np.random.default_rng(0).bytes(1 << 14)
        file = tmp_path / "train-0.parquet"
        for count, refused in ((99, False), (9999, True)):
            pyarrow.parquet.write_table(pa.table({"image": [image] * count, "label": [0] * count}), file)
            assert file.stat().st_size < 1 << 16
            if refused:
                with pytest.raises(UserError, match=r"train-0\.parquet: stands for more than [\d,]+ bytes of images"):
                    parquet.read(tmp_path, ("train",))
            else:
                assert len(parquet.read(tmp_path, ("train",)).images) == count

    def test_no_test_files(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(UserError, match=r"has no test-\*\.parquet or val-\*\.parquet, neither there"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize(("train", "test"), [
        ("train/0000", "test/0000"),
        ("default/train/0000", "default/validation/0000"),
    ])  # fmt: skip
    def test_a_folder_per_split(self, tmp_path, train, test):
        self.write((tmp_path / train).parent, "0000", labels=(0, 1, 1))
        self.write((tmp_path / test).parent, "0000", labels=(1, 0))
        dataset = fetch_own(f"parquet:{tmp_path}")
        assert (len(dataset.train.labels), dataset.test.labels.tolist()) == (3, [1, 0])

    def test_several_sets_in_a_folder(self, tmp_path):
        for name in ("large", "small"):
            self.write(tmp_path / name / "train", "0000")
        with pytest.raises(UserError, match=r"has train files in several folders, .*large/train, .*small/train; name"):
            fetch_own(f"parquet:{tmp_path}")

    def test_secret_labels(self, tmp_path):
        self.write(tmp_path)
        self.write(tmp_path, "test-0", labels=(-1, -1))
        with pytest.raises(UserError, match=r"test-0\.parquet: has no labels \(-1 or nothing everywhere\)"):
            fetch_own(f"parquet:{tmp_path}")
        self.write(tmp_path, "validation-0", labels=(1, 0, 0))
        assert fetch_own(f"parquet:{tmp_path}").test.labels.tolist() == [1, 0, 0]

    @pytest.mark.parametrize("metadata", [
        "no JSON", "null", "[]", pytest.param("[" * 200_000, id="deep"), '{"info": null}',
        '{"info": {"features": [1]}}',
        '{"info": {"features": {"label": {"names": "cat"}}}}', '{"info": {"features": {"label": {"names": [1, 2]}}}}',
    ])  # fmt: skip
    def test_metadata_of_others(self, tmp_path, metadata):
        self.write(tmp_path, metadata=metadata)
        self.write(tmp_path, "test-0")
        assert fetch_own(f"parquet:{tmp_path}").classes == ["0", "1"]

    @pytest.mark.parametrize(("labels", "message"), [
        ((0, 1), r"names 3 classes, but no image is of dog; write files"),
        ((0, 3), r"names 3 classes, labels 0 to 2, but has images with the labels \[3\]"),
    ])  # fmt: skip
    def test_names_that_do_not_fit(self, tmp_path, labels, message):
        names = '{"info": {"features": {"label": {"names": ["cat", "cow", "dog"]}}}}'
        self.write(tmp_path, labels=labels, metadata=names)
        self.write(tmp_path, "test-0", labels=labels)
        with pytest.raises(UserError, match=message):
            fetch_own(f"parquet:{tmp_path}")

    def test_one_name_for_two_classes(self, tmp_path):
        names = '{"info": {"features": {"label": {"names": ["cat", "cat"]}}}}'
        for name in ("train-0", "test-0"):
            self.write(tmp_path, name, metadata=names)
        with pytest.raises(UserError, match=r"train-0\.parquet: names several classes cat; write files with different"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize(("labels", "kind"), [((0.0, 1.0), "double"), (([0], [1]), "list")])
    def test_labels_of_other_types(self, tmp_path, labels, kind):
        self.write(tmp_path, labels=labels, image=[encoded(0, 0)] * 2)
        with pytest.raises(UserError, match=rf"column label is of type {kind}.*whole number or text"):
            fetch_own(f"parquet:{tmp_path}")

    def test_one_class(self, tmp_path):
        for name in ("train-0", "test-0"):
            self.write(tmp_path, name, labels=(0, 0))
        with pytest.raises(UserError, match="holds one class, 0; at least two are needed"):
            fetch_own(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("augmentation", ["random_resized_crop", None])
    def test_broken_image(self, tmp_path, augmentation):
        self.write(tmp_path)
        self.write(tmp_path, "test-0", labels=(0, 1), image=[encoded(0, 0), b"no image"])
        with pytest.raises(
            UserError, match=r"image 1 of test-0\.parquet: cannot be decoded \(cannot identify"
        ) as error:
            fetch_own(f"parquet:{tmp_path}", augmentation=augmentation)
        assert "BytesIO" not in str(error.value)

    def test_images_are_kept_once(self, tmp_path):
        """Once by Arrow, and not by Python."""
        content = [np.random.default_rng(i).bytes(1 << 14) for i in range(512)]
        table = pa.table({"image": [{"bytes": image} for image in content], "label": [0, 1] * 256})
        pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet", row_group_size=16)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        rows = parquet.read(tmp_path, ("train",))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 1.2 * 512 * (1 << 14)
        assert most < 1 << 20
        assert [rows.images[i] for i in (0, 511)] == [content[0], content[511]]

    @pytest.mark.parametrize("missing", ["image", "struct"])
    def test_rows_without_images(self, tmp_path, missing):
        broken = None if missing == "struct" else {"bytes": None}
        self.write(tmp_path, labels=(0, 1, 1), image=[{"bytes": encoded(0, 0)}, {"bytes": encoded(0, 0)}, broken])
        with pytest.raises(UserError, match=r"row 2 of train.*has no image or no label"):
            fetch_own(f"parquet:{tmp_path}")


class TestCifar100Names:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cifar100, "COUNTS", {"train": 100, "test": 100})
        images = [{"bytes": encoded(0, 0, (32, 32))}] * 100
        (tmp_path / "data").mkdir()
        for name in cifar100.COUNTS:
            table = pa.table({"img": images, "fine_label": range(100)})
            pyarrow.parquet.write_table(table, tmp_path / "data" / f"{name}-0.parquet")
        return tmp_path

    def test_beside_the_parquet_files(self, folder):
        assert cifar100.fetch(source=str(folder), train_per_class=None).classes[2] == "2"
        names = [f"class{i}" for i in range(100)]
        (folder / "classes.json").write_text(json.dumps(names))
        assert cifar100.fetch(source=str(folder), train_per_class=None).classes == names

    def test_labels_that_are_text(self, folder):
        """Text has an order of its own: by it, numbers would be other classes, and the file's names could be wrong."""
        names = [f"class{i:02}" for i in range(100)]
        for labels in (names, [str(i) for i in range(100)]):
            for name in cifar100.COUNTS:
                file = folder / "data" / f"{name}-0.parquet"
                table = pyarrow.parquet.read_table(file)
                pyarrow.parquet.write_table(table.set_column(1, "fine_label", [labels]), file)
            if labels == names:
                assert cifar100.fetch(source=str(folder), train_per_class=None).classes == names
                (folder / "classes.json").write_text(json.dumps(names[::-1]))
                with pytest.raises(UserError, match="names other classes than the labels, which are text, or in anoth"):
                    cifar100.fetch(source=str(folder), train_per_class=None)
        with pytest.raises(UserError, match="labels are numbers written as text, whose alphabetical order is another"):
            cifar100.fetch(source=str(folder), train_per_class=None)

    @pytest.mark.parametrize(("content", "message"), [
        ("[", "is not JSON"), pytest.param("[" * 200_000, "is not JSON", id="deep"),
        ('["a", "b"]', "must be a list of 100 different names"),
        (json.dumps(list(range(100))), "must be a list of 100 different names"),
        (json.dumps(["a"] * 100), "must be a list of 100 different names"),
    ])  # fmt: skip
    def test_broken(self, folder, content, message):
        (folder / "classes.json").write_text(content)
        with pytest.raises(UserError, match=rf"classes\.json: {message}"):
            cifar100.fetch(source=str(folder), train_per_class=None)
