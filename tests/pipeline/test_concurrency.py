"""Several processes at the same thing: one waits or says who is at it, and nobody finds half of anything."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stderr, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.data.sources import digits
from kdcore.sweep import journal
from kdcore.sweep.schedule import Step
from kdcore.system.errors import UserError
from kdcore.system.files import replace_text, whole
from kdcore.training import pulse, teacher_cache, timings
from kdcore.training.teacher_cache import Shape, open_table
from tests import sweeps
from tests.train import training_settings
from tests.training.test_teacher_outputs import distil, trained

CROWD, ROUNDS = 8, 25
"""Processes, and rounds of each: 200 in all."""


def start(work, *arguments):
    """A process that does this; its exit code says whether it went well."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)  # whatever threads there were, they are not in this process
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(*pids):
    """Wait for processes; all must have gone well."""
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)


def crowd(work):
    """Eight processes that do `work(number)`."""
    end(*(start(work, number) for number in range(CROWD)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestTeacherTables:
    SHAPE = Shape(images=40, views=4, regions=2, classes=1500)  # rows of 12 KB, so that one can be torn
    COUNT = 3

    @pytest.fixture(autouse=True)
    def room(self, here, monkeypatch):
        """For two tables at a time, whatever disk this is."""
        monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, "tables")
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, str(2.5e-9 * self.SHAPE.table_bytes(torch.float32)))
        monkeypatch.setattr(teacher_cache, "SPARE", 0)

    def truth(self, table, rows):
        """What a teacher says: of every row something else."""
        start = 1000 * table + 10 * torch.from_numpy(rows)[:, None, None]
        return (start + torch.arange(3000).reshape(2, 1500) % 97).float()

    def test_every_row_is_what_it_should_be(self, here):
        """While eight processes open, fill and read them, make room for others, and some remove them all."""

        def work(number):
            random = np.random.default_rng(number)
            checked = 0
            for _ in range(ROUNDS):
                name = int(random.integers(self.COUNT))
                if random.random() < 0.1:
                    shutil.rmtree(here / "tables", ignore_errors=True)
                table = open_table({"name": name}, self.SHAPE, torch.float32)
                for first in range(0, self.SHAPE.rows if table else 0, 16):  # all at the same rows, about
                    rows = first + random.permutation(16)
                    checked += self.check(table, rows, self.truth(name, rows))
            (here / f"checked-{number}").write_text(str(checked))

        crowd(work)
        checked = [int(path.read_text()) for path in here.glob("checked-*")]
        assert len(checked) == CROWD
        assert sum(checked) > CROWD * ROUNDS * 6, checked

    def check(self, table, rows, expected):
        """Returns how many rows others had filled."""
        found, missing = table.read(rows)
        known = np.setdiff1d(np.arange(len(rows)), missing)
        assert torch.equal(found[known], expected[known])
        table.write(rows[missing], expected[missing])
        found, missing = table.read(rows)
        assert len(missing) == 0
        assert torch.equal(found, expected)
        return len(known)

    def test_two_cells_of_one_teacher_end_as_each_would_alone(self, here, monkeypatch):
        """Also where the table that they share is removed meanwhile, to make room for others."""
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
        students = ("resnet8", "wrn_16_1")

        def train(out, student):
            settings = training_settings(3, 16, 0.05)
            run = distil(dataset, "kd", (1, 2), student=student, settings=settings)
            (here / f"{out}-{student}").write_bytes(pickle.dumps(trained(dataset, run)))

        def train_both(out):
            end(*(start(train, out, student) for student in students))
            return [(here / f"{out}-{student}").read_bytes() for student in students]

        def take_room():
            while not (here / "enough").exists():
                assert open_table({"name": time.monotonic()}, self.SHAPE, torch.float32)
                time.sleep(0.01)

        def tables_left():
            return [path for path in here.glob("tables/*/about.json") if '"teacher"' in path.read_text()]

        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0")
        alone = train_both("alone")
        monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, "0.0025")  # the cells' table is of 2.2 MB
        assert train_both("shared") == alone
        assert len(tables_left()) == 1
        shutil.rmtree(here / "tables")
        other = start(take_room)
        assert train_both("removed") == alone
        (here / "enough").touch()
        end(other)
        assert tables_left() == []


