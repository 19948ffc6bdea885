"""Archives made here, sound, hostile and damaged."""

import gzip
import io
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress

import pytest

from kdcore.fetch import archives
from kdcore.system.errors import UserError

KINDS = ("tar", "tar.gz", "zip")
SOUND = {"top/a.pth": b"weights", "top/sub/b.txt": bytes(range(256)) * 40, "top/": None, "c": b""}


def as_tar(path, entries, mode="w"):
    with tarfile.open(path, mode) as file:
        for entry, content in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if content is not None:
                info.size = info.size or len(content)
            elif info.type == tarfile.REGTYPE:
                info.type = tarfile.DIRTYPE
            file.addfile(info, io.BytesIO(content or b""))
    return path


def as_commented(path, kind, number, size):
    """A tar.gz with a comment of so many bytes before each member."""
    with gzip.open(path, "wb") as file:
        for i in range(number):
            record = f" comment={'x' * size}\n".encode()
            record = str(len(record) + 6).encode() + record
            comment, entry = tarfile.TarInfo("comment"), tarfile.TarInfo(f"f{i}")
            comment.type, comment.size = kind, len(record)
            file.write(comment.tobuf() + record + bytes(-len(record) % 512) + entry.tobuf())
        file.write(bytes(1024))


def as_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in entries:
            file.writestr(entry, content or b"")
    return path


@pytest.fixture(params=KINDS)
def pack(request, tmp_path):
    """Make an archive of each kind from (name, content or None for a folder)."""
    path = tmp_path / f"archive.{request.param}"

    def pack(*entries):
        if request.param == "zip":
            return as_zip(path, entries)
        return as_tar(path, entries, "w:gz" if request.param == "tar.gz" else "w")

    return pack


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive, tmp_path, message, **options):
    """Nothing is extracted, not even what is asked for and harmless."""
    for extract in (
        lambda: archives.extract(archive, tmp_path / "out", **options),
        lambda: archives.extract(archive, tmp_path / "out", members=["good"], **options),
        lambda: archives.member(archive, "good", tmp_path / "out", **options),
    ):
        with pytest.raises(UserError, match=message):
            extract()
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path != archive] == []


def test_everything(pack, tmp_path):
    archives.extract(pack(*SOUND.items()), tmp_path / "out")
    assert files(tmp_path / "out") == {name: content for name, content in SOUND.items() if content is not None}


def test_some(pack, tmp_path):
    archive = pack(("./top/a", b"1"), ("top/ab", b"2"), ("top/sub/b", b"3"), ("top/sub/deep/c", b"4"), ("d", b"5"))
    archives.extract(archive, tmp_path / "out", members=["top/sub", "./top/a"])
    assert files(tmp_path / "out") == {"top/a": b"1", "top/sub/b": b"3", "top/sub/deep/c": b"4"}


def test_one(pack, tmp_path):
    archive = pack(*SOUND.items())
    assert archives.member(archive, "top/sub/b.txt", tmp_path / "out") == tmp_path / "out/b.txt"
    assert files(tmp_path / "out") == {"b.txt": SOUND["top/sub/b.txt"]}
    archives.member(archive, "./top/a.pth", tmp_path / "out")
    assert files(tmp_path / "out")["a.pth"] == b"weights"


