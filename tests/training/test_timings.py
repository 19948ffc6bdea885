"""The log of trainings."""

import subprocess
import sys

import psutil
import pytest

from kdcore.system.files import file_sha256
from kdcore.training import timings
from tests import made_up
from tests.conftest import ROOT

META = {"name": "a-b-kd-1-False-base-0", "student": "b", "method": "kd", "device": "cpu: x", "threads": 2,
        "train": {"batch_size": 16}}  # fmt: skip
MANY = """
import sys
from pathlib import Path
from kdcore.training import timings
for epochs in range(1, 201):
    meta = {"name": sys.argv[1] * 5000, "student": "b", "method": "kd", "device": "cpu", "threads": 1,
            "train": {"batch_size": 16}}
    timings.record(Path("card"), Path("run"), meta, epochs=epochs, seconds=1.0, images_per_second=2.0)
"""
"""Writes lines of 5 KB that tell who wrote them."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A card, and a run of seven bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card").write_text("epochs: 3\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/weights").write_text("1234")
    (tmp_path / "run/meta").write_text("567")
    return tmp_path


def record(epochs=3):
    timings.record(
        timings.Path("card"), timings.Path("run"), META, epochs=epochs, seconds=1.2345, images_per_second=10.26
    )


def test_what_is_recorded_is_read(folder):
    assert timings.load() == []
    record()
    (found,) = timings.load()
    expected = made_up.timing(
        META["name"], card=file_sha256(folder / "card"), student="b", epochs=3, images_per_second=10.3,
        seconds=1.23, bytes=7, device="cpu: x", finished=found.finished, batch_size=16,
        memory=found.memory,
    )  # fmt: skip
    assert 10**7 < found.memory < psutil.virtual_memory().total  # of this process, with Python and its libraries
    assert found == expected
    assert len(found.finished) == len("2026-01-01T00:00:00+00:00")
    assert found.finished.endswith("+00:00")


@pytest.mark.parametrize("damage", ["cut", "zeros", "no mapping", "another type", "no key", "text"])
def test_damaged_lines_are_skipped(folder, capsys, damage):
    record(1)
    record(2)
    first, second = timings.FILE.read_bytes().splitlines()
    broken = {
        "cut": second[:40], "zeros": bytes(200), "no mapping": b"[1]", "another type": second.replace(b"7", b'"7"'),
        "no key": second.replace(b'"bytes"', b'"size"'), "text": b"\xff\xfe",
    }[damage]  # fmt: skip
    timings.FILE.write_bytes(first + b"\n" + broken)
    record(3)
    assert [timing.epochs for timing in timings.load()] == [1, 3]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("scratch/timings.jsonl, line 2: is damaged and skipped (")


def test_several_processes_write_at_once(folder, capsys):
    command = [sys.executable, "-c", MANY]
    writers = [subprocess.Popen([*command, who], env={"PYTHONPATH": str(ROOT)}) for who in "xyz"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = timings.load()
    for who in "xyz":
        assert [timing.epochs for timing in found if timing.name == who * 5000] == list(range(1, 201))
    assert len(found) == 600
    assert capsys.readouterr().err == ""