def test_a_folder_is_always_whole(here):
    """While eight processes replace it, some of them in vain, and look at it."""
    files = ("one", "two", "three")

    def write(stamp, *, fails):
        with whole(here / "out") as folder:
            for name in files:
                (folder / name).write_text(stamp * 3000)
            assert sorted(path.name for path in folder.iterdir()) == sorted(files)
            if fails:
                raise UserError("in vain")

    def look():
        """The stamps in it, or none if it was replaced meanwhile."""
        with suppress(FileNotFoundError):
            folder = os.open(here / "out", os.O_RDONLY)
            try:
                return [open(os.open(name, os.O_RDONLY, dir_fd=folder)).read() for name in files]
            finally:
                os.close(folder)
        return []

    def work(number):
        random = np.random.default_rng(number)
        seen = 0
        for turn in range(ROUNDS):
            with suppress(UserError):
                write(f"{number} {turn} ", fails=random.random() < 0.2)
            texts = look()
            assert len(set(texts)) <= 1
            for text in set(texts):
                assert text == text[: len(text) // 3000] * 3000
                seen += 1
        assert seen > ROUNDS / 2

    crowd(work)
    assert [path.name for path in here.iterdir()] == ["out"]


def test_logs_are_always_whole(here):
    """The timings, the journal and a pulse, which eight processes write and read at once."""
    (here / "card").touch()
    (here / "run").mkdir()

    def work(number):
        meta = {"name": str(number) * 5000, "student": "b", "method": "kd", "device": "cpu", "threads": 1,
                "train": {"batch_size": 16}}  # fmt: skip
        said = io.StringIO()
        with redirect_stderr(said):
            for turn in range(1, ROUNDS + 1):
                stamp = f"{number} {turn}"
                timings.record(here / "card", here / "run", meta, epochs=turn, seconds=1.0, images_per_second=2.0)
                steps = {str(step): Step(str(step), (), reason=stamp) for step in range(300)}
                journal.Journal(stamp, number, "here", 0.0, steps).write()
                found = journal.read()
                assert {step.reason for step in found.steps.values()} == {found.command}
                replace_text(pulse.pulse_file("cell"), PULSE % (turn, number * 10**9))
                assert list(pulse.pulses()) == ["cell"]
                mine = [timing.epochs for timing in timings.load() if timing.name == meta["name"]]
                assert mine == list(range(1, turn + 1))
        assert said.getvalue() == ""

    crowd(work)
    assert len(timings.load()) == CROWD * ROUNDS
    assert sorted(path.name for path in (here / "scratch/live").iterdir()) == ["cell.json"]
    assert sorted(path.name for path in (here / "scratch/sweep").iterdir()) == ["journal.json"]


PULSE = (
    '{"name": "cell", "epoch": %d, "epochs": 25, "loss": null, "test_top1": null, "images_per_second": 1.0, '
    '"seconds_left": null, "pid": %d, "host": "here", "updated": 0.0}'
)


def test_who_looks_keeps_no_sweep_out(here):
    """`status` asks whether one is at work by trying its lock."""

    def look():
        while not (here / "enough").exists():
            journal.is_running()

    watchers = [start(look) for _ in range(3)]
    try:
        for _ in range(ROUNDS):
            with journal.opened():
                assert journal.is_running()
    finally:
        (here / "enough").touch()
        end(*watchers)


@pytest.mark.slow
@pytest.mark.pipeline
def test_one_repro_at_a_time(tmp_path):
    """A second `dvc repro`, and a sweep, say who is at work, and change nothing; the first one is not disturbed."""
    project = sweeps.make(tmp_path / "project")
    project.behave(resnet14="wait")
    before = (project.folder / "params.yaml").read_bytes()
    with (project.folder / "sweep.log").open("w") as log:
        dvc = [str(Path(sys.executable).with_name("dvc")), "repro", "teacher@resnet14"]
        process = subprocess.Popen(dvc, cwd=project.folder, stdout=log, stderr=log)
    try:
        project.wait_for(lambda: "resnet14" in project.ran)
        for refused in (
            project.dvc("repro", code=255),
            project.sweep(code=2),
            project.sweep("-S", "scales=[1]", code=2),
        ):
            assert "is busy, it is being blocked by" in refused
            assert f"(PID {process.pid})" in refused
        assert (project.folder / "params.yaml").read_bytes() == before
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 0, project.said()
    finally:
        process.kill()
        process.wait()
    project.sweep("--jobs", "2")
    assert sorted(project.ran) == sorted({*project.ran})
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
