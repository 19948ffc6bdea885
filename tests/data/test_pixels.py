"""Images that would carry nothing, or less than a user may think: 16-bit greys, transparency, one colour."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kdcore.data.sources import contents, pixels
from kdcore.system.errors import UserError
from tests.data.own_sets import fetch_own
from tests.data.test_published_sets import saved
from tests.pictures import encoded, picture, write_tree

CLASSES = ["cat", "dog"]


def write(folder, make, count=4):
    """A folder per class of PNG files; `make` gives each image from its number."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            make(10 * label + number).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def grey(largest, size=16):
    """A 16-bit grey image with values up to exactly this one."""

    def make(number):
        values = np.random.default_rng(number).integers(0, largest, (size, size)).astype(np.uint16)
        values[number % size, 0] = largest
        return Image.fromarray(values)

    return make


def drawing(number, colour=(0, 0, 0), below=(0, 0, 0)):
    """A shape in one colour, which only its transparency shows."""
    opacity = np.zeros((16, 16), np.uint8)
    opacity[number % 8 : number % 8 + 6, 4 + number // 10 : 12 + number // 10] = 255
    image = np.where(opacity[..., None] > 0, colour, below).astype(np.uint8)
    return Image.fromarray(np.dstack([image, opacity]))


class TestSixteenBits:
    def test_small_values_become_black(self, tmp_path):
        source = write(tmp_path, grey(200))
        with pytest.raises(UserError, match=r"all 4 training images are of one colour, \(0, 0, 0\).*data\.scale_16bit"):
            fetch_own(source, test_share=0.5)

    def test_a_small_part_of_the_range_is_said(self, tmp_path, capsys):
        source = write(tmp_path, grey(4095))
        assert fetch_own(source, test_share=0.5).train.images.max() == 15
        assert capsys.readouterr().err == "".join(
            f"data.source {source}: 4 of 4 16-bit {which} images use a small part of their range, values up to 4095 "
            "of 65535, so they become dark, 0 to 15 of 255; set data.scale_16bit: largest, or the value that is white, "
            "such as 4095; colours must be converted to 8 bits instead\n"
            for which in ("training", "test")
        )

    def test_a_small_part_in_the_test_alone(self, tmp_path, capsys):
        write(tmp_path / "train", grey(65535))
        write(tmp_path / "test", lambda number: grey(4095)(50 + number))
        fetch_own(f"folder:{tmp_path}")
        said = capsys.readouterr().err
        assert "8 of 8 16-bit test images use a small part of their range, values up to 4095" in said
        assert "training" not in said

    def test_white_far_above_the_values(self, tmp_path, capsys):
        """Such as one hot pixel with `largest`."""
        write(tmp_path, lambda number: grey(65535 if number == 1 else 2000)(number), 10)
        fetch_own(f"folder:{tmp_path}", test_share=0.2, scale_16bit=65535)
        assert "16-bit training images use a small part of their range, values up to 2000 of 65535" in (
            capsys.readouterr().err
        )

    def test_the_whole_range_says_nothing(self, tmp_path, capsys):
        fetch_own(write(tmp_path, grey(65535)), test_share=0.5)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("white", ["largest", 4095])
    def test_scaled(self, tmp_path, white, capsys):
        write(tmp_path / "train", grey(4095))
        write(tmp_path / "test", lambda number: grey(4095)(50 + number))
        dataset = fetch_own(f"folder:{tmp_path}", scale_16bit=white)
        values = np.asarray(grey(4095)(0)).astype(float)
        assert np.array_equal(dataset.train.images[0, ..., 1], np.rint(values * 255 / 4095))
        assert dataset.train.images.max() == 255
        assert capsys.readouterr().err == ""

    def test_largest_is_that_of_the_training_for_the_test_too(self, tmp_path):
        write(tmp_path / "train", grey(1000))
        write(tmp_path / "test", lambda number: grey(2000)(50 + number))
        dataset = fetch_own(f"folder:{tmp_path}", scale_16bit="largest")
        values = np.asarray(grey(2000)(50)).astype(float)
        assert np.array_equal(dataset.test.images[0, ..., 0], np.rint(values * 255 / 1000).clip(max=255))
        other = fetch_own(f"folder:{tmp_path}", scale_16bit=1000)
        assert np.array_equal(dataset.test.images, other.test.images)

    @pytest.mark.parametrize("white", ["largest", 1000])
    def test_test_images_above_white_are_said(self, tmp_path, white, capsys):
        write(tmp_path / "train", grey(1000))
        write(tmp_path / "test", lambda number: grey(2000)(50 + number))
        fetch_own(f"folder:{tmp_path}", scale_16bit=white)
        said = rf"data.source folder:{tmp_path}: 8 of 8 16-bit test images have values above 1000, which become white, "
        assert re.fullmatch(said + r"(49|50)\.\d% of all values\n", capsys.readouterr().err)

    def test_values_above_white_are_said(self, tmp_path, capsys):
        source = write(tmp_path, grey(4095))
        fetch_own(source, test_share=0.5, scale_16bit=1000)
        assert "4 of 4 16-bit training images have values above 1000, which become white" in capsys.readouterr().err

    @pytest.mark.parametrize("white", ["largest", 4095])
    def test_no_16_bits(self, tmp_path, white):
        write_tree(tmp_path, CLASSES, 4)
        with pytest.raises(UserError, match=r"data\.scale_16bit is set, but no training image has 16 bits"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5, scale_16bit=white)

    def test_8_bits_are_left_alone(self, tmp_path):
        write(tmp_path, lambda number: grey(4095)(number) if number % 2 else picture(0, number, (16, 16)))
        dataset = fetch_own(f"folder:{tmp_path}", test_share=0.5, scale_16bit=4095)
        plain = {np.asarray(picture(0, number, (16, 16))).tobytes() for number in range(0, 20, 2)}
        assert sum(image.tobytes() in plain for image in dataset.train.images) > 0

    def test_colours(self, tmp_path, monkeypatch, capsys):
        """Pillow reads them with 8 bits."""

        def chunk(kind, content):
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        write_tree(tmp_path, CLASSES, 0)
        for label, name in enumerate(CLASSES):
            for number in range(4):
                values = np.random.default_rng([label, number]).integers(0, 4096, (16, 16, 3)).astype(">u2")
                rows = b"".join(b"\0" + row.tobytes() for row in values)
                content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
                content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
                (tmp_path / name / f"{number}.png").write_bytes(content)
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        said = capsys.readouterr().err
        assert "4 of 4 16-bit training images use a small part of their range" in said
        assert "colours must be converted to 8 bits instead" in said
        with pytest.raises(UserError, match=r"has 16-bit colours, which data\.scale_16bit cannot scale; convert"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5, scale_16bit=4095)


class TestTransparency:
    def test_a_drawing_that_only_it_shows(self, tmp_path):
        source = write(tmp_path, drawing)
        with pytest.raises(
            UserError, match=r"\.png: is of one colour without its transparency, .* set data\.background"
        ):
            fetch_own(source, test_share=0.5)

    def test_one_among_others(self, tmp_path):
        write_tree(tmp_path, CLASSES, 4)
        drawing(0).save(tmp_path / "cat" / "drawn.png")
        with pytest.raises(UserError, match=r"drawn\.png: is of one colour without its transparency"):
            fetch_own(f"folder:{tmp_path}", test_share=0.5)

    @pytest.mark.parametrize("kind", ["LA", "P"])
    def test_in_other_modes(self, tmp_path, kind):
        def make(number):
            if kind == "LA":
                return drawing(number).convert("LA")
            image = Image.new("P", (16, 16), 0)
            image.putpalette([0, 0, 0, 0, 0, 0])
            image.paste(1, (number % 8, 2, number % 8 + 6, 9))
            image.info["transparency"] = 0
            return image

        source = write(tmp_path, make)
        with pytest.raises(UserError, match="is of one colour without its transparency"):
            fetch_own(source, test_share=0.5)

    @pytest.mark.parametrize(("background", "colour"), [
        ("white", (255, 255, 255)), ("black", (0, 0, 0)), ([9, 8, 7], (9, 8, 7)),
    ])  # fmt: skip
    def test_on_a_background(self, tmp_path, background, colour, capsys):
        source = write(tmp_path, lambda number: drawing(number, colour=(200, 100, 50)))
        dataset = fetch_own(source, test_share=0.5, background=background)
        for image in (*dataset.train.images, *dataset.test.images):
            assert image[15, 15].tolist() == list(colour)
            assert image[7, 8].tolist() == [200, 100, 50] or image[3, 8].tolist() == [200, 100, 50]
        assert capsys.readouterr().err == ""

    def test_black_on_black_carries_nothing(self, tmp_path):
        source = write(tmp_path, drawing)
        with pytest.raises(UserError, match=r"all 4 training images are of one colour, \(0, 0, 0\)"):
            fetch_own(source, test_share=0.5, background="black")

    def test_half_transparent(self, tmp_path):
        image = Image.new("RGBA", (16, 16), (100, 0, 0, 51))
        shown = pixels.reader(None, "white")(saved(image, "PNG"))
        assert shown.getpixel((0, 0)) == (224, 204, 204)  # a fifth of the colour, four fifths of white
        assert pixels.reader(None, None)(saved(image, "PNG")).getpixel((0, 0)) == (100, 0, 0)

    def test_what_lies_below_shows_and_is_said(self, tmp_path, capsys):
        source = write(tmp_path, lambda number: drawing(number, below=(255, 255, 255)))
        fetch_own(source, test_share=0.5)
        assert "4 of 4 training images are partly transparent; transparency is dropped" in capsys.readouterr().err

    def test_opaque_ones_say_nothing(self, tmp_path, capsys):
        fetch_own(write(tmp_path, lambda number: picture(0, number, (16, 16)).convert("RGBA")), test_share=0.5)
        assert capsys.readouterr().err == ""


class TestOneColour:
    @pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
    def test_all_images(self, tmp_path, augmentation):
        source = write(tmp_path, lambda number: Image.new("RGB", (16, 16), (7, 7, 7)))
        with pytest.raises(UserError, match=r"all \d training images are of one colour, \(7, 7, 7\)"):
            fetch_own(source, test_share=0.5, augmentation=augmentation)

    def test_nearly(self, tmp_path):
        def make(number):
            image = Image.new("RGB", (64, 64), (7, 7, 7))
            image.putpixel((number, number), (8, 8, 8))
            return image

        with pytest.raises(UserError, match="red and green and blue hardly differ over the training images"):
            fetch_own(write(tmp_path, make), test_share=0.5, image_size=64)

    def test_each_one_is_said(self, tmp_path, capsys):
        write(tmp_path, lambda number: Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)))
        fetch_own(f"folder:{tmp_path}", test_share=0.5)
        assert "4 of 4 training images are of one colour each" in capsys.readouterr().err

    def test_a_deviation_is_what_it_is(self):
        images = np.zeros((2, 4, 4, 3), np.uint8)
        images[1] = 255
        assert contents.statistics(images) == ((0.5,) * 3, (0.5,) * 3)
        assert contents.statistics(np.zeros((2, 4, 4, 3), np.uint8))[1] == (0, 0, 0)


