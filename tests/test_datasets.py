"""ImageNet, CUB-200 and Tiny-ImageNet in their real layouts, and data sets of one's own."""

import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from kdcore import checksum
from kdcore.data import cub200, imagenet, own, store, tiny_imagenet, tree
from kdcore.data.feed import Feed
from kdcore.errors import UserError
from tests.pictures import encoded, picture, write_tree

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
        (views,), _ = next(Feed(dataset, CPU).batches(12, views=1, seed=0, epoch=1))
        assert views.shape == (12, 3, 224, 224)

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
        write_tree(folder / "val", WNIDS, 2, size=(64, 64))
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
        monkeypatch.setattr(module, "ARCHIVE", replace(module.ARCHIVE, sha256=checksum.sha256(path)))

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
        assert isinstance(dataset.train, store.Encoded)
        assert (dataset.mean, dataset.stem) == (imagenet.MEAN, "large")
        (views,), _ = next(Feed(dataset, CPU).batches(6, views=1, seed=0, epoch=1))
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
        monkeypatch.setattr(tree, "LARGEST", 2000)
        with pytest.raises(UserError, match=r"2 images of 32 x 32 pixels are too many.*random_resized_crop"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    def test_broken_image(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 2)
        (tmp_path / "dog" / "dog_1.jpg").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"dog_1\.jpg: cannot be decoded"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)


class TestOwnParquet:
    def write(self, folder, name="train-00000-of-00001", labels=(0, 1, 0, 1), image=None, metadata=None):
        pictures = image or [{"bytes": encoded(int(str(label)[-1]), i), "path": "x"} for i, label in enumerate(labels)]
        table = pa.table({"image": pictures, "label": list(labels)})
        if metadata:
            table = table.replace_schema_metadata({"huggingface": metadata})
        folder.mkdir(exist_ok=True)
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
        self.write(tmp_path, "test-0", labels=("a0", "a1"), image=content)
        dataset = fetch_own(f"parquet:{tmp_path}")
        assert dataset.classes == ["a0", "a1"]
        assert dataset.train.labels.tolist() == [1, 0]

    def test_streamed(self, tmp_path):
        self.write(tmp_path)
        self.write(tmp_path, "test-0")
        dataset = fetch_own(f"parquet:{tmp_path}", augmentation="random_resized_crop")
        stored = tmp_path / "stored"
        stored.mkdir()
        store.save(dataset, stored)
        (views,), _ = next(Feed(store.load(stored), CPU).batches(4, views=1, seed=0, epoch=1))
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

    def test_no_test_files(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(UserError, match=r"has no test\*\.parquet or val\*\.parquet or validation"):
            fetch_own(f"parquet:{tmp_path}")
