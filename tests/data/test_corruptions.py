"""Our own corruptions: stronger with severity, the same bits in any batch, and blurs that leave constant images."""

import numpy as np
import pytest

from kdcore.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from kdcore.data.sources import digits
from kdcore.system.errors import UserError

FAMILIES = ("noise", "blur", "weather", "digital")
BLURS = [name for name, one in CORRUPTIONS.items() if one.family == "blur"]


@pytest.fixture(scope="module")
def images():
    """24 digits of 16 pixels."""
    return digits.fetch(source="embedded", image_size=16, train_per_class=2).test.images[:24]


def waves(side):
    """Smooth colours with edges, (1, side, side, 3), the same picture at every size."""
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    channels = [np.sin(2 * np.pi * (3 * rows + k * columns)) > 0.6 * np.cos(9 * columns) for k in range(3)]
    return (60 + 140 * np.stack(channels, axis=2)).astype(np.uint8)[None]


def distances(images, name):
    made = [corrupt(images, range(len(images)), name, severity) for severity in SEVERITIES]
    return [np.abs(one.astype(int) - images).mean() for one in made]


def test_four_ways_of_each_family():
    assert [one.family for one in CORRUPTIONS.values()] == [family for family in FAMILIES for _ in range(4)]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_differs_more_from_the_clean_image(images, name):
    found = distances(images, name)
    assert all(less < more for less, more in zip([0.0, *found], found, strict=False)), found


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_sizes_grow_with_the_image(name):
    """The same picture at 32 and at 96 pixels loses about as much; JPEG has blocks of 8 pixels at any size."""
    small, large = (np.mean(distances(waves(side), name)) for side in (32, 96))
    assert name == "jpeg" or 0.5 < large / small < 1.6


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_equal_bits_twice_and_in_any_batch(images, name):
    positions = np.arange(7, 7 + len(images))
    whole = corrupt(images, positions, name, 3)
    assert whole.dtype == np.uint8
    assert whole.shape == images.shape
    parts = [corrupt(images[first : first + 5], positions[first : first + 5], name, 3) for first in range(0, 24, 5)]
    assert (np.concatenate(parts) == whole).all()
    assert (corrupt(images[::-1], positions[::-1], name, 3)[::-1] == whole).all()


@pytest.mark.parametrize("name", ["gaussian_noise", "motion_blur", "fog", "snow", "elastic"])
def test_draws_depend_on_position_and_severity(images, name):
    twins = np.stack([images[0], images[0]])
    first, second = corrupt(twins, [0, 1], name, 3)
    assert (first != second).any()
    assert (corrupt(twins[:1], [0], name, 3)[0] == first).all()


@pytest.mark.parametrize("name", [*BLURS, "contrast", "elastic", "pixelate"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (10, 100, 201), (255, 255, 255)])
def test_a_constant_image_is_left_as_it_is(name, colour):
    constant = np.full((1, 33, 33, 3), colour, np.uint8)
    for severity in SEVERITIES:
        assert (corrupt(constant, [3], name, severity) == constant).all()


@pytest.mark.parametrize("name", BLURS)
def test_blurs_keep_the_mean(name):
    """Of a point in the middle of an image; what is averaged is neither made brighter nor darker."""
    point = np.zeros((1, 33, 33, 3), np.uint8)
    point[:, 15:18, 15:18] = 255
    blurred = corrupt(point, [0], name, 3)
    spread = 1.0 if name != "zoom_blur" else np.mean([(1 + 0.19 * step / 5) ** 2 for step in range(6)])
    assert blurred.mean() == pytest.approx(spread * point.mean(), rel=0.05)
    assert (blurred > 0).sum() > (point > 0).sum()


def test_shares_by_hand():
    grey = np.full((1, 40, 40, 3), 100, np.uint8)
    assert (corrupt(grey, [0], "darkness", 2) == 60).all()
    assert (corrupt(grey, [0], "brightness", 1) == round(100 + 25.5)).all()
    changed = corrupt(grey, [0], "impulse_noise", 5)
    assert set(np.unique(changed)) == {0, 100, 255}
    assert (changed != grey).mean() == pytest.approx(0.1, abs=0.02)
    noise = corrupt(grey, [0], "gaussian_noise", 2).astype(float) - 100
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert corrupt(grey, [0], "shot_noise", 3).astype(float).var() == pytest.approx(255 * 100 / 120, rel=0.1)


@pytest.mark.parametrize(("name", "severity"), [("rain", 1), ("fog", 0), ("fog", 6)])
def test_unknown_ones_are_refused(images, name, severity):
    with pytest.raises(UserError, match=r"is none of gaussian_noise, .*, with severity 1 to 5"):
        corrupt(images, range(24), name, severity)
