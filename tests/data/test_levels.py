"""16-bit images of which few grey levels are left, such as temperatures and computed tomography with an offset."""

import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from kdcore.data.sources import levels
from tests.data.own_sets import fetch_own

CLASSES = ["cat", "dog"]
GREY, RGB, GREY_AND_ALPHA = 0, 2, 4
CHANNELS = {GREY: 1, RGB: 3, GREY_AND_ALPHA: 2}
LEFT = re.compile(
    r"98% of the values of (\d+) 16-bit (training|test) images, but for 0 and 65535, are from (\d+) to (\d+) and "
    r"become (\d+) to (\d+) of 255, so they keep (\d+) of 256 levels; (.*)"
)


def thermal(number, low=29315, high=31315, size=24):
    return np.random.default_rng(number).integers(low, high + 1, (size, size))


def tomography(number):
    """Air, tissue and a little bone, in Hounsfield units + 32768."""
    generator = np.random.default_rng(number)
    units = generator.choice([-1000, 0, 60, 700], (24, 24), p=[0.4, 0.3, 0.28, 0.02])
    return units + generator.integers(-30, 30, (24, 24)) + 32768


def saturated(number):
    values = thermal(number)
    values[0, :2] = 65535, 50000
    return values


def bordered(number):
    values = thermal(number)
    values[:6] = 0
    return values