def test_folder_is_replaced_as_a_whole(pack, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("")
    with pytest.raises(UserError):
        archives.extract(pack(("a", b"1")), tmp_path / "out", members=["b"])
    assert files(tmp_path / "out") == {"old": b""}
    archives.extract(pack(("a", b"1")), tmp_path / "out")
    assert files(tmp_path / "out") == {"a": b"1"}


def test_missing_member_names_those_near_it(pack, tmp_path):
    archive = pack(("top/resnet56/ckpt.pth", b"1"), ("x", b"2"), ("top/", None))
    message = r"has no member 'resnet56/ckpt\.pth'; it holds 2 files, such as top/resnet56/ckpt\.pth$"
    with pytest.raises(UserError, match=message):
        archives.member(archive, "resnet56/ckpt.pth", tmp_path / "out")
    with pytest.raises(UserError, match="has no member 'top'"):
        archives.member(archive, "top", tmp_path / "out")
    with pytest.raises(UserError, match="has no member 'none'"):
        archives.extract(archive, tmp_path / "out", members=["x", "none"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [
    "../evil", "a/../../evil", "a/..", "/evil", "//evil", "C:evil", "c:/evil", "a\\..\\evil", ".",
])  # fmt: skip
def test_paths(pack, tmp_path, name):
    refused(pack(("good", b"1"), (name, b"2")), tmp_path, "its member .* (leads outside|path|no name)")


@pytest.mark.parametrize("names", [["a", "a"], ["a", "./a"], ["a", "A"], ["straße", "STRASSE"], ["\u00e9", "e\u0301"]])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_place(pack, tmp_path, names):
    refused(pack(("good", b"1"), *((name, b"2") for name in names)), tmp_path, "its member .* is there twice")


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"]])
def test_file_in_the_way_of_a_folder(pack, tmp_path, names):
    with pytest.raises(UserError):
        archives.extract(pack(*((name, b"1") for name in names)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


NOT_PLAIN = "its member 'evil' is neither a plain file nor a folder"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
@pytest.mark.parametrize("target", ["good", "/etc/passwd", "../out"])
def test_links_and_devices_in_a_tar(tmp_path, kind, target):
    entry = tarfile.TarInfo("evil")
    entry.type, entry.linkname = kind, target
    refused(as_tar(tmp_path / "a.tar", [("good", b"1"), (entry, b"")]), tmp_path, NOT_PLAIN)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(tmp_path, mode):
    entry = zipfile.ZipInfo("evil")
    entry.external_attr = (mode | 0o777) << 16
    refused(as_zip(tmp_path / "a.zip", [("good", b"1"), (entry, b"/etc")]), tmp_path, NOT_PLAIN)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_otherwise(tmp_path, method):
    """The library would unpack a block to any size at once, whatever was declared."""
    archive = as_zip(tmp_path / "a.zip", [("good", b"1")])
    with zipfile.ZipFile(archive, "a", method) as file:
        file.writestr("evil", bytes(2**20))
    refused(archive, tmp_path, NOT_PLAIN)


def test_encrypted(tmp_path):
    archive = as_zip(tmp_path / "a.zip", [("good", b"1")])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, tmp_path, "neither a plain file nor a folder")


def test_zero_byte(tmp_path):
    archive = as_zip(tmp_path / "a.zip", [("good", b"1"), ("evilX.pth", b"2")])
    archive.write_bytes(archive.read_bytes().replace(b"evilX", b"evil\0"))
    refused(archive, tmp_path, "'evil.x00.pth' leads outside")


@pytest.mark.parametrize("name", ["a" * 4097, "a/" * 30_000], ids=["name", "parts"])
def test_long_paths(pack, tmp_path, name):
    refused(pack(("good", b"1"), (name, b"2")), tmp_path, "has a path of more than 4,096 characters; nothing")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["we\x1b[31m\x07.pth", "x" * 3000])
def test_names_in_messages(pack, tmp_path, name):
    archive = pack((name, b"1"))
    for ask in (archives.member, lambda *args: archives.extract(args[0], args[2], members=[args[1]])):
        with pytest.raises(UserError, match=r"it holds 1 files, such as '(we.x1b\[31m|x{36}\.\.\.)") as caught:
            ask(archive, "y", tmp_path / "out")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
    with pytest.raises(UserError, match=r"is there twice") as caught:
        archives.extract(pack((name, b"1"), (name, b"2")), tmp_path / "out")
    assert len(str(caught.value)) < 400


def test_no_memory_is_no_damage(pack, tmp_path, monkeypatch):
    def without_memory(_):
        raise MemoryError

    monkeypatch.setattr(archives._Member, "problem", without_memory)
    with pytest.raises(MemoryError):
        archives.extract(pack(("a", b"1")), tmp_path / "out")


def test_limit(pack, tmp_path):
    archive = pack(("good", b"1" * 1000), ("a", b"2" * 1000))
    refused(archive, tmp_path, "its member 'a' makes the archive larger than 1,999 bytes", limit=1999)
    archives.extract(archive, tmp_path / "out", limit=2000)


class TestBombs:
    """Small files that would fill a disk, the memory or a day."""

    @pytest.fixture(autouse=True)
    def little(self, monkeypatch):
        """Limits that a test reaches in milliseconds."""
        for name, value in {"FREE": 2**20, "LONGEST_END": 2**20, "MOST_MEMBERS": 100, "MOST_PARTS": 110}.items():
            monkeypatch.setattr(archives, name, value)

    def test_ratio(self, pack, tmp_path):
        archive = pack(("good", b"1"), *((f"zeros{i}", bytes(2**20)) for i in range(8)))
        if archive.suffix == ".tar":  # nothing shrinks in it
            archives.extract(archive, tmp_path / "out")
            assert len(files(tmp_path / "out")) == 9
        else:
            assert archive.stat().st_size < 20_000
            refused(archive, tmp_path, r"its member 'zeros\d' makes the archive larger than [\d,]+ bytes; nothing was")

    def test_overlapping_members(self, tmp_path):
        """A list of a hundred files, of which one is there."""
        archive = as_zip(tmp_path / "a.zip", [("good", b"1"), ("000", bytes(2**16))])
        content = archive.read_bytes()
        start, end = content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")
        entries = [content[start:end].replace(b"000", f"{i:03d}".encode()) for i in range(99)]
        first = content[content.index(b"PK\1\2") : start]
        listed = first + b"".join(entries)
        tail = content[end : end + 8] + struct.pack("<HHI", 100, 100, len(listed)) + content[end + 16 :]
        archive.write_bytes(content[: content.index(b"PK\1\2")] + listed + tail)
        assert archive.stat().st_size < 10_000
        refused(
            archive, tmp_path, r"its member '\d+' makes the archive larger than 1,048,576 bytes; nothing was extracted"
        )

    def test_number_of_members(self, pack, tmp_path):
        names = ["good", *(f"{i}" for i in range(99))]
        archives.extract(pack(*((name, b"") for name in names)), tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        archive = pack(*((name, b"") for name in [*names, "last"]))
        refused(archive, tmp_path, "its member 'last' is one too many: at most 100 are allowed; nothing was")

    @pytest.mark.parametrize(
        "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
    )
    def test_header(self, tmp_path, kind):
        """Which the library would read into memory."""
        entry = tarfile.TarInfo("evil")
        entry.type, entry.size = kind, 2**26
        with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
            file.write(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**26) + bytes(1024))
        tracemalloc.start()
        refused(
            tmp_path / "a.tar.gz", tmp_path, r"is no whole tar, tar.gz or zip archive \(its headers are too large\)"
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2**24

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
    def test_headers(self, tmp_path, kind, monkeypatch):
        """Of which each is small enough, and none is kept in memory."""
        monkeypatch.setattr(archives, "ALL_HEADERS", 2**24)
        as_commented(tmp_path / "a.tar", kind, 20, 700_000)
        archives.extract(tmp_path / "a.tar", tmp_path / "out")
        (tmp_path / "a.tar").unlink()
        shutil.rmtree(tmp_path / "out")
        as_commented(tmp_path / "a.tar", kind, 40, 700_000)
        refused(tmp_path / "a.tar", tmp_path, "its headers are too large")

    def test_number_of_folders(self, pack, tmp_path):
        """That members are in, and nothing else names."""
        archive = pack(("good", b"1"), *((f"{i}/a/b/c/d/e/f/g", b"1") for i in range(20)))
        refused(archive, tmp_path, "its member '13/a/b/c/d/e/f/g' is one too many")

    def test_what_follows_the_end(self, tmp_path):
        sound = as_tar(tmp_path / "a.tar", [("good", b"1")]).read_bytes()
        for extra, fine in ((2**20 - len(sound), True), (2**23, False)):
            with gzip.open(tmp_path / "a.tar", "wb") as file:
                file.write(sound + bytes(extra))
            if fine:
                archives.extract(tmp_path / "a.tar", tmp_path / "out")
                shutil.rmtree(tmp_path / "out")
            else:
                refused(tmp_path / "a.tar", tmp_path, r"more than 1,048,576 bytes follow its end")

    def test_archives_inside_stay_packed(self, pack, tmp_path):
        """Nobody unpacks what was unpacked."""
        inner = as_zip(tmp_path / "inner.zip", [("zeros", bytes(2**24))]).read_bytes()
        (tmp_path / "inner.zip").unlink()
        archives.extract(pack(("inner.zip", inner), ("inner/inner.zip", inner)), tmp_path / "out")
        assert files(tmp_path / "out") == {"inner.zip": inner, "inner/inner.zip": inner}


def test_declared_size_of_what_is_not_there(tmp_path):
    """A header alone, without the terabyte."""
    entry = tarfile.TarInfo("evil")
    entry.size = 2**40
    content = entry.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(as_tar(tmp_path / "a.tar", [("good", b"1")]).read_bytes()[:1024] + content)
    refused(tmp_path / "a.tar", tmp_path, "'evil' makes the archive larger than")


def test_size_below_zero(tmp_path):
    """Behind the header of a file that some versions of Python would read again and again."""
    entry = tarfile.TarInfo("good")
    entry.size = -512
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path / "a.tar", tmp_path, "'good' declares a size below zero|is no whole tar")


def test_zip_that_holds_more_than_it_declares(tmp_path):
    archive = as_zip(tmp_path / "a.zip", [("good", b"0" * 10**6)])
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 10)))
    refused(archive, tmp_path, "is no whole tar, tar.gz or zip archive")


