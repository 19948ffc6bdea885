"""Batches of views: from memory, and decoded by workers."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from kdcore.data import feed, storage, stream
from kdcore.data.augment import apply_views, epoch_order, epoch_views
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.feed import Feed, unaugmented
from kdcore.data.sources import digits
from kdcore.system.errors import UserError
from tests.pictures import encoded, write_tree

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def forty():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def resident(count=6, side=12, **changes):
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    split = Split(images, np.arange(count))
    fields = {"name": "x", "classes": [str(i) for i in range(count)], "train": split, "test": split,
              "mean": (0.0,) * 3, "std": (1 / 255,) * 3, "image_size": side, "flip": False}  # fmt: skip
    return Dataset(**{**fields, **changes})


@pytest.mark.parametrize(("size", "expected"), [(16, [16, 16, 8]), (13, [13, 13, 14]), (39, [40]), (40, [40])])
def test_a_lone_image_joins_the_batch_before_it(forty, size, expected):
    batches = list(Feed(forty, CPU).batches(size, views=2, seed=0, epoch=1))
    assert [len(seen.index) for seen in batches] == expected
    assert sorted(torch.cat([seen.index for seen in batches]).tolist()) == list(range(40))
    assert all(view.shape == (len(seen.index), 3, 16, 16) for seen in batches for view in seen.views)


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_batches_that_were_seen_are_skipped(forty, skip):
    feed = Feed(forty, CPU)
    every = list(feed.batches(16, views=2, seed=0, epoch=1))
    rest = list(feed.batches(16, views=2, seed=0, epoch=1, skip=skip))
    assert len(rest) == len(feed.sizes(16)) - skip
    for expected, seen in zip(every[skip:], rest, strict=True):
        assert torch.equal(expected.index, seen.index)
        assert np.array_equal(expected.view_names, seen.view_names)
        assert expected.whole == seen.whole
        assert all(torch.equal(a, b) for a, b in zip(expected.views, seen.views, strict=True))


@pytest.mark.parametrize(
    ("most", "pixels", "times"), [(1024, 1 << 20, 1), (32, 1 << 20, 2), (1024, 16 * 256, 3), (1, 1, 3)]
)
def test_strong_views_of_several_batches_are_distorted_at_once(forty, monkeypatch, most, pixels, times):
    """With the bits that each batch has by itself, also where an epoch is resumed in the middle of them."""
    expected = list(Feed(forty, CPU).batches(16, views=2, seed=0, epoch=3))
    calls, distort = [], feed.apply_strong_views
    monkeypatch.setattr(feed, "TOGETHER", most)
    monkeypatch.setattr(feed, "TOGETHER_PIXELS", pixels)
    monkeypatch.setattr(feed, "apply_strong_views", lambda *given: calls.append(1) or distort(*given))
    seen = list(Feed(forty, CPU).batches(16, views=2, seed=0, epoch=3))
    assert len(calls) == times
    rest = list(Feed(forty, CPU).batches(16, views=2, seed=0, epoch=3, skip=1))
    for ours, theirs in zip([*seen, *rest], [*expected, *expected[1:]], strict=True):
        assert torch.equal(ours.index, theirs.index)
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))


def test_the_strong_view_has_a_crop_of_its_own(forty, monkeypatch):
    """Both views of an image are drawn apart, from the seed and the epoch; other draws are others'."""
    monkeypatch.setattr(feed, "apply_strong_views", lambda images, views: images)

    def views(count):
        return next(Feed(forty, CPU).batches(40, views=count, seed=0, epoch=1)).views

    (weak, strong), (alone,) = views(2), views(1)
    assert torch.equal(weak, alone)
    same = sum(torch.equal(a, b) for a, b in zip(weak, strong, strict=True))
    assert same < 5  # of 40; one in 81 by chance


