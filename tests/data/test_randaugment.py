"""The strong view, against Pillow, whose operations it repeats on batches."""

import platform

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from kdcore.data.randaugment import (
    CUTOUT_COLOUR,
    LARGEST_CUTOUT,
    OPERATIONS,
    StrongViews,
    apply_strong_views,
    epoch_strong_views,
)

# Everything equals Pillow to the grey level. Its interpolation between two images multiplies and adds in float32 and
# cuts off; where compilers fuse the two (not on x86-64), a result just beside an integer may fall on its other side.
EXACT = platform.machine() in {"x86_64", "AMD64"}
INTERPOLATING = {"brightness", "color", "contrast", "sharpness"}


def affine(*coefficients):
    return lambda image, v: image.transform(
        image.size, Image.Transform.AFFINE, [c(v, image) if callable(c) else c for c in coefficients]
    )


def strength(v, _):
    return v


PILLOW = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "identity": lambda image, _: image,
    "posterize": lambda image, v: ImageOps.posterize(image, max(1, int(v))),
    "rotate": lambda image, v: image.rotate(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "shear_x": affine(1, strength, 0, 0, 1, 0),
    "shear_y": affine(1, 0, 0, strength, 1, 0),
    "solarize": ImageOps.solarize,
    "translate_x": affine(1, 0, lambda v, image: v * image.width, 0, 1, 0),
    "translate_y": affine(1, 0, 0, 0, 1, lambda v, image: v * image.height),
}


