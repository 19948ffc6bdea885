"""Files that stand for others, and paths that begin with the home folder."""

from pathlib import Path

import pytest

from kdcore.system.files import expanded
from kdcore.system.pointers import HEAD, file_stands_for_another, stands_for_another

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
ANNEX = b"/annex/objects/SHA256E-s123456--" + b"0" * 64 + b".parquet\n"


@pytest.mark.parametrize(("content", "tool"), [(LFS, "Git LFS"), (ANNEX, "git-annex")])
def test_pointers(tmp_path, content, tool):
    assert f"is a {tool} pointer, not the file itself; run 'git " in stands_for_another(content)
    assert stands_for_another(content[:HEAD]) == stands_for_another(content)
    (tmp_path / "file").write_bytes(content)
    assert file_stands_for_another(tmp_path / "file") == stands_for_another(content)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"version 2", b"oid sha256:"])
def test_others(tmp_path, content):
    assert stands_for_another(content) is None
    (tmp_path / "file").write_bytes(content)
    assert file_stands_for_another(tmp_path / "file") is None


def test_what_cannot_be_read(tmp_path):
    assert file_stands_for_another(tmp_path / "gone") is None
    assert file_stands_for_another(tmp_path) is None


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/pets") == Path("/home/ada/pets")
    assert expanded("pets/~old") == Path("pets/~old")
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
