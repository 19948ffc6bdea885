"""Disks that are full or may not be written, and memory that does not suffice: what is said, what is left, and that the
run goes on once there is room.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, suppress

import numpy as np
import pytest
import torch

from kdcore import checkpoints, networks
from kdcore.data.sources import digits
from kdcore.system import yamlfile
from kdcore.system.errors import FULL_DISK, OUT_OF_MEMORY, is_full
from kdcore.system.files import whole
from kdcore.training import experiment, teacher_cache
from stages import data, plan, run, train
from tests import sweeps
from tests.pipeline.test_concurrency import end, start
from tests.pipeline.test_stages import call
from tests.project import PARAMS, ROOT, TINY, copy_lists
from tests.sweeps import PAIR, cell
from tests.training.test_teacher_outputs import distil, trained

NAME = cell("kd", 2)
RUN = f"runs/{PAIR}/{NAME}"
FILES = ("weights.safetensors", "history.csv")
TRAIN = ("stages.train", "train", NAME)


@contextmanager
def disk(folder, size, *options):
    """A file system of its own, of so many bytes, with whatever is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.with_name(f"{folder.name}.kept")
    shutil.copytree(folder, kept)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        for option in options:
            remount(folder, option)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a cell needs: its card, its data set, and a teacher that nobody has trained; and what it then leaves."""
    folder = tmp_path_factory.mktemp("disk")
    params = yamlfile.read(PARAMS)
    train = {**params["train"], "epochs": 3, "schedule": "cosine"}
    yamlfile.write(folder / "params.yaml", {**params, **TINY, "train": train})
    copy_lists(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan.main()
        data.main()
    torch.manual_seed(0)
    (folder / "pairs").mkdir()
    checkpoints.save(networks.create("resnet14", 10), folder / f"pairs/{PAIR}.safetensors")
    reference = folder.with_name("reference")
    shutil.copytree(folder, reference)
    assert call(reference, *TRAIN)[0] == 0
    return folder, [(reference / RUN / name).read_bytes() for name in FILES]


@pytest.fixture
def project(prepared, tmp_path):
    return shutil.copytree(prepared[0], tmp_path / "project")


@pytest.fixture
def made(prepared, project):
    """Whether the cell's results have the bits of an undisturbed run."""
    return lambda: [(project / RUN / name).read_bytes() for name in FILES] == prepared[1]


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def epochs_trained(project):
    """By the process that finished the cell."""
    return json.loads((project / "scratch/timings.jsonl").read_text().splitlines()[-1])["epochs"]


