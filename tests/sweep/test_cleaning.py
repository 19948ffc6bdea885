"""make clean-scratch: what only saves time goes, except what is needed now."""

import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from kdcore.fetch import download
from kdcore.sweep import cleaning, journal
from kdcore.system.files import SCRATCH, replace_text
from kdcore.training import compiler, pulse, teacher_cache, timings
from kdcore.training.state import STATES, ResumeState
from stages import clean_scratch

KEY = "0123456789abcdef"
URL = "https://example.org/a/resnet56.pth"
KEPT = ["cells/x/meta.json", "data/pets/manifest.json", "report/report.html", "sweep/journal.json", "timings.jsonl"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A scratch folder with some of everything, of two cells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(teacher_cache.FOLDER_VARIABLE)
    for name in ("a-b-kd-1-False-base-0", "a-b-kd-1-False-base-01"):
        state = ResumeState(STATES / f"{name}-{KEY}.pt")
        for epoch in range(2):
            state.save({"history": [epoch], "student": torch.zeros(500_000)})
        replace_text(pulse.live_file(name), "epoch\n")
        replace_text(pulse.pulse_file(name), "{}")
        write(pulse.LIVE / f".{name}.csv.0123")  # of a process that was killed
    write(STATES / f"killed-before-its-first-state-{KEY}.lock")
    write(journal.LOGS / "train@a-b-kd-1-False-base-0.log")
    path = download.cached(URL)
    write(*(path.with_name(f"{path.name}{end}") for end in ("", ".lock", ".sha256")))
    other = download.cached("https://example.org/b/resnet56.pth")
    write(*(other.with_name(f"{other.name}{end}") for end in (".part", ".part.json", ".lock")))
    teacher_cache.open_table({"teacher": 1}, teacher_cache.Shape(10, 9, 1, 10), torch.float32)
    write(compiler.FOLDER / "2-threads" / "ab" / "code.py", *(SCRATCH / name for name in KEPT))
    journal.Journal("python -m stages.sweep", 1, "host", 0.0).write()
    return tmp_path


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something")


def left():
    found = sorted(path.relative_to(SCRATCH).as_posix() for path in SCRATCH.rglob("*") if path.is_file())
    return [name for name in found if name not in (*KEPT, "teacher-tables/lock", "sweep/lock")]


def test_all_goes_that_nobody_needs(project, capsys):
    assert SCRATCH / KEPT[-1] == timings.FILE
    clean_scratch.main()
    assert left() == []
    assert all((SCRATCH / name).is_file() for name in KEPT)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "states",
        "live files",
        "logs",
        "downloads",
        "teachers' tables",
        "probes",
        "compiled code",
    ]
    assert said[0] == "states: 8.0 MB removed"
    assert all(line.endswith("MB removed") for line in said)
    clean_scratch.main()
    assert all(line.endswith(": 0.0 MB removed") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("running", ["a-b-kd-1-False-base-0", "a-b-kd-1-False-base-01"])
def test_nothing_of_a_running_cell(project, running):
    """Nor of a teacher's tables, since it may use one of them."""
    state = ResumeState(STATES / f"{running}-{KEY}.pt")
    before = left()
    with state.locked():
        said = list(cleaning.clean())
        kept = left()
        assert len(state.load()["history"]) == 1
    of_states = [f"states/{running}-{KEY}.{kind}" for kind in ("before", "lock", "pt")]
    of_run = [*of_states, *(f"live/{name}" for name in (f"{running}.csv", f"{running}.json", f".{running}.csv.0123"))]
    assert kept == sorted([*of_run, *(name for name in before if name.startswith(("teacher-tables/", "compiled/")))])
    assert said[0] == f"states: 4.0 MB removed; kept, for they train now: {running}"
    assert said[-1] == "teachers' tables, compiled code: kept, for cells train now"


def test_nothing_of_a_running_sweep(project):
    with journal.opened():
        said = list(cleaning.clean())
    assert left() == ["sweep/logs/train@a-b-kd-1-False-base-0.log"]
    assert "logs: kept, for a sweep is at work" in said


def test_nothing_of_a_download_that_goes_on(project):
    path = download.cached("https://example.org/b/resnet56.pth")
    with FileLock(path.with_name(f"{path.name}.lock")):
        said = list(cleaning.clean())
    names = [f"downloads/{path.name}{end}" for end in (".lock", ".part", ".part.json")]
    assert left() == names
    assert said[3].endswith(f"; kept, for they go on now: {path.name}")


@pytest.fixture
def extraction(project):
    """What a data stage that was killed has extracted; of this name, as tempfile makes them."""
    path = download.FOLDER / "tmpz_k3x91a/extracted/cifar-100-python/train"
    write(path)
    return path


def test_what_a_killed_data_stage_extracted(extraction):
    list(cleaning.clean())
    assert left() == []
    assert not extraction.parents[2].exists()


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_a_data_stage_reads_now(extraction, elsewhere, tmp_path_factory):
    """Which has no lock; one of another project needs nothing here."""
    command = [sys.executable, "-c", "print(flush=True); input()", "-m", "stages.data"]
    where = tmp_path_factory.mktemp("other") if elsewhere else None
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=where) as stage:
        stage.stdout.readline()
        said = list(cleaning.clean())
        stage.communicate(b"\n")
    assert extraction.exists() != elsewhere
    assert said[3].endswith("; kept, for they go on now: what a stage extracted") != elsewhere


def test_what_a_sweep_may_read_elsewhere(extraction):
    with journal.opened():
        list(cleaning.clean())
    assert extraction.exists()


def test_tables_elsewhere_stay(project, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("tables")
    monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, str(folder))
    teacher_cache.open_table({"teacher": 1}, teacher_cache.Shape(10, 9, 1, 10), torch.float32)
    list(cleaning.clean())
    assert len(list(folder.glob("*/logits"))) == 1


def test_an_open_table_is_used_to_its_end(project):
    """By a cell that began after the states were looked at."""
    shape = teacher_cache.Shape(10, 9, 1, 10)
    table = teacher_cache.open_table({"teacher": 1}, shape, torch.float32)
    rows = torch.arange(5).numpy()
    list(cleaning.clean())
    table.write(rows, torch.ones(5, 1, 10))
    logits, missing = table.read(rows)
    assert (logits == 1).all()
    assert len(missing) == 0


def test_where_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [line.rpartition(": ")[2] for line in cleaning.clean()] == ["0.0 MB removed"] * 7
    assert list(tmp_path.iterdir()) == []