def pictures(count, height=32, width=32, seed=0):
    """(count, 3, H, W): noise, dull noise, gradients and few grey levels in turn."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (count, height, width, 3))
    dull = random.integers(0, 100, (count, 1, 1, 3)) + noise * random.random((count, 1, 1, 3)) * 0.6
    slopes = random.uniform(-4, 4, (2, count, 1, 1, 3))
    gradient = 128 + slopes[0] * np.arange(-height // 2, height // 2)[:, None, None]
    gradient = gradient + slopes[1] * np.arange(-width // 2, width // 2)[:, None] + noise / 32
    kinds = np.stack([noise, dull, gradient, noise // 64 * 50])
    chosen = kinds[np.arange(count) % 4, np.arange(count)].clip(0, 255).astype(np.uint8)
    return torch.from_numpy(chosen).permute(0, 3, 1, 2)


def each_by_pillow(images, change):
    """Every image changed by `change(picture, its number)`."""
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    changed = [np.array(change(Image.fromarray(array), i)) for i, array in enumerate(arrays)]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


def difference(first, second):
    assert first.shape == second.shape
    assert first.dtype == second.dtype == torch.uint8
    return (first.int() - second.int()).abs()


def cut_by_pillow(image, side, x, y):
    """As published; `side`, `x` and `y` in pixels."""
    x0, y0 = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    corners = (x0, y0, min(image.width, x0 + side), min(image.height, y0 + side))
    ImageDraw.Draw(image).rectangle(corners, CUTOUT_COLOUR)
    return image


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


class TestOperations:
    def test_the_published_ones(self):
        assert list(OPERATIONS) == list(PILLOW)
        ranges = {name: (low, high) for name, (_, low, high) in OPERATIONS.items()}
        assert {name for name, ends in ranges.items() if ends == (0.05, 0.95)} == INTERPOLATING
        moved = {"shear_x", "shear_y", "translate_x", "translate_y"}
        assert {name for name, ends in ranges.items() if ends == (-0.3, 0.3)} == moved
        assert (ranges["posterize"], ranges["rotate"], ranges["solarize"]) == ((4, 8), (-30, 30), (0, 256))

    @pytest.mark.parametrize("precision", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (12, 20)])
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_equals_pillow(self, name, height, width, precision):
        """Also the geometric ones in every pixel: they choose pixels in Pillow's own 16.16 fixed point.

        The cosines behind a rotation may differ in the last bit; one chance in about 10^10 that this moves a pixel.
        """
        function, low, high = OPERATIONS[name]
        inner = [low + (high - low) * share for share in (0.25, 0.5, 0.5 + 1 / 64, 0.75, 0.9999)]
        drawn = np.random.default_rng(1).uniform(low, high, 193)
        magnitude = torch.tensor([low, high, *inner, *drawn], dtype=precision)
        images = pictures(len(magnitude), height, width)
        expected = each_by_pillow(images, lambda image, i: PILLOW[name](image, magnitude[i].item()))
        allowed = 0 if EXACT or name not in INTERPOLATING else 1
        assert difference(function(images, magnitude), expected).max() <= allowed

    @pytest.mark.parametrize("name", sorted(INTERPOLATING))
    def test_interpolation_between_all_levels(self, name):
        """Noise at many weights: between them, practically every pair of grey levels."""
        function, low, high = OPERATIONS[name]
        magnitude = torch.linspace(low, high, 997, dtype=torch.float64)
        images = pictures(4 * 997, 16, 16, seed=2)[::4]
        expected = each_by_pillow(images, lambda image, i: PILLOW[name](image, magnitude[i].item()))
        assert difference(function(images, magnitude), expected).max() <= (0 if EXACT else 1)

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("level", [0, 1, 100, 255])
    def test_images_of_one_colour(self, name, level):
        function, low, high = OPERATIONS[name]
        images = torch.tensor([level, 7, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(3, 3, 16, 16)
        magnitude = torch.tensor([low, (low + high) / 2, high], dtype=torch.float64)
        got = function(images, magnitude)
        expected = each_by_pillow(images, lambda image, i: PILLOW[name](image, magnitude[i].item()))
        assert difference(got, expected).max() <= (0 if EXACT or name not in INTERPOLATING else 1)
        if name in {"autocontrast", "equalize"}:
            assert torch.equal(got, images)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_memory_layout_does_not_matter(self, name, deterministic):
        function, low, high = OPERATIONS[name]
        magnitude = torch.linspace(low, high, 8, dtype=torch.float64)
        images = pictures(8)
        assert not images.is_contiguous()
        before = images.clone()
        assert torch.equal(function(images, magnitude), function(images.contiguous(), magnitude))
        assert torch.equal(images, before)


class TestDraws:
    COUNT = 20_000

    @staticmethod
    def draws(seed, epoch, count=50):
        views = epoch_strong_views(seed, epoch, count)
        return torch.cat([views.operation.double(), views.magnitude, views.cutout], dim=1)

    def test_depend_on_seed_and_epoch_alone(self):
        first = self.draws(0, 1)
        assert torch.equal(first, self.draws(0, 1))
        assert torch.equal(first, self.draws(0, 1, 99)[:50])
        assert not torch.equal(first, self.draws(1, 1))
        assert not torch.equal(first, self.draws(0, 2))

    def test_every_operation_occurs_equally_often(self):
        operation = epoch_strong_views(0, 1, self.COUNT).operation
        assert operation.dtype == torch.int64
        kinds = len(OPERATIONS)
        for of_a_round in operation.T:
            counts = of_a_round.bincount(minlength=kinds)
            assert counts.shape == (kinds,)
            assert (counts - self.COUNT / kinds).abs().max() < 5 * (self.COUNT / kinds) ** 0.5
        pairs = (operation[:, 0] * kinds + operation[:, 1]).bincount(minlength=kinds**2)
        assert (pairs - self.COUNT / kinds**2).abs().max() < 5 * (self.COUNT / kinds**2) ** 0.5

    def test_magnitudes_and_cutouts_fill_their_ranges(self):
        for draws in self.draws(0, 1, self.COUNT)[:, 2:].T:
            assert draws.min() >= 0
            assert draws.max() < 1
            tenths = (10 * draws).long().bincount(minlength=10)
            assert (tenths - self.COUNT / 10).abs().max() < 5 * (self.COUNT / 10) ** 0.5

    def test_are_independent(self):
        correlations = torch.corrcoef(self.draws(0, 1, self.COUNT).T) - torch.eye(7)
        assert correlations.abs().max() < 5 / self.COUNT**0.5

    def test_of_some_images(self):
        views, index = epoch_strong_views(0, 1, 9), torch.tensor([7, 2, 2])
        some = views.of(index)
        for name in ("operation", "magnitude", "cutout"):
            assert torch.equal(getattr(some, name), getattr(views, name)[index])


class TestViews:
    @staticmethod
    def only(name, magnitude, cutout=(0.0, 0.0, 0.0)):
        """One image's view: an operation, then none, then a cutout."""
        names = list(OPERATIONS)
        operation = torch.tensor([[names.index(name), names.index("identity")]])
        return StrongViews(operation, torch.tensor([[magnitude, 0.0]]), torch.tensor([cutout], dtype=torch.float64))

    @pytest.mark.skipif(not EXACT, reason="a grey level's difference may grow in the second operation")
    @pytest.mark.parametrize("size", [32, 16])
    def test_equal_pillow(self, size):
        count = 600
        images, views = pictures(count, size, size), epoch_strong_views(3, 5, count)
        kinds = list(OPERATIONS)

        def change(image, i):
            for number, share in zip(views.operation[i].tolist(), views.magnitude[i].tolist(), strict=True):
                _, low, high = OPERATIONS[kinds[number]]
                image = PILLOW[kinds[number]](image, low + (high - low) * share)
            side, x, y = views.cutout[i].tolist()
            return cut_by_pillow(image.copy(), side * LARGEST_CUTOUT * size, x * size, y * size)

        assert difference(apply_strong_views(images, views), each_by_pillow(images, change)).max() == 0

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (12, 20)])
    def test_cutouts_equal_pillow(self, height, width):
        grid = torch.tensor([0.0, 1 / 64, 0.25, 0.4, 0.75, 0.99999], dtype=torch.float64)
        drawn = torch.from_numpy(np.random.default_rng(0).random((400, 3)))
        cutout = torch.cat([torch.cartesian_prod(grid, grid, grid), drawn])
        images = pictures(len(cutout), height, width)
        nothing = torch.full((len(cutout), 2), list(OPERATIONS).index("identity"))
        got = apply_strong_views(images, StrongViews(nothing, torch.zeros(nothing.shape), cutout))

        def change(image, i):
            side, x, y = cutout[i].tolist()
            return cut_by_pillow(image, side * LARGEST_CUTOUT * width, x * width, y * height)

        assert difference(got, each_by_pillow(images, change)).max() == 0

    def test_cutout_by_hand(self):
        """Side 4 of 16 pixels about (8, 8): from 6 up to and with 10."""
        black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        cut = apply_strong_views(black, self.only("identity", 0.0, cutout=(0.5, 0.5, 0.5)))[0]
        assert cut[:, 6:11, 6:11].flatten(1).unique(dim=1).T.tolist() == [[125, 123, 114]]
        assert cut.sum() == 25 * (125 + 123 + 114)

    def test_magnitudes_are_of_the_operations_range(self):
        image = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
        dark = apply_strong_views(image, self.only("brightness", 0.5))
        assert dark[0, :, 15, 15].tolist() == [100, 100, 100]
        kept = apply_strong_views(image, self.only("solarize", 201 / 256))
        assert kept[0, :, 15, 15].tolist() == [200, 200, 200]

    def test_batch_equals_image_by_image(self, deterministic):
        images, views = pictures(64), epoch_strong_views(1, 1, 64)
        together = apply_strong_views(images, views)
        one = [apply_strong_views(images[i : i + 1], views.of(torch.tensor([i]))) for i in range(64)]
        assert torch.equal(together, torch.cat(one))
        assert torch.equal(together, apply_strong_views(images, views))

    def test_nothing_is_read_from_the_device(self):
        """Images without content: whatever asked for a value, or mixed devices, would raise."""
        got = apply_strong_views(pictures(200).to("meta"), epoch_strong_views(0, 1, 200))
        assert (got.shape, got.dtype, got.device.type) == ((200, 3, 32, 32), torch.uint8, "meta")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_same_on_a_gpu(self, deterministic):
        images, views = pictures(500), epoch_strong_views(2, 1, 500)
        assert torch.equal(apply_strong_views(images.cuda(), views).cpu(), apply_strong_views(images, views))
