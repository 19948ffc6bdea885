"""Data sets, their storage and their augmentation."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from kdcore.data import storage
from kdcore.data.augment import Normalize, Views, apply_views, epoch_order, epoch_views
from kdcore.data.dataset import Dataset, Split, first_of_each_class
from kdcore.data.sources import cifar100, digits, parquet
from kdcore.data.sources.folders import decode_images
from kdcore.system.errors import UserError
from tests.reference import DATA, needs_data


def small(**changes):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
    split = Split(images, np.array([0, 1, 2, 0, 1, 2]))
    fields = {"name": "x", "classes": ["a", "b", "c"], "train": split, "test": split,
              "mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 4, "padding": 1, "flip": True}  # fmt: skip
    return Dataset(**{**fields, **changes})


class TestStore:
    def test_round_trip(self, tmp_path):
        storage.save(small(), tmp_path)
        loaded = storage.load(tmp_path)
        assert isinstance(loaded.train.images, np.memmap)
        assert np.array_equal(loaded.train.images, small().train.images)
        assert (loaded.mean, loaded.std, loaded.padding, loaded.flip) == ((0.5,) * 3, (0.2,) * 3, 1, True)

    def test_manifest(self, tmp_path):
        storage.save(small(), tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["counts"] == {"train": 6, "test": 6}
        for name, digest in manifest["sha256"].items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest

    def test_writing_to_loaded_arrays_leaves_the_files_alone(self, tmp_path):
        storage.save(small(), tmp_path)
        storage.load(tmp_path).train.images[:] = 0
        assert storage.load(tmp_path).train.images.any()

    @pytest.mark.parametrize(("images", "labels", "message"), [
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64), "holds no images"),
        (np.zeros((2, 4, 5, 3), np.uint8), np.zeros(2, np.int64), "not square uint8 RGB"),
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64), "not square uint8 RGB"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64), r"labels are of shape \(3,\), not \(2,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 3]), "labels from 0 to 3, but there are 3 classes"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.array([-1, 0]), "labels from -1"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2), "labels are float64"),
        (np.zeros((2, 3, 3, 3), np.uint8), np.zeros(2, np.int64), "images of 3 pixels are smaller than image_size 4"),
    ])  # fmt: skip
    def test_wrong_arrays_are_refused(self, tmp_path, images, labels, message):
        with pytest.raises(UserError, match=message):
            storage.save(small(train=Split(images, labels)), tmp_path)

    def test_nothing_stored(self, tmp_path):
        with pytest.raises(UserError, match=r"manifest\.json: cannot be read .* run 'dvc repro'"):
            storage.load(tmp_path)

    @pytest.mark.parametrize("damage", [
        lambda folder: (folder / "test_images.npy").unlink(),
        lambda folder: (folder / "train_images.npy").write_bytes((folder / "train_images.npy").read_bytes()[:-9]),
        lambda folder: (folder / "train_labels.npy").write_bytes(b""),
        lambda folder: (folder / "train_labels.npy").write_bytes((folder / "train_images.npy").read_bytes()),
        lambda folder: (folder / "manifest.json").write_text('{"format": 1'),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text("[1]"),
        lambda folder: (folder / "manifest.json").write_text('{"format": 2}'),
    ])  # fmt: skip
    def test_damage_is_noticed(self, tmp_path, damage):
        storage.save(small(), tmp_path)
        damage(tmp_path)
        with pytest.raises(UserError, match=r"damaged|not of format|labels are"):
            storage.load(tmp_path)

    def test_first_of_each_class(self):
        split = Split(np.arange(6), np.array([2, 0, 0, 2, 2, 1]))
        assert first_of_each_class(split, 1).images.tolist() == [0, 1, 5]
        assert first_of_each_class(split, 2).images.tolist() == [0, 1, 2, 3, 5]


class TestAugmentation:
    def test_views_depend_on_seed_and_epoch_alone(self):
        def views(seed, epoch, count=50):
            v = epoch_views(seed, epoch, count, offsets=9, flip=True)
            return torch.stack([v.top, v.left, v.mirrored.long()])

        assert torch.equal(views(0, 1), views(0, 1))
        assert torch.equal(views(0, 1, 50), views(0, 1, 99)[:, :50])
        assert not torch.equal(views(0, 1), views(1, 1))
        assert not torch.equal(views(0, 1), views(0, 2))

    def test_every_view_occurs_equally_often(self):
        views = epoch_views(0, 1, 162_000, offsets=9, flip=True)
        counts = torch.bincount((views.top * 9 + views.left) * 2 + views.mirrored.long(), minlength=162)
        assert counts.shape == (162,)
        assert (counts - 1000).abs().max() < 6 * 1000**0.5

    def test_no_mirroring_of_digits(self):
        assert not epoch_views(0, 1, 1000, offsets=9, flip=False).mirrored.any()

    def test_crop_and_mirror_by_hand(self):
        image = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 2, 2, 3)
        middle = apply_views(
            image, Views(torch.tensor([1]), torch.tensor([1]), torch.tensor([False])), size=2, padding=1
        )
        assert torch.equal(middle, image.permute(0, 3, 1, 2))
        mirrored = apply_views(
            image, Views(torch.tensor([1]), torch.tensor([1]), torch.tensor([True])), size=2, padding=1
        )
        assert torch.equal(mirrored, image.permute(0, 3, 1, 2).flip(-1))
        corner = apply_views(
            image, Views(torch.tensor([0]), torch.tensor([0]), torch.tensor([False])), size=2, padding=1
        )
        assert corner[0, 0].tolist() == [[0, 0], [0, 1]]

    def test_batch_equals_image_by_image(self):
        images = torch.from_numpy(small().train.images)
        views = epoch_views(3, 1, 6, offsets=5, flip=True)
        together = apply_views(images, views, size=4, padding=2)
        one = [apply_views(images[i : i + 1], views.of(torch.tensor([i])), size=4, padding=2) for i in range(6)]
        assert torch.equal(together, torch.cat(one))

    def test_order_is_a_permutation_of_its_own(self):
        first, second = epoch_order(0, 1, 100), epoch_order(0, 2, 100)
        assert torch.equal(first.sort().values, torch.arange(100))
        assert torch.equal(first, epoch_order(0, 1, 100))
        assert not torch.equal(first, second)

    def test_normalize(self):
        images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
        got = Normalize((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), images.device)(images)
        torch.testing.assert_close(got[0, :, 0, 0], torch.tensor([1.0, 3.0, 0.5]))


class TestDigits:
    def test_contents(self):
        data = digits.fetch(source="embedded", image_size=16, train_per_class=20)
        assert data.train.images.shape == (200, 16, 16, 3)
        assert np.bincount(data.train.labels).tolist() == [20] * 10
        assert len(data.test.labels) == 1797 - 800

    def test_test_images_do_not_depend_on_the_training_set(self):
        few, many = (digits.fetch(source="embedded", image_size=16, train_per_class=n) for n in (1, 80))
        assert np.array_equal(few.test.images, many.test.images)
        seen = {image.tobytes() for image in many.train.images}
        assert not any(image.tobytes() in seen for image in many.test.images)


class TestCifar100:
    @staticmethod
    def write(folder, train=5, test=1, side=32, content=None):
        """Parquet files with `train` and `test` images in each of 100 classes."""
        import io

        from PIL import Image

        buffer = io.BytesIO()
        image = Image.new("RGB", (side, side), (10, 20, 30))
        image.putpixel((side - 1, side - 1), (0, 0, 0))
        image.save(buffer, "PNG")
        picture = {"bytes": content or buffer.getvalue(), "path": "a.png"}
        for name, count in (("train", train), ("test", test)):
            table = pa.table({"img": [picture] * (100 * count), "fine_label": list(range(100)) * count})
            pyarrow.parquet.write_table(table, folder / f"{name}-0.parquet")

    @pytest.fixture
    def counts(self, monkeypatch):
        monkeypatch.setattr(cifar100, "COUNTS", {"train": 500, "test": 100})

    def test_parquet(self, tmp_path, counts):
        self.write(tmp_path)
        data = cifar100.fetch(source=str(tmp_path), train_per_class=2)
        assert data.train.images.shape == (200, 32, 32, 3)
        assert data.test.images[0, 0, 0].tolist() == [10, 20, 30]
        assert len(data.classes) == 100

    def test_incomplete_data_are_refused(self, tmp_path, counts):
        self.write(tmp_path, train=4)
        with pytest.raises(UserError, match="the train split has 400 images in 100 classes; CIFAR-100 has 500"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)

    def test_broken_image(self, tmp_path, counts):
        self.write(tmp_path, content=b"no image")
        with pytest.raises(UserError, match=r"image 0 of train-0\.parquet: cannot be decoded"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)

    def test_no_test_file(self, tmp_path):
        (tmp_path / "train-0.parquet").write_bytes(b"")
        with pytest.raises(UserError, match="is not a whole parquet file"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)

    def test_empty_folder(self, tmp_path):
        with pytest.raises(UserError, match="holds no folder cifar-100-python"):
            cifar100.fetch(source=str(tmp_path), train_per_class=None)

    def test_official_archive(self, tmp_path, counts, monkeypatch):
        """An archive of the official layout (torchvision checks its files against the official checksums)."""
        import pickle

        from torchvision.datasets import CIFAR100

        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        sums = {}
        for name, count in (("train", 5), ("test", 1)):
            labels = list(range(100)) * count
            content = {"data": np.tile(np.arange(3072, dtype=np.uint8), (len(labels), 1)), "fine_labels": labels}
            (folder / name).write_bytes(pickle.dumps(content))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]}))
        for path in folder.iterdir():
            sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
        monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
        monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
        for source in (tmp_path, folder):
            data = cifar100.fetch(source=str(source), train_per_class=1)
            assert data.train.images.shape == (100, 32, 32, 3)
            assert data.classes[99] == "class99"
        (folder / "test").write_bytes(b"broken")
        with pytest.raises(UserError, match="is not CIFAR-100 as published"):
            cifar100.fetch(source=str(folder), train_per_class=1)

    @needs_data
    def test_the_real_test_images(self):
        rows = parquet.read(DATA / "cifar100", ("test",))
        images = decode_images(rows.images, 32, resize=False)
        assert images.shape == (10_000, 32, 32, 3)
        assert np.bincount(rows.labels).tolist() == [100] * 100
        assert np.abs(images.mean(axis=(0, 1, 2)) / 255 - cifar100.MEAN).max() < 0.005