def test_truncated_at_any_length(pack, tmp_path):
    archive = pack(("good", b"1" * 600), ("b", bytes(range(256)) * 4), ("last", b"3"))
    content = archive.read_bytes()
    # A tar is padded with zeros, of which two blocks are its end.
    end = content.rindex(b"3") + 512 if archive.suffix == ".tar" else len(content)
    for length in {*range(0, end, 37), end - 1, *range(0, end, 512)}:
        archive.write_bytes(content[:length])
        refused(archive, tmp_path, "is no whole tar, tar.gz or zip archive")


def test_damaged(pack, tmp_path):
    """A changed byte is found, or changes nothing but what a tar holds no checksum of: contents."""
    archive = pack(("good", b"1" * 600), ("b", bytes(range(256)) * 4))
    content = archive.read_bytes()
    found = 0
    for position in range(0, len(content), 23):
        archive.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            archives.extract(archive, tmp_path / "out")
        except UserError:
            found += 1
            assert not (tmp_path / "out").exists()
        else:
            assert set(files(tmp_path / "out")) == {"good", "b"}
            shutil.rmtree(tmp_path / "out")
    assert found


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4", b"\x1f\x8b", bytes(100)])
def test_no_archive(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", tmp_path, "a: is no whole tar, tar.gz or zip archive")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"a\.tar: no such archive"):
        archives.extract(tmp_path / "a.tar", tmp_path / "out")


def test_damage_that_shows_while_extracting(tmp_path):
    archive = as_zip(tmp_path / "a.zip", [("first", b"1" * 1000), ("good", bytes(range(256)) * 99)])
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\1\2") - 90] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, tmp_path, "is no whole tar, tar.gz or zip archive")


def test_place_that_cannot_be_written(pack, tmp_path):
    archive = pack(("x" * 300, b"1"))
    with pytest.raises(UserError, match="cannot be written"):
        archives.extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_modes_are_those_of_new_files(tmp_path):
    entry = tarfile.TarInfo("evil")
    entry.mode = 0o6777
    archives.extract(as_tar(tmp_path / "a.tar", [(entry, b"1")]), tmp_path / "out")
    (tmp_path / "new").write_text("")
    assert (tmp_path / "out/evil").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("name", ["../evil", "../../evil", "a/../../evil", "{}/evil"])
def test_the_libraries_keep_members_inside_too(pack, tmp_path, monkeypatch, name):
    """The second lock, should a check of this project ever let a member through."""
    monkeypatch.setattr(archives._Member, "problem", lambda _: None)
    out = tmp_path / "deep/deeper/out"
    with suppress(UserError):
        archives.extract(pack((name.format(tmp_path), b"1")), out)
    assert [path for path in tmp_path.rglob("evil") if out not in path.parents] == []


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.SYMTYPE])
def test_the_filter_of_tarfile_is_in_use(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives._Member, "problem", lambda _: None)
    entry = tarfile.TarInfo("evil")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError):
        archives.extract(as_tar(tmp_path / "a.tar", [(entry, b"")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