def test_crops_of_larger_images():
    """As CUB-200's: any crop of the stored image in training, the middle in evaluation."""
    dataset = resident(side=12, image_size=8)
    seen = next(Feed(dataset, CPU).batches(6, views=1, seed=0, epoch=1))
    (images,), index = seen.views, seen.index
    stored = torch.from_numpy(dataset.train.images).permute(0, 3, 1, 2).float()
    windows = stored.unfold(2, 8, 1).unfold(3, 8, 1)
    places = [(windows[i] == image[:, None, None]).all(dim=(0, 3, 4)).nonzero().tolist() for image, i in
              zip(images, index.tolist(), strict=True)]  # fmt: skip
    assert all(len(place) == 1 for place in places)
    assert len({tuple(place[0]) for place in places}) > 1
    (plain,) = unaugmented(dataset.test, dataset, CPU)
    torch.testing.assert_close(plain, stored[:, :, 2:10, 2:10])


def test_every_offset_of_a_larger_image_occurs():
    views = epoch_views(0, 1, 20_000, offsets=5, flip=False)
    assert views.angle is None
    assert views.top.unique().tolist() == views.left.unique().tolist() == [0, 1, 2, 3, 4]


def test_turned_images_are_pillows():
    """As Tiny-ImageNet's: turned by up to 20 degrees, the nearest pixel taken, black corners."""
    dataset = resident(count=40, rotation=20.0)
    views = epoch_views(3, 2, 40, offsets=1, flip=False, rotation=20.0)
    assert 15 < views.angle.abs().max() <= 20
    assert views.angle.min() < 0 < views.angle.max()
    got = apply_views(torch.from_numpy(dataset.train.images), views, size=12, padding=0)
    for image, angle, turned in zip(dataset.train.images, views.angle.tolist(), got, strict=True):
        expected = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST))
        assert np.array_equal(turned.permute(1, 2, 0).numpy(), expected)
    strong = epoch_views(3, 2, 40, offsets=1, flip=False, rotation=20.0, strong=True)
    assert not torch.equal(views.angle, strong.angle)


@pytest.mark.parametrize(("side", "padding", "flip", "rotation"), [(8, 2, True, 0.0), (12, 0, True, 15.0)])
def test_unaugmented_training_images_are_seen_as_in_evaluation(side, padding, flip, rotation):
    looks = {"image_size": 8, "padding": padding, "flip": flip, "rotation": rotation}
    dataset = resident(side=side, augmented=False, **looks)
    (expected,) = unaugmented(dataset.train, dataset, CPU)
    feed = Feed(dataset, CPU)
    assert feed.view_count == 1
    for epoch in (1, 2):
        seen = list(feed.batches(4, views=1, seed=0, epoch=epoch))
        index = torch.cat([batch.index for batch in seen])
        assert torch.equal(index, epoch_order(0, epoch, 6))
        assert torch.equal(torch.cat([batch.views[0] for batch in seen]), expected[index])
        assert np.concatenate([batch.view_names for batch in seen]).tolist() == index.tolist()
    assert not torch.equal(next(Feed(resident(side=side, **looks), CPU).batches(6, views=1, seed=0, epoch=1)).views[0],
                           expected[epoch_order(0, 1, 6)])  # fmt: skip