class TestAClassThatIsNearlyBlack:
    """It is named, however few its images are among all."""

    @pytest.mark.parametrize("changes", [{}, {"augmentation": "random_resized_crop"}])
    def test_is_named(self, tmp_path, changes, capsys):
        classes = [f"class{label:02}" for label in range(12)]
        for split in ("train", "test"):
            write_tree(tmp_path / split, classes, 4, start=4 * (split == "test"), size=(16, 16))
        for number, file in enumerate(sorted((tmp_path / "train/class07").iterdir())):
            Image.fromarray(np.asarray(picture(7, number, (16, 16))) // 8).save(file, quality=95)
        fetch_own(f"folder:{tmp_path}", **changes)
        (said,) = capsys.readouterr().err.splitlines()
        assert "all training images of class07 are nearly black, without a value above 63 of 255" in said

    def test_single_images_are_not_said(self, tmp_path, capsys):
        images = np.full((4, 8, 8, 3), 200, np.uint8)
        images[0] = 10
        contents.say_dark(images, np.array([0, 0, 1, 1]), CLASSES, "here", "test")
        assert not capsys.readouterr().err
        images[1] = 63
        contents.say_dark(images, np.array([0, 0, 1, 1]), CLASSES, "here", "test")
        assert capsys.readouterr().err.startswith("here: all test images of cat are nearly black")
        images[1] = 64
        contents.say_dark(images, np.array([0, 0, 1, 1]), CLASSES, "here", "test")
        assert not capsys.readouterr().err


def test_the_test_images_too(tmp_path):
    write_tree(tmp_path / "train", CLASSES, 2)
    write(tmp_path / "test", grey(200))
    with pytest.raises(UserError, match=r"all 8 test images are of one colour, \(0, 0, 0\)"):
        fetch_own(f"folder:{tmp_path}")


class TestTheTestSplit:
    """It is judged as the training images are."""

    def test_some_of_one_colour(self, tmp_path, capsys):
        write(tmp_path / "train", lambda number: picture(1, number, (16, 16)))
        write(tmp_path / "test", lambda number: Image.new("RGB", (16, 16), (number, 0, 0)))
        fetch_own(f"folder:{tmp_path}")
        assert capsys.readouterr().err == f"data.source folder:{tmp_path}: 8 of 8 test images are of one colour each\n"

    @pytest.mark.parametrize("changes", [{}, {"scale_16bit": 65535}, {"augmentation": "random_resized_crop"}])
    def test_16_bits_in_the_training_alone(self, tmp_path, changes, capsys):
        write(tmp_path / "train", grey(65535))
        write(tmp_path / "test", lambda number: picture(1, 50 + number, (16, 16)))
        fetch_own(f"folder:{tmp_path}", **changes)
        said = capsys.readouterr().err
        assert "training images, but no test image, have 16 bits" in said
        assert said.endswith("have 16 bits\n") == ("scale_16bit" in changes)

    def test_where_both_have_some(self, tmp_path, capsys):
        for start, split in enumerate(("train", "test")):
            write(tmp_path / split, lambda number, start=start: drawing(number + 3 * start, below=(9, 255, 99)))
        fetch_own(f"folder:{tmp_path}")
        said = capsys.readouterr().err
        for which in ("training", "test"):
            assert f"8 of 8 {which} images are partly transparent; transparency is dropped" in said


class TestStreams:
    """Images that are decoded as they are needed: some of each class are looked at beforehand."""

    @pytest.mark.parametrize(("make", "message"), [
        (grey(200), r"of 6 training and \d test images looked at: all 6 training images are of one colour, \(0"),
        (drawing, r"is of one colour without its transparency"),
    ])  # fmt: skip
    def test_what_carries_nothing(self, tmp_path, make, message):
        write(tmp_path / "train", make, 8)
        write(tmp_path / "test", lambda number: picture(0, number))
        with pytest.raises(UserError, match=message):
            fetch_own(f"folder:{tmp_path}", augmentation="random_resized_crop")

    def test_what_is_said(self, tmp_path, capsys):
        write(tmp_path, grey(4095), 8)
        fetch_own(f"folder:{tmp_path}", test_share=0.5, augmentation="random_resized_crop")
        assert (
            "of 6 training and 6 test images looked at: 6 of 6 16-bit training images use a small part"
            in capsys.readouterr().err
        )


def test_a_16_bit_grey_with_a_transparent_value(tmp_path):
    """Pillow cannot convert it; its grey values are what counts."""
    image = grey(65535)(0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=7)
    read = pixels.reader(None, "white")
    assert np.array_equal(np.asarray(read(buffer.getvalue()))[..., 0], np.asarray(image) >> 8)
    assert read.looks == [pixels.Look(largest=65535)]


def png(values, bits, colour_type, clear):
    """The content of a PNG with a transparent value; Pillow cannot write all kinds that it reads."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    if bits < 8:
        digits = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
        rows = [int(row, 2).to_bytes(width * bits // 8, "big") for row in digits]
    else:
        rows = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", np.asarray(clear).astype(">u2").tobytes())]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


class TestATransparentValue:
    """PNG names it as the file has the pixels, whatever Pillow makes of them."""

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_of_greys(self, bits):
        values = np.arange(64).reshape(8, 8) * (1031 if bits == 16 else 1) % 2**bits
        content = png(values, bits, 0, values[0, 1])
        read, plain = pixels.reader(None, [9, 8, 7]), pixels.reader(None, None)
        shown = np.asarray(read(content))
        is_clear = values == values[0, 1]
        assert 0 < is_clear.sum() < 64
        assert (shown[is_clear] == (9, 8, 7)).all()
        assert (shown[~is_clear] == np.asarray(plain(content))[~is_clear]).all()
        assert [look.is_transparent for look in read.looks + plain.looks] == [True, True]

    def test_of_greys_that_are_scaled(self):
        values = np.arange(64).reshape(8, 8)
        shown = np.asarray(pixels.reader((0, 63), "white")(png(values, 16, 0, values[7, 0])))
        assert shown[7, 0].tolist() == [255] * 3
        assert shown[7, 1].tolist() == [231] * 3

    def test_of_colours(self):
        values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3))
        content = png(values, 16, 2, values[2, 3])
        plain = pixels.reader(None, None)
        plain(content)
        assert plain.looks[0].is_transparent
        with pytest.raises(pixels.BlankError, match="has 16-bit colours of which one is transparent; convert it"):
            pixels.reader(None, "white")(content)
        pixels.reader(None, "white")(png(values, 16, 2, values[2, 3] ^ 255 << 8))
        assert pixels.reader(None, "white")(png(values >> 8, 8, 2, values[2, 3] >> 8)).getpixel((3, 2)) == (255,) * 3


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"garbage", b"", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_is_damaged(exif):
    """The image is sound all the same."""
    buffer = io.BytesIO()
    picture(0, 0).save(buffer, "JPEG", exif=b"Exif\0\0" + exif)
    read = pixels.reader(None, None)
    assert read(buffer.getvalue()).size == (48, 40)
    assert read.looks == [pixels.Look()]


def test_images_that_should_be_turned(tmp_path, capsys):
    write_tree(tmp_path, CLASSES, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in CLASSES:
        picture(0, len(name) + ord(name[0])).save(tmp_path / name / "turned_1.jpg", exif=exif)
        picture(1, len(name) + ord(name[0])).save(tmp_path / name / "turned_2.jpg", exif=exif)
    dataset = fetch_own(f"folder:{tmp_path}", test_share=0.1)
    said = capsys.readouterr().err
    assert f"of {len(dataset.train.labels)} training images, but no test image, should be turned, as their EXIF" in said


@pytest.mark.parametrize("augmentation", [None, "random_resized_crop"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_8_bits_of_a_small_range(tmp_path, split, augmentation, capsys):
    """As where values from 0 to 1 were saved, or masks."""
    for start, folder in enumerate(("train", "test")):
        factor = 1 if folder == split else 255

        def make(number, start=start, factor=factor):
            values = np.random.default_rng(number + 50 * start).integers(0, 2, (16, 16)).astype(np.uint8)
            return Image.fromarray(factor * values)

        write(tmp_path / folder, make, 3)
    fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
    said = capsys.readouterr().err
    which = {"train": "training", "test": "test"}[split]
    assert f"6 of 6 {which} images have no value above 63 of 255; are they masks" in said
    assert said.count("\n") == 1


def test_tiffs_are_turned():
    """By Pillow, so that there is nothing to say."""
    buffer = io.BytesIO()
    picture(0, 0).save(buffer, "TIFF", tiffinfo={274: 6})
    read = pixels.reader(None, None)
    assert np.array_equal(read(buffer.getvalue()), np.rot90(picture(0, 0), -1))
    assert read.looks == [pixels.Look()]


def test_channels_beyond_colours(tmp_path, capsys):
    """As of satellites: near infrared would be left out."""
    for start, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for number in range(4):
            parts = (*picture(start, number).split(), picture(5, number).getchannel(0))
            Image.frombytes("RGBX", (48, 40), Image.merge("RGBA", parts).tobytes()).save(
                tmp_path / name / f"{number}.tif"
            )
    fetch_own(f"folder:{tmp_path}", test_share=0.5)
    assert capsys.readouterr().err == "".join(
        f"data.source folder:{tmp_path}: 4 of 4 {which} images have channels beyond red, green and blue, which are "
        "left out\n"
        for which in ("training", "test")
    )


def test_several_images_in_a_file(tmp_path, capsys):
    write_tree(tmp_path, CLASSES, 4)
    frames = [picture(0, number) for number in (50, 51)]
    for name in CLASSES:
        for number in range(4):
            frames = [picture(0, 10 * number + i + 100 * len(name)) for i in range(2)]
            frames[0].save(tmp_path / name / f"{name}_{number}.tif", save_all=True, append_images=frames[1:])
    fetch_own(f"folder:{tmp_path}", test_share=0.5)
    assert "of 8 training images hold several images, of which the first counts" in capsys.readouterr().err


def planar(values):
    """The content of a TIFF with channels (C, H, W) one after the other, of 8 or 16 bits, which Pillow cannot write."""
    count, height, width = values.shape
    size, end = values[0].nbytes, 8 + values.nbytes
    arrays = struct.pack(f"<{count}H", *[8 * values.itemsize] * count)
    arrays += struct.pack(f"<{2 * count}I", *(8 + i * size for i in range(count)), *[size] * count)
    bits, offsets, sizes = end, end + 2 * count, end + 6 * count
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, count, bits), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, count, offsets), (277, 3, 1, count), (278, 4, 1, height), (279, 4, count, sizes), (284, 3, 1, 2),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", end + len(arrays)) + values.tobytes() + arrays + directory


@pytest.mark.parametrize(("bits", "channels", "is_refused"), [(8, 3, False), (16, 3, True), (8, 4, True)])
def test_channels_one_after_the_other(bits, channels, is_refused):
    """Of 16 bits Pillow takes high and low bytes for neighbouring pixels."""
    values = np.arange(channels * 64).reshape(channels, 8, 8).astype(f"<u{bits // 8}")
    if is_refused:
        with pytest.raises(pixels.BlankError, match="has its channels one after the other, and more than 8 bits"):
            pixels.Reader()(planar(values))
    else:
        assert (np.asarray(pixels.Reader()(planar(values))) == values.transpose(1, 2, 0)).all()


def tiff(values, *, photometric=1, signed=False):
    """The content of a TIFF with greys of 8 or 16 bits (H, W); Pillow cannot write all kinds that it reads."""
    content, (height, width) = values.tobytes(), values.shape
    short, bits = 3, 8 * values.itemsize
    numbers = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags = {**numbers, 279: len(content), 339: 2 if signed else 1}
    entries = b"".join(struct.pack("<HHIHH", tag, short, 1, value, 0) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


class TestTiffsThatWouldBeReadAsOtherValues:
    VALUES = np.arange(64).reshape(8, 8)

    @pytest.mark.parametrize("white", [None, 30000])
    def test_white_is_0(self, white):
        content = tiff((1000 * self.VALUES).astype("<u2"), photometric=0)
        with pytest.raises(pixels.BlankError, match="16-bit greys of which 0 is white"):
            pixels.Reader(white)(content)

    def test_with_a_sign(self):
        with pytest.raises(pixels.BlankError, match="values with a sign"):
            pixels.Reader()(tiff((2 * self.VALUES - 100).astype("i1"), signed=True))

    def test_others(self):
        """8-bit greys of which 0 is white are inverted, and 16-bit ones of which 0 is black are not."""
        inverted = np.asarray(pixels.Reader()(tiff(self.VALUES.astype("u1"), photometric=0)))
        assert (inverted[..., 0] == 255 - self.VALUES).all()
        plain = np.asarray(pixels.Reader()(tiff((1000 * self.VALUES).astype("<u2"))))
        assert (plain[..., 0] == 1000 * self.VALUES // 256).all()


class TestTestImagesOfAnotherKind:
    """What only test images hold, so that networks would be tested on other values than they were trained on."""

    @pytest.mark.parametrize("augmentation", ["pad_crop", "random_resized_crop"])
    @pytest.mark.parametrize(("make", "message"), [
        (grey(4095), "test images, but no training image, have 16 bits, of which the higher 8 count"),
        (lambda number: Image.merge("RGBA", (*picture(0, number).split(), picture(1, number).getchannel(0))),
         "test images, but no training image, are partly transparent; transparency is dropped"),
        (lambda number: picture(0, number), None),
    ])  # fmt: skip
    def test_are_said(self, tmp_path, make, message, augmentation, capsys):
        write(tmp_path / "train", lambda number: picture(1, number))
        write(tmp_path / "test", make)
        fetch_own(f"folder:{tmp_path}", augmentation=augmentation)
        said = capsys.readouterr().err
        assert message in said if message else not said

    def test_of_one_colour_where_they_are_streamed(self, tmp_path):
        write(tmp_path / "train", lambda number: picture(1, number))
        write(tmp_path / "test", grey(200))
        with pytest.raises(UserError, match=r"all 6 test images are of one colour, \(0, 0, 0\)"):
            fetch_own(f"folder:{tmp_path}", augmentation="random_resized_crop")


def test_a_class_of_small_16_bit_values_among_others(tmp_path, capsys):
    """One class of ten from another camera would be black, and told apart by that alone."""
    for number in range(10):
        for image in range(4):
            (tmp_path / f"class{number}").mkdir(exist_ok=True)
            file = tmp_path / f"class{number}/{image}.png"
            grey(65535 if number else 4095)(10 * number + image).save(file)
    fetch_own(f"folder:{tmp_path}", test_share=0.5)
    assert "2 of 20 16-bit training images use a small part of their range" in capsys.readouterr().err


class TestBrokenOff:
    """A download may have been given its whole size before it was filled."""

    @pytest.mark.parametrize("augmentation", ["pad_crop", "random_resized_crop"])
    @pytest.mark.parametrize("left", [2, 3])
    def test_a_rest_of_zeros_is_refused(self, tmp_path, augmentation, left):
        write_tree(tmp_path, ["cat", "dog"], 4)
        whole = encoded(3, 50, (96, 96))
        part = len(whole) // left
        (tmp_path / "cat/broken.jpg").write_bytes(whole[:part] + bytes(len(whole) - part))
        with pytest.raises(UserError, match=r"broken\.jpg: is a JPEG without an end that has zeros instead, as of"):
            fetch_own(f"folder:{tmp_path}", test_share=0.25, augmentation=augmentation)

    def test_webps_of_objects_on_white_end_in_zeros(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 4)
        image = Image.new("RGB", (2048, 2048), "white")
        image.paste(picture(3, 50, (64, 64)), (1000, 8))
        image.save(tmp_path / "cat/white.webp")
        assert not any((tmp_path / "cat/white.webp").read_bytes()[-64:])
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.25).train.labels) == 6

    def test_zeros_behind_the_end_are_none_of_the_image(self, tmp_path):
        write_tree(tmp_path, ["cat", "dog"], 4)
        (tmp_path / "cat/padded.jpg").write_bytes(encoded(3, 50) + b"note" + bytes(500))
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.25).train.labels) == 6

    @pytest.mark.parametrize("suffix", ["bmp", "png", "tif"])
    def test_black_parts_of_images(self, tmp_path, suffix):
        write_tree(tmp_path, ["cat", "dog"], 4)
        image = np.zeros((40, 40, 3), np.uint8)
        image[20:] = np.asarray(picture(3, 50, (40, 20)))
        for name, drawn in (("below", image[::-1]), ("above", image)):
            Image.fromarray(drawn).save(tmp_path / f"cat/{name}.{suffix}")
        assert len(fetch_own(f"folder:{tmp_path}", test_share=0.25).train.labels) == 7