def png(values, kind=GREY):
    """The content of a PNG with 16 bits; Pillow cannot write all kinds that it reads."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape
    pixel = np.repeat(values[..., None], CHANNELS[kind], axis=2).astype(">u2")
    if kind == GREY_AND_ALPHA:
        pixel[..., 1] = 65535
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixel))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(values):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "TIFF")
    return buffer.getvalue()


def tiff_of_colours(values):
    height, width = values.shape
    content = np.repeat(values[..., None], 3, axis=2).astype("<u2").tobytes()
    start = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, start + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(content))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0" + struct.pack("<IH", 8, 9) + entries + struct.pack("<I", 0) + struct.pack("<3H", 16, 16, 16) + content
    )


def write(folder, make, form=png, *, start=0, suffix=".png"):
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            (folder / name / f"{number}{suffix}").write_bytes(form(make(start + 10 * label + number)))


def left(capsys):
    """What is said of the levels that are left, by split."""
    return {said[2]: said for said in LEFT.finditer(capsys.readouterr().err)}


FORMS = {
    "grey": (png, ".png"), "rgb": (lambda values: png(values, RGB), ".png"),
    "grey and alpha": (lambda values: png(values, GREY_AND_ALPHA), ".png"),
    "tiff": (tiff, ".tif"), "tiff of colours": (tiff_of_colours, ".tiff"),
}  # fmt: skip


class TestFewLevels:
    @pytest.mark.parametrize("make", [thermal, tomography, saturated, bordered])
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_are_said(self, tmp_path, make, form, augmentation, capsys):
        encode, suffix = FORMS[form]
        write(tmp_path / "train", make, encode, suffix=suffix)
        write(tmp_path / "test", make, encode, start=50, suffix=suffix)
        fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
        said = left(capsys)
        assert set(said) == {"training", "test"}
        assert int(said["training"][7]) < 16
        assert re.match(r"set data\.scale_16bit: \[\d+, \d+\], values that become black and", said["training"][8])
        assert said["test"][8] == "data.scale_16bit, as for the training images, changes them too"

    @pytest.mark.parametrize("make", [thermal, saturated, bordered])
    def test_the_remedy_gives_them_back(self, tmp_path, make, capsys):
        write(tmp_path, make)
        options = {"test_share": 0.5, "image_size": 24, "augmentation": "pad_crop"}
        before = fetch_own(f"folder:{tmp_path}", **options)
        said = left(capsys)["training"]
        dataset = fetch_own(f"folder:{tmp_path}", **options, scale_16bit=[int(said[3]), int(said[4])])
        assert len(np.unique(before.train.images)) <= 11
        assert len(np.unique(dataset.train.images)) > 200
        assert left(capsys) == {}

    def test_in_the_test_alone(self, tmp_path, capsys):
        write(tmp_path / "train", lambda number: thermal(number, 1, 65534))
        write(tmp_path / "test", thermal, start=50)
        fetch_own(f"folder:{tmp_path}")
        said = left(capsys)
        assert set(said) == {"test"}
        assert said["test"][8] == "the training images are not like that; bring both to one range"

    @pytest.mark.parametrize("chosen", ["largest", 40000, [0, 65535], [20000, 60000]])
    def test_after_a_choice_that_does_not_help(self, tmp_path, chosen, capsys):
        write(tmp_path, saturated)
        fetch_own(f"folder:{tmp_path}", test_share=0.5, scale_16bit=chosen)
        assert set(left(capsys)) == {"training", "test"}

    @pytest.mark.parametrize("make", [
        lambda number: thermal(number, 0, 65535),
        lambda number: thermal(number, 20000, 26000),
        lambda number: (thermal(number) % 2) * 65535,
        lambda number: (thermal(number) % 2) * 40000,
    ])  # fmt: skip
    def test_are_not_said_where_they_are_many_or_never_were(self, tmp_path, make, capsys):
        write(tmp_path, make)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert left(capsys) == {}

    def test_one_remedy_where_values_are_small(self, tmp_path, capsys):
        """White is what has to change, not black."""
        write(tmp_path, lambda number: thermal(number, 0, 1500))
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        said = capsys.readouterr().err
        assert said.count("\n") == said.count("use a small part of their range") == 2


class TestBlackAndWhite:
    def test_are_the_two_values(self, tmp_path, capsys):
        write(tmp_path / "train", thermal)
        write(tmp_path / "test", thermal, start=50)
        dataset = fetch_own(f"folder:{tmp_path}", scale_16bit=[29315, 31315], image_size=24, augmentation="pad_crop")
        expected = np.rint((thermal(0) - 29315) * 255 / 2000)
        assert np.abs(dataset.train.images[0, ..., 1] - expected).max() == 0
        assert capsys.readouterr().err == ""

    def test_what_is_beyond_is_said(self, tmp_path, capsys):
        write(tmp_path / "train", thermal)
        write(tmp_path / "test", lambda number: thermal(number, 28315, 32315), start=50)
        dataset = fetch_own(f"folder:{tmp_path}", scale_16bit=[29315, 31315], image_size=24, augmentation="pad_crop")
        values = thermal(50, 28315, 32315)
        expected = np.rint((values - 29315) * 255 / 2000).clip(0, 255)
        assert np.array_equal(dataset.test.images[0, ..., 0], expected)
        said = capsys.readouterr().err
        for end, colour in (("below 29315", "black"), ("above 31315", "white")):
            text = rf"8 of 8 16-bit test images have values {end}, which become {colour}, 2[3-6]\.\d% of all values\n"
            assert re.search(text, said)
        assert "training" not in said

    def test_a_small_part_above_black(self, tmp_path, capsys):
        write(tmp_path, lambda number: thermal(number, 30000, 30500))
        fetch_own(f"folder:{tmp_path}", test_share=0.5, scale_16bit=[29000, 49000])
        assert re.search(r"values up to 30\d+ of 49000, so they become dark, 0 to 19 of 255", capsys.readouterr().err)


@pytest.mark.parametrize("span", [None, (0, 65535), (0, 4095), (29315, 31315), (0, 1)])
def test_levels_of_all_values_rise_from_black_to_white(span):
    found = [levels.level(value, span) for value in range(0, 65536, 5)]
    assert found == sorted(found)
    assert (found[0], levels.level(65535, span)) == (0, 255)


def test_values_are_counted_in_threads():
    values = levels.Values()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: values.add(np.full((10, 10), number % 7)), range(700)))
    assert values.counts[:7].tolist() == [10000] * 7