class TestStream:
    @pytest.fixture
    def split(self, tmp_path):
        write_tree(tmp_path, ["a", "b"], 5)
        paths = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
        return Encoded(pa.table({"path": paths, "label": [0] * 5 + [1] * 5}), tmp_path)

    def dataset(self, split, **changes):
        return resident(train=split, test=split, classes=["a", "b"], **{"image_size": 32, "flip": True, **changes})

    def epoch(self, split, *, views=1, seed=0, epoch=1, feeder=None):
        feeder = feeder or Feed(self.dataset(split), CPU)
        return [(seen.views, seen.index) for seen in feeder.batches(4, views=views, seed=seed, epoch=epoch)]

    def test_views_and_order(self, split):
        batches = self.epoch(split, views=2)
        assert [len(index) for _, index in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([index for _, index in batches]), epoch_order(0, 1, 10))
        assert all(view.shape == (len(index), 3, 32, 32) for views, index in batches for view in views)

    @pytest.mark.parametrize("processes", ["0", "2"])
    def test_draws_do_not_depend_on_the_workers(self, split, processes, monkeypatch):
        monkeypatch.setenv(stream.VARIABLE, "1")
        reference = self.epoch(split)
        monkeypatch.setenv(stream.VARIABLE, processes)
        state = torch.random.get_rng_state()
        again = self.epoch(split)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(a[0], b[0]) for (a, _), (b, _) in zip(reference, again, strict=True))

    @pytest.mark.parametrize("skip", [1, 2, 3])
    def test_skipped_batches_are_not_decoded(self, split, skip, monkeypatch):
        monkeypatch.setenv(stream.VARIABLE, "0")
        feed = Feed(self.dataset(split), CPU)
        every = list(feed.batches(4, views=1, seed=0, epoch=1))
        read, decoded = stream.read_image, []
        monkeypatch.setattr(stream, "read_image", lambda file: decoded.append(file) or read(file))
        rest = list(feed.batches(4, views=1, seed=0, epoch=1, skip=skip))
        assert len(decoded) == max(10 - 4 * skip, 0)
        for expected, seen in zip(every[skip:], rest, strict=True):
            assert torch.equal(expected.views[0], seen.views[0])

    def test_epochs_seeds_and_images_differ(self, split):
        feeder = Feed(self.dataset(split), CPU)

        def by_image(**options):
            found = self.epoch(split, feeder=feeder, **options)
            return torch.cat([views[0] for views, _ in found])[torch.cat([index for _, index in found]).argsort()]

        first = by_image()
        assert torch.equal(first, by_image())
        for other in (by_image(epoch=2), by_image(seed=1)):
            assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_crops_are_random_resized_ones(self, split):
        """Of one picture with a gradient, crops are gradients over parts of it; half are mirrored."""
        gradient = np.broadcast_to(np.linspace(0, 255, 100).astype(np.uint8)[None, :, None], (100, 100, 3))
        Image.fromarray(gradient).save(split.root / "gradient.png")
        one = Encoded(pa.table({"path": ["gradient.png"] * 200, "label": [0] * 200}), split.root)
        (images,) = next(Feed(self.dataset(one), CPU).batches(200, views=1, seed=0, epoch=1)).views
        slopes = images[:, 0, 16, 28] - images[:, 0, 16, 4]
        assert 60 < (slopes < 0).sum() < 140
        widths = slopes.abs() / 24 * 32 / 2.55  # in percent of the picture
        assert widths.min() < 40
        assert widths.max() > 85

    def test_without_mirroring(self, split):
        gradient = np.broadcast_to(np.linspace(0, 255, 100).astype(np.uint8)[None, :, None], (100, 100, 3))
        Image.fromarray(gradient).save(split.root / "gradient.png")
        one = Encoded(pa.table({"path": ["gradient.png"] * 50, "label": [0] * 50}), split.root)
        (images,) = next(Feed(self.dataset(one, flip=False), CPU).batches(50, views=1, seed=0, epoch=1)).views
        assert (images[:, 0, 16, 28] > images[:, 0, 16, 4]).all()

    def test_evaluation_sees_the_middle(self, split):
        """The short side becomes 8/7 of the crop's, as 256 is of 224."""
        plain = torch.cat(list(unaugmented(split, self.dataset(split, image_size=35), CPU)))
        picture = Image.open(split.root / split.table["path"][0].as_py())
        small = picture.resize((48, 40), Image.Resampling.BILINEAR).crop((6, 2, 41, 37))
        assert plain.shape == (10, 3, 35, 35)
        torch.testing.assert_close(plain[0], torch.from_numpy(np.array(small)).permute(2, 0, 1).float())

    def test_unaugmented_training_images_are_seen_as_in_evaluation(self, split):
        expected = torch.cat(list(unaugmented(split, self.dataset(split), CPU)))
        for epoch in (1, 2):
            seen = self.epoch(split, epoch=epoch, feeder=Feed(self.dataset(split, augmented=False), CPU))
            index = torch.cat([index for _, index in seen])
            assert torch.equal(torch.cat([views[0] for views, _ in seen]), expected[index])

    @pytest.mark.parametrize("processes", ["0", "1"])
    def test_some_of_the_images(self, split, processes, monkeypatch):
        """The pictures are those of their positions, in training and in evaluation."""
        monkeypatch.setenv(stream.VARIABLE, processes)
        chosen = np.array([7, 1, 4])
        expected = torch.cat(list(unaugmented(split, self.dataset(split), CPU)))[chosen]
        some = split.take(chosen)
        assert torch.equal(torch.cat(list(unaugmented(some, self.dataset(some), CPU))), expected)
        ((views, index),) = self.epoch(some, feeder=Feed(self.dataset(some, augmented=False), CPU))
        assert torch.equal(views[0], expected[index])

    def test_from_bytes_and_from_disk(self, split, tmp_path):
        content = [(split.root / path.as_py()).read_bytes() for path in split.table["path"]]
        inside = Encoded(pa.table({"image": content, "label": split.labels}))
        folder = tmp_path / "stored"
        folder.mkdir()
        storage.save(self.dataset(inside), folder)
        loaded = storage.load(folder)
        assert loaded.train.file == folder / "train.arrow"
        (first, _), *_ = self.epoch(split)
        second = next(Feed(loaded, CPU).batches(4, views=1, seed=0, epoch=1)).views
        assert torch.equal(first[0], second[0])

    @pytest.mark.parametrize(("damage", "reason"), [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated"),
        (lambda path: path.write_bytes(b"no image"), "cannot identify"),
        (lambda path: path.unlink(), "No such file"),
    ])  # fmt: skip
    @pytest.mark.parametrize("processes", ["0", "1"])
    def test_broken_images_are_named(self, split, damage, reason, processes, monkeypatch):
        monkeypatch.setenv(stream.VARIABLE, processes)
        damage(split.root / "a" / "a_3.jpg")
        with pytest.raises(UserError, match=rf"a_3\.jpg: cannot be decoded \(.*{reason}"):
            self.epoch(split)
        with pytest.raises(UserError, match=r"a_3\.jpg: cannot be decoded"):
            list(unaugmented(split, self.dataset(split), CPU))

    def test_broken_bytes_are_named(self):
        broken = Encoded(pa.table({"image": [encoded(0, 0), b"no image"], "label": [0, 1]}))
        with pytest.raises(UserError, match=r"image 1: cannot be decoded \(cannot identify an image in it\)"):
            list(unaugmented(broken, self.dataset(broken), CPU))

    def test_greys_of_16_bits(self, split):
        """Not black and white alone."""
        grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
        Image.fromarray(grey).save(split.root / "grey.png")
        one = Encoded(pa.table({"path": ["grey.png"], "label": [0]}), split.root)
        (image,) = unaugmented(one, self.dataset(one, image_size=56), CPU)
        torch.testing.assert_close(image[0, 1], torch.from_numpy((grey >> 8).astype(np.float32))[4:60, 4:60])

    @pytest.mark.parametrize("value", ["-1", "two", ""])
    def test_number_of_workers(self, monkeypatch, value):
        monkeypatch.setenv(stream.VARIABLE, value)
        with pytest.raises(UserError, match=r"KDCORE_WORKERS=.*must be a number from 0 upwards"):
            stream.workers()

    def test_workers_where_the_system_hides_their_cores(self, monkeypatch):
        """As macOS does."""
        monkeypatch.delenv(stream.VARIABLE, raising=False)
        monkeypatch.delattr(stream.os, "sched_getaffinity", raising=False)
        for count, expected in ((6, 5), (1, 1), (None, 1), (64, 16)):
            monkeypatch.setattr(stream.os, "cpu_count", lambda count=count: count)
            assert stream.workers() == expected
