"""Augmentations of recipes: the pixels of timm, torchvision and Pillow on given draws, and what draws depend on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps

from kdcore.data import distort, timm_randaugment
from kdcore.data.dataset import Encoded
from kdcore.data.distort import Distortions, boxes, draw, erase, normal, rectangles
from kdcore.data.feed import Feed, Shard
from kdcore.data.interpolate import resized_crop
from kdcore.data.sources import digits
from kdcore.matrix.train_recipe import Augmentation
from kdcore.system.errors import UserError
from kdcore.training import loop
from tests.data.test_randaugment import pictures
from tests.train import CPU

FILL = (124, 116, 104)
TIMM = {
    "rotate": "Rotate", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel", "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert",
    "posterize": "Posterize", "solarize": "Solarize", "solarize_add": "SolarizeAdd", "color": "Color",
    "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness",
}  # fmt: skip
ALL = {"randaugment": {}, "colour_jitter": 0.4, "erasing": 0.5, "crop": "resized"}


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def as_pillow(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def as_tensor(images):
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", timm_randaugment.NAMES)
def test_operations_are_those_of_timm(monkeypatch, name, interpolation, increasing):
    """Each of 24 pictures with a magnitude of its own, those without and with the largest one included."""
    timm = pytest.importorskip("timm.data.auto_augment")
    images, magnitude = pictures(24), np.linspace(0, 10, 24)
    theirs = TIMM[name]
    if increasing and f"{theirs}Increasing" in timm.NAME_TO_OP:
        theirs += "Increasing"
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected, negative = [], np.arange(24) % 3 == 0
    for image, level, goes_back in zip(as_pillow(images), magnitude, negative, strict=True):
        monkeypatch.setattr(timm.random, "random", lambda goes_back=goes_back: 0.9 if goes_back else 0.1)
        hparams = {"img_mean": FILL, "interpolation": resample}
        operation = timm.AugmentOp(theirs, prob=1.0, magnitude=level, hparams=hparams)
        if name == "posterize":
            operation.aug_fn = lambda image, bits, **_: ImageOps.posterize(image, max(1, bits))
        expected.append(operation(image))
    operation = np.full(24, timm_randaugment.NAMES.index(name))
    argument = timm_randaugment.arguments(operation, magnitude, negative, increasing=increasing)
    got = timm_randaugment.apply(
        images, torch.from_numpy(operation), torch.from_numpy(argument),
        interpolation=interpolation, fill=torch.tensor(FILL, dtype=torch.uint8),
    )  # fmt: skip
    assert torch.equal(got, as_tensor(expected))


def test_images_of_a_batch_get_their_own_operations():
    images, operation = pictures(16), torch.arange(16) % (timm_randaugment.NOTHING + 1)
    argument = torch.from_numpy(
        timm_randaugment.arguments(operation.numpy(), np.full(16, 7.0), np.zeros(16, bool), increasing=True)
    )
    options = {"interpolation": "bicubic", "fill": torch.tensor(FILL, dtype=torch.uint8)}
    whole = timm_randaugment.apply(images, operation, argument, **options)
    for i in range(16):
        assert torch.equal(
            whole[i : i + 1],
            timm_randaugment.apply(images[i : i + 1], operation[i : i + 1], argument[i : i + 1], **options),
        )
    assert torch.equal(whole[15], images[15])


def test_colour_jitter_is_that_of_torchvision():
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = pictures(12)
    drawn = draw(Augmentation(colour_jitter=0.4), 1, 2, 12, size=32)
    assert 0.6 <= drawn.factor.min() < 0.7
    assert 1.3 < drawn.factor.max() <= 1.4
    assert len({tuple(order) for order in drawn.jitter.tolist()}) > 2
    change = {"brightness": functional.adjust_brightness, "contrast": functional.adjust_contrast,
              "color": functional.adjust_saturation}  # fmt: skip
    expected = []
    for image, order, factor in zip(as_pillow(images), drawn.jitter.tolist(), drawn.factor.tolist(), strict=True):
        for number, weight in zip(order, factor, strict=True):
            image = change[distort.JITTERED[number]](image, weight)  # noqa: PLW2901
        expected.append(image)
    got = distort.distort(images, drawn, interpolation="bicubic", fill=torch.zeros(3, dtype=torch.uint8))
    assert torch.equal(got, as_tensor(expected))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 32, 48])
def test_resized_crops_are_those_of_pillow(interpolation, size):
    """In two steps, for Pillow 12 begins with the rows where that is faster, and rounds otherwise then."""
    images, box = pictures(24), boxes(0, 1, 24, size=32)
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = []
    for image, (top, left, height, width) in zip(as_pillow(images), box.tolist(), strict=True):
        part = image.crop((left, top, left + width, top + height))
        expected.append(part.resize((size, height), resample).resize((size, size), resample))
    assert torch.equal(resized_crop(images, box, size, interpolation), as_tensor(expected))
    whole = torch.tensor([0, 0, 32, 32]).expand(24, 4)
    assert torch.equal(resized_crop(images, whole, 32, interpolation), images)


def test_rectangles():
    draws = np.random.default_rng(0).random((20_000, 22))
    box = rectangles(draws, 32, distort.CROPPED, (3 / 4, 4 / 3), below=False)
    top, left, height, width = box.T
    assert (box >= 0).all()
    assert ((top + height <= 32) & (left + width <= 32)).all()
    share, aspect = height * width / 32**2, height / width
    assert 0.05 < share.min() < 0.1
    assert 0.9 < share.max() <= 1
    assert 0.6 < aspect.min() < aspect.max() < 1.6
    assert (top + height == 32).any()
    assert (left + width == 32).any()
    none = rectangles(np.ones((1, 22)) * 0.999, 2, (0.9, 1.0), (9.0, 10.0), below=False)
    assert none.tolist() == [[0, 0, 2, 2]]


def test_erasing():
    drawn = draw(Augmentation(erasing=0.25), 3, 1, 400, size=32)
    is_erased = drawn.erased[:, 2] > 0
    assert 60 < is_erased.sum() < 140
    images = torch.full((400, 3, 32, 32), 9.0).contiguous(memory_format=torch.channels_last)
    erased = erase(images.clone(), drawn)
    assert ((erased != images).flatten(1).any(dim=1) == is_erased).all()
    for i in is_erased.nonzero()[:20, 0].tolist():
        top, left, height, width = drawn.erased[i].tolist()
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal((erased[i] != 9.0).all(dim=0), inside)
        index = torch.tensor([i])
        assert torch.equal(erase(images[index].clone(), drawn.of(index))[0], erased[i])
    noise = erased[erased != 9.0]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_noise_is_normal():
    noise = normal(torch.tensor([5, 6, 2**63 - 1]), 200_000)
    assert torch.equal(noise, normal(torch.tensor([5, 6, 2**63 - 1]), 200_000))
    for row in noise:
        assert abs(row.mean()) < 0.01
        assert abs(row.std() - 1) < 0.01
        assert abs((row.abs() < 1).float().mean() - 0.6827) < 0.005
        assert abs((row[1:] * row[:-1]).mean()) < 0.01
    assert abs((noise[0] * noise[1]).mean()) < 0.01


def test_magnitudes_are_drawn_around_theirs():
    drawn = draw(Augmentation(randaugment={"operations": 3}), 0, 1, 4000, size=32)
    assert drawn.operation.shape == (4000, 3)
    counts = drawn.operation.flatten().bincount(minlength=timm_randaugment.NOTHING + 1)
    assert abs(counts[-1] / 12_000 - 0.5) < 0.02
    assert counts[:-1].min() > 300
    turns = drawn.argument[drawn.operation == timm_randaugment.NAMES.index("rotate")]
    assert abs(turns.abs().mean() - 27) < 0.3
    assert 0.4 < (turns < 0).double().mean() < 0.6
    assert turns.abs().max() <= 30


def test_draws_of_an_image_depend_on_nothing_else():
    recipe = Augmentation.model_validate(ALL)
    few, many = (draw(recipe, 4, 2, count, size=16) for count in (10, 50))
    for name in vars(few):
        assert torch.equal(getattr(few, name), getattr(many, name)[:10]), name
    other = draw(recipe, 5, 2, 10, size=16)
    assert not torch.equal(few.operation, other.operation)
    assert torch.equal(boxes(4, 2, 10, size=16), boxes(4, 2, 50, size=16)[:10])


def images_of(dataset, augmentation, *, size=7, shard=None, epoch=1, **options):
    """Position of an image -> its views in an epoch, in the order in which they come."""
    seen = loop.seen_by({"name": "x", "train": {"augmentation": augmentation}}, dataset)
    feed = Feed(seen, CPU, *([shard] if shard else []), **options)
    found = {}
    for batch in feed.batches(size, views=1, seed=3, epoch=epoch):
        assert torch.equal(batch.target, feed.labels[batch.index])
        assert batch.view_names is None
        for index, image in zip(batch.index.tolist(), batch.views[0], strict=True):
            found.setdefault(index, []).append(image)
    return found


@pytest.mark.parametrize("augmentation", [ALL, {"randaugment": {}, "interpolation": "bilinear"}, {"erasing": 1.0}])
def test_views_depend_on_seed_epoch_and_image(dataset, augmentation):
    """Not on batches, and not on the number of processes."""
    expected = images_of(dataset, augmentation)
    assert sorted(expected) == list(range(len(dataset.train.labels)))
    again = images_of(dataset, augmentation, size=16)
    shards = [images_of(dataset, augmentation, size=16, shard=Shard(rank, 2)) for rank in (0, 1)]
    parts = {**shards[0], **shards[1]}
    for index, (image,) in expected.items():
        assert torch.equal(image, again[index][0])
        assert torch.equal(image, parts[index][0])
    other = images_of(dataset, augmentation, epoch=2)
    assert sum(not torch.equal(image, other[index][0]) for index, (image,) in expected.items()) > 30


def test_joined_copies(dataset):
    """Every image twice: plain, and augmented."""
    both, plain = images_of(dataset, {"joined": True, "erasing": 1.0}, size=3), images_of_plain(dataset)
    augmented = images_of(dataset, {"erasing": 1.0})
    for index, images in both.items():
        assert len(images) == 2
        assert sum(torch.equal(image, plain[index]) for image in images) == 1
        assert sum(torch.equal(image, augmented[index][0]) for image in images) == 1
    feed = Feed(loop.seen_by({"name": "x", "train": {"augmentation": {"joined": True}}}, dataset), CPU)
    assert sum(feed.sizes(16)) == 2 * len(dataset.train.labels)


def images_of_plain(dataset):
    feed = Feed(loop.seen_by({"name": "x", "train": {"augmentation": "none"}}, dataset), CPU)
    (batch,) = feed.batches(1000, views=1, seed=3, epoch=1)
    return dict(zip(batch.index.tolist(), batch.views[0], strict=True))


def test_plain_copies_are_left_alone():
    drawn = draw(Augmentation.model_validate(ALL), 4, 2, 10, size=16)
    both = drawn.behind_plain()
    images = pictures(10)
    still = both.of(torch.arange(10))
    assert torch.equal(
        distort.distort(images, still, interpolation="bicubic", fill=torch.zeros(3, dtype=torch.uint8)), images
    )
    assert torch.equal(erase(images.float(), still), images.float())
    assert torch.equal(both.of(torch.arange(10, 20)).operation, drawn.operation)
    assert isinstance(both, Distortions)


def test_streams_have_no_padded_crops(dataset):
    table = pa.table({"label": [0, 1], "image": [b"", b""]})
    streamed = replace(dataset, train=Encoded(table), recipe=Augmentation(crop="padded"))
    with pytest.raises(
        UserError, match=r"train\.augmentation\.crop: padded: these images are decoded as they are needed"
    ):
        Feed(streamed, CPU)