class TestFull:
    @pytest.mark.slow
    def test_where_states_are_saved(self, project, made):
        """The first state has room, the second has not: the next run goes on from the first."""
        with disk(project / "scratch", 1 << 20) as small:
            code, said = call(project, *TRAIN)
            assert code == FULL_DISK, said
            assert f"error: stages.train train {NAME}: the disk is full ([Errno 28] " in said
            assert re.search(r"'scratch/states/\S+\.pt'\); make space, and run it again$", said.rstrip())
            assert not (project / "runs").exists()
            assert [name for name in below(small) if "unfinished" in name] == []
            remount(small, "size=16m")
            code, said = call(project, *TRAIN)
            assert code == 0, said
            assert made()
            assert epochs_trained(project) < 3

    @pytest.mark.slow
    def test_where_results_are_written(self, project, made):
        """Others stay as they are, and nothing stands for this one; afterwards nothing is trained once more."""
        other = project / f"runs/{PAIR}/other"
        with whole(other) as folder:
            (folder / "meta.json").write_text("{}")
        with disk(project / "runs", 100 << 10) as small:
            code, said = call(project, *TRAIN)
            assert code == FULL_DISK, said
            assert f"error: stages.train train {NAME}: the disk is full ([Errno 28] " in said
            assert f"'{RUN}'" in said
            assert below(small) == [f"{PAIR}/other/meta.json"]
            remount(small, "size=16m")
            code, said = call(project, *TRAIN)
            assert code == 0, said
            assert made()
            assert not (project / "scratch/timings.jsonl").exists()

    def test_where_data_are_stored(self, project):
        """The data set that was there stays until the new one is whole."""
        before = {name: (project / "data" / name).read_bytes() for name in below(project / "data")}
        size = sum(map(len, before.values()))
        with disk(project / "data", size + (200 << 10)) as small:
            code, said = call(project, "stages.data")
            assert code == FULL_DISK, said
            assert "error: stages.data: the disk is full ([Errno 28] No space left on device: 'data/digits')" in said
            assert {name: (small / name).read_bytes() for name in below(small)} == before
            remount(small, "size=16m")
            assert call(project, "stages.data")[0] == 0
            assert {name: (small / name).read_bytes() for name in below(small)} == before

    @pytest.mark.parametrize(("trouble", "warnings"), [("while it grows", 1), ("from the start", 1), ("read-only", 1)])
    def test_where_teachers_tables_are(self, tmp_path, monkeypatch, trouble, warnings):
        """The cell goes on without, says so once, and ends with the same bits."""
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
        monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, str(tmp_path / "tables/here"))
        monkeypatch.setattr(teacher_cache, "SPARE", 0)
        results, said = tmp_path / "results", tmp_path / "said"
        open_table = teacher_cache.open_table

        def train():
            with said.open("w") as file, redirect_stderr(file):
                results.write_text(str(trained(dataset, distil(dataset, "kd", (1, 2)))))

        def then_full(*arguments, **options):
            table = open_table(*arguments, **options)
            fill(tmp_path / "tables")
            return table

        end(start(train))
        expected = results.read_text()
        assert said.read_text() == ""
        results.unlink()
        shutil.rmtree(tmp_path / "tables")
        with disk(tmp_path / "tables", 4 << 20, *(["ro"] if trouble == "read-only" else [])) as small:
            if trouble == "while it grows":
                monkeypatch.setattr(teacher_cache, "open_table", then_full)
            elif trouble == "from the start":
                fill(small)
            end(start(train))
        assert results.read_text() == expected
        assert said.read_text().count("; training goes on") == said.read_text().count("\n") == warnings

    @pytest.mark.slow
    @pytest.mark.pipeline
    def test_where_dvc_works(self, tmp_path):
        """In a serial run; tests/sweep/test_sweep.py has the sweep."""
        with disk(tmp_path / "small", 24 << 20) as small:
            project = sweeps.make(small / "project")
            project.behave(resnet14="fill the disk")
            said = project.dvc("repro", "teacher@resnet14", code=255)
            assert "error: stages.teacher resnet14: the disk is full (" in said
            assert not (project.folder / "teachers/resnet14").exists()
            (project.folder / "ballast").unlink()
            project.behave()
            project.dvc("repro", "teacher@resnet14")
            assert project.ran == ["resnet14", "resnet14"]
            self.check_cache(project)

    def check_cache(self, project):
        """DVC goes on where its cache has no room, and calls it done; a sweep does not."""
        name = cell("kd", 1)
        project.behave(**{name: "leave 16 KB"})
        said = project.sweep("--jobs", "1", f"train@{name}", code=1)
        assert f"train@{name}: failed: runs/{PAIR}/{name}: DVC could not put it into its cache" in said
        (project.folder / "ballast").unlink()
        project.behave()
        project.sweep("--jobs", "1")
        assert project.dvc("status").strip() == "Data and pipelines are up to date."

    def test_is_told_from_other_errors(self, tmp_path):
        """Whichever library wrote, and whatever it made of the system's error."""
        with disk(tmp_path / "small", 64 << 10) as small:
            for write in (
                lambda path: path.write_bytes(bytes(1 << 20)),
                lambda path: np.save(path, np.zeros(1 << 17)),
                lambda path: checkpoints.save(networks.create("resnet14", 10), path),
                lambda path: torch.save(torch.zeros(1 << 17), path.open("wb")),
            ):
                with pytest.raises(Exception) as caught:  # noqa: PT011
                    write(small / "file")
                assert is_full(caught.value)
        with pytest.raises(OSError, match="No such file") as caught:
            np.save(tmp_path / "nowhere/file", np.zeros(3))
        assert not is_full(caught.value)

    def test_of_an_error_that_was_raised_from_itself(self):
        error = ValueError("wrong")
        error.__cause__ = error
        assert not is_full(error)


def fill(folder):
    """To the last byte."""
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    assert os.statvfs(folder).f_bavail == 0


class TestReadOnly:
    @pytest.mark.slow
    @pytest.mark.parametrize(("folder", "command"), [
        ("scratch", TRAIN), ("runs", TRAIN), ("data", ["stages.data"]), (".", ["stages.plan"]), (".", ["stages.sweep"]),
    ])  # fmt: skip
    def test_is_said(self, project, folder, command):
        with disk(project / folder, 16 << 20, "ro"):
            before = below(project)
            code, said = call(project, *command)
            assert code == 2, said
            assert below(project) == before or folder == "runs"
        said = said.splitlines()[-1]
        assert said.startswith(f"error: {' '.join(command)}: ")
        assert said.endswith("Read-only file system; let this user read and write there, or work in another folder")

    def test_by_its_mode(self, project):
        """Which binds root, too, where it has no right to override modes."""
        (project / "scratch").mkdir(mode=0o555)
        bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        command = [*bound, sys.executable, "-m", *TRAIN]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr == (
            f"error: stages.train train {NAME}: scratch/states: Permission denied; let this user read and write there, "
            "or work in another folder\n"
        )
        assert not (project / "runs").exists()


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    MemoryError("no more"),
])  # fmt: skip
def test_memory_that_does_not_suffice(project, monkeypatch, capsys, error):
    """The message names the cell, and what would take less."""

    def fail(*_, **__):
        raise error

    monkeypatch.chdir(project)
    monkeypatch.setattr(experiment, "run", fail)
    monkeypatch.setattr(sys, "argv", ["train.py", "train", NAME])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(train.main)
    signal.signal(signal.SIGTERM, before)
    assert caught.value.code == OUT_OF_MEMORY
    said = capsys.readouterr().err
    assert said.startswith(f"error: stages.train train {NAME}: memory did not suffice ({error}); take a smaller ")
    assert all(hint in said for hint in ("train.batch_size", "train.precision", "--slots-per-gpu"))
    assert "Traceback" not in said
