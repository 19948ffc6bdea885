"""Which GPUs a sweep uses, and how it divides them."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from distributed import Client, LocalCluster

from kdcore.sweep import dask_workers, gpus, processes
from kdcore.sweep.crew import Crew, slots_of
from kdcore.sweep.dask_workers import PLUGIN, SLOT, Joining, Report, report_place
from kdcore.sweep.gpus import Claims
from kdcore.sweep.transfer import code_of
from kdcore.system.errors import UserError
from tests.project import ROOT


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Without GPUs that the environment or the system knows of, and with 8 cores."""
    for variable in ("CUDA_VISIBLE_DEVICES", processes.DEVICE, processes.THREADS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DRIVERS", (tmp_path / "driver",))
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(processes.psutil, "virtual_memory", lambda: SimpleNamespace(available=100e9))
    return tmp_path


def with_gpus(folder, count, parts=()):
    """nvidia-smi lists so many GPUs, the first ones of which have so many MIG parts."""
    lines = []
    for number in range(count):
        lines.append(f"GPU {number}: NVIDIA H200 (UUID: GPU-{number}a)")
        divided = parts[number] if number < len(parts) else 0
        lines += [f"  MIG 1g.18gb     Device  {part}: (UUID: MIG-{number}-{part})" for part in range(divided)]
    says(folder, "\n".join(f"echo '{line}'" for line in lines))


def says(folder, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def slots(jobs, slots_per_gpu=1, threads=None):
    return processes.every_slot(jobs, slots_per_gpu, threads)


def test_slots_without_gpus_share_the_cores(machine, monkeypatch):
    assert processes.gpus() == []
    assert processes.default_jobs(1) == 8
    assert slots(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert slots(16) == [{"OMP_NUM_THREADS": "1"}] * 16
    assert slots(2, threads=3) == [{"OMP_NUM_THREADS": "3"}] * 2
    monkeypatch.setattr(processes.psutil, "virtual_memory", lambda: SimpleNamespace(available=3.2e9))
    assert processes.default_jobs(1) == 2


def test_a_job_has_the_cores_that_its_queue_gives_it(monkeypatch):
    """PBS, SGE and LSF often let a job see all cores of its machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    for variables in processes.ALLOTTED:
        for name in variables:
            monkeypatch.delenv(name, raising=False)
    assert processes.cores() == 64
    for job, name in processes.ALLOTTED:
        monkeypatch.setenv(name, "4")
        assert processes.cores() == 64, "that is no job"
        monkeypatch.setenv(job, "101")
        assert processes.cores() == 4
        monkeypatch.setenv(name, "100")
        assert processes.cores() == 64
        monkeypatch.delenv(job)
        monkeypatch.delenv(name)


def test_slots_on_gpus(machine, monkeypatch):
    with_gpus(machine, 2)
    assert processes.gpus() == ["0", "1"]
    assert processes.default_jobs(3) == 6
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(6, 2)] == ["0", "1", "0", "1"]
    on_a_gpu = {"CUDA_VISIBLE_DEVICES": "0", "KDCORE_DEVICE": "cuda", "OMP_NUM_THREADS": "8"}
    assert slots(1, 2)[0] == on_a_gpu, "the CPU does not stand in for a GPU that torch cannot use"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert processes.gpus() == ["1"]
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    assert processes.gpus() == []


@pytest.mark.parametrize(("chosen", "shown"), [
    ("1,2", ["1", "2"]),
    (" 1, 2", ["1", "2"]),
    ("", []),
    ("-1", []),
    ("NoDevFiles", []),
    ("none", []),
    ("void", []),
    ("0,-1,1", ["0"]),
    ("0,none,1", ["0"]),
    ("0,7,1", ["0", "7", "1"]),
    ("0,GPU-1a", ["0"]),
    ("1;2,0", ["1", "0"]),
    ("+1", ["1"]),
    ("1,1", []),
    ("GPU-1a,GPU-0a", ["GPU-1a", "GPU-0a"]),
    ("GPU-1a,0", ["GPU-1a"]),
    ("GPU-1a,GPU-1a", []),
    ("MIG-0-1", ["MIG-0-1"]),
])  # fmt: skip
def test_visible_devices_as_cuda_reads_them(machine, monkeypatch, chosen, shown):
    """torch's own reader agrees; where nothing is known of the machine, it believes in any number too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert processes.gpus() == shown
    assert [*map(str, torch.cuda._parse_visible_devices())] == shown
    assert len(slots(9)) == (len(shown) or 9)


def test_visible_devices_that_the_machine_does_not_have(machine, monkeypatch):
    with_gpus(machine, 2)
    for chosen, shown in (("0,7,1", ["0"]), ("GPU-1", ["GPU-1a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert processes.gpus() == shown


def test_parts_of_a_gpu_are_gpus(machine, monkeypatch):
    with_gpus(machine, 3, parts=(2, 0, 1))
    assert processes.gpus() == ["MIG-0-0", "MIG-0-1", "GPU-1a", "MIG-2-0"]
    assert processes.default_jobs(2) == 8
    for chosen, shown in (
        ("0", ["MIG-0-0", "MIG-0-1"]),
        ("1,2", ["1", "MIG-2-0"]),
        ("GPU-0a", ["MIG-0-0", "MIG-0-1"]),
        ("MIG-0-1,MIG-2-0", ["MIG-0-1", "MIG-2-0"]),
        ("MIG-GPU-0a/1/0", ["MIG-GPU-0a/1/0"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert processes.gpus() == shown


def test_a_device_with_a_number_is_one_of_the_visible_gpus(machine, monkeypatch):
    with_gpus(machine, 3)
    monkeypatch.setenv("KDCORE_DEVICE", "cuda:1")
    assert processes.gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert processes.gpus() == ["0"]
    assert slots(4, 2) == [{"CUDA_VISIBLE_DEVICES": "0", "KDCORE_DEVICE": "cuda", "OMP_NUM_THREADS": "4"}] * 2
    monkeypatch.setenv("KDCORE_DEVICE", "cuda:2")
    with pytest.raises(
        UserError, match=r"KDCORE_DEVICE=cuda:2: no such GPU here, for 2 can be seen, with CUDA_VISIBLE_D"
    ):
        processes.gpus()
    monkeypatch.setenv("KDCORE_DEVICE", "")
    assert processes.gpus() == ["2", "0"], "an empty variable is none"


def test_a_device_where_there_is_no_nvidia_smi(machine, monkeypatch):
    """On a machine of AMD torch knows the GPUs, and calls them cuda."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.gpus() == []
    monkeypatch.setenv("KDCORE_DEVICE", "cuda")
    assert processes.gpus() == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("banana", "CUDA", "cuda:x", "cpu "):
        monkeypatch.setenv("KDCORE_DEVICE", device)
        with pytest.raises(UserError, match=f"KDCORE_DEVICE={device}: is no device; use cpu, cuda or cuda:1"):
            gpus.gpus()
    monkeypatch.setenv("KDCORE_DEVICE", "cuda")
    with pytest.raises(UserError, match="KDCORE_DEVICE=cuda: no such GPU here, for 0 can be seen; use cpu"):
        processes.gpus()


def test_gpus_that_hip_has_chosen(machine, monkeypatch):
    """ROCm then ignores CUDA_VISIBLE_DEVICES, by which stages are given different ones."""
    (machine / "driver").touch()
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert processes.gpus() == ["0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="HIP_VISIBLE_DEVICES=2,3: a sweep gives GPUs by CUDA_VISIBLE_DEVICES"):
        processes.gpus()


def test_numbers_of_torch_are_no_numbers_of_the_machine(machine, monkeypatch):
    """They count what CUDA_VISIBLE_DEVICES leaves, and in that variable they would be other GPUs."""
    with_gpus(machine, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-another-driver")
    monkeypatch.setenv("KDCORE_DEVICE", "cuda")
    with pytest.raises(UserError, match="no such GPU here, for 0 can be seen, with CUDA_VISIBLE_DEVICES=GPU-of-ano"):
        processes.gpus()


def test_a_container_without_nvidia_smi(machine, monkeypatch):
    """A driver is there, so stages would compute on its GPU, as many at a time as there are cores."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (machine / "driver").touch()
    assert processes.gpus() == ["0"]
    assert processes.default_jobs(2) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    assert processes.gpus() == []


def test_an_nvidia_smi_that_fails_or_hangs(machine, monkeypatch):
    says(machine, "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver'; exit 9")
    assert processes.gpus() == []
    gpus.DRIVERS[0].touch()
    with pytest.raises(UserError, match=r"nvidia-smi -L fails \('NVIDIA-SMI has failed because .*KDCORE_DEVICE=cpu"):
        processes.gpus()
    gpus.DRIVERS[0].unlink()
    monkeypatch.setattr(gpus, "ANSWER", 0.1)
    says(machine, "exec /bin/sleep 5")
    with pytest.raises(UserError, match=r"nvidia-smi -L: no answer in 0.1 seconds, so a GPU may hang"):
        processes.gpus()


def test_one_cell_in_several_processes_is_not_for_sweeps(monkeypatch):
    monkeypatch.setenv("KDCORE_PROCESSES", "1")
    processes.refuse_together()
    monkeypatch.setenv("KDCORE_PROCESSES", "4")
    with pytest.raises(UserError, match="KDCORE_PROCESSES=4: a sweep gives each cell one GPU"):
        processes.refuse_together()
    monkeypatch.delenv("KDCORE_PROCESSES")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2: a sweep gives each cell one GPU"):
        processes.refuse_together()


CLAIM = """import sys, time
from pathlib import Path
from kdcore.sweep import gpus
from kdcore.sweep.gpus import Claims
gpus.LOCKS = Path(sys.argv[3])
claims = Claims([{"CUDA_VISIBLE_DEVICES": name} for name in sys.argv[2].split(",")], 9, sys.argv[1])
print([slot["CUDA_VISIBLE_DEVICES"] for slot in claims.take()], flush=True)
time.sleep(60)
"""


def test_workers_on_one_machine_share_the_slots_of_its_gpus(machine, monkeypatch, tmp_path):
    """Two of them never hold the same slot, however they name the GPU; one that is killed leaves its slots."""
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    with_gpus(machine, 2)
    two_on_each = slots(9, 2)
    first, second, third = (Claims(two_on_each, most, "sweep") for most in (3, 9, 9))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in first.take()] == ["0", "1", "0"]
    assert first.take() == [], "it has as many as it wanted"
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in second.take()] == ["1"]
    assert third.take() == []
    by_uuid = [{"CUDA_VISIBLE_DEVICES": "GPU-0a"}] * 2
    assert Claims(by_uuid, 2, "sweep").take() == []
    assert Claims(by_uuid, 2, "another sweep").take() == by_uuid
    first.release()
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in third.take()] == ["0", "1", "0"]
    second.release()
    third.release()
    assert list(tmp_path.glob("sweep*")) == []


def test_slots_of_a_worker_that_is_killed_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    killed = subprocess.Popen(
        [sys.executable, "-c", CLAIM, "sweep", "0,1", tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert killed.stdout.readline() == "['0', '1']\n"
    mine = Claims([{"CUDA_VISIBLE_DEVICES": "1"}], 1, "sweep")
    assert mine.take() == []
    killed.kill()
    killed.wait()
    assert len(mine.take()) == 1


def test_jobs_that_see_a_gpu_by_its_number_alone_may_have_different_ones(machine, monkeypatch, tmp_path):
    """Slurm calls the GPU of each job 0, and without nvidia-smi nobody knows more."""
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    slot = [{"CUDA_VISIBLE_DEVICES": "0"}]
    taken = []
    for number in ("101", "101", "102"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        claims = Claims(slot, 1, "sweep")
        taken.append((claims, len(claims.take())))
    assert [count for _, count in taken] == [1, 0, 1]
    with_gpus(machine, 1)
    known = []
    for number in ("101", "102"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        known.append(Claims(slot, 1, "sweep"))
    assert [len(claims.take()) for claims in known] == [1, 0], "with it, they do"


def test_jobs_with_temporary_folders_of_their_own_share_slots(monkeypatch, tmp_path):
    """PBS, SGE and many a Slurm set TMPDIR to a folder of each job."""
    taken = []
    for folder in ("job-101", "job-102"):
        monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda folder=folder: str(tmp_path / folder))
        claims = Claims([{"CUDA_VISIBLE_DEVICES": "GPU-0a"}], 1, f"sweep-{os.getpid()}")
        taken.append((claims, len(claims.take())))
    for claims, _ in taken:
        claims.release()
    assert [count for _, count in taken] == [1, 0]


def test_another_accelerator_has_as_many_slots_as_a_gpu(machine, monkeypatch, tmp_path):
    """Cells would fill the memory of the one device, as many at a time as there are cores."""
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    for device, full in (("xpu", "xpu:0"), ("mps", "mps:0"), ("xpu:1", "xpu:1")):
        monkeypatch.setenv("KDCORE_DEVICE", device)
        assert processes.gpus() == []
        assert processes.default_jobs(2) == 2
        assert slots(8, 2) == [{"KDCORE_DEVICE": full, "OMP_NUM_THREADS": "4"}] * 2
    first, second = (Claims(slots(8, 2), 8, "sweep") for _ in range(2))
    assert [len(first.take()), len(second.take())] == [2, 0], "workers of one job share them"
    first.release()
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    assert slots(2) == [{"OMP_NUM_THREADS": "4"}] * 2


def test_slots_without_a_gpu_are_free_for_all():
    assert len(Claims([{}, {}], 2, "sweep").take()) == len(Claims([{}, {}], 2, "sweep").take()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("device", "is_blind"), [("", True), ("cpu", False), ("xpu", False)])
def test_a_worker_that_sees_no_gpu_says_so(monkeypatch, tmp_path, device, is_blind):
    """Its job may have been given none, as where --gres was forgotten; with KDCORE_DEVICE=cpu it is meant."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("KDCORE_DEVICE", device)
    (tmp_path / "token").touch()
    (tmp_path / "kdcore").symlink_to(ROOT / "kdcore")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    joining = Joining(str(tmp_path), "token", code_of(tmp_path), slots_per_gpu=1, threads=1, name=PLUGIN)
    with (
        LocalCluster(n_workers=1, processes=False, memory_limit=None, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(joining)
        (report,) = client.run(report_place, PLUGIN).values()
    assert (report.trouble, report.is_blind) == ("", is_blind)


def test_a_paused_worker_begins_nothing_and_is_named():
    """Dask pauses one that has used most of its memory, and would keep what it is given for ever."""
    workers = {
        "a": {"resources": {SLOT: 2.0}, "status": "paused"},
        "b": {"resources": {SLOT: 1.0}, "status": "running"},
        "c": {"resources": {}, "status": "paused"},
    }
    client = SimpleNamespace(
        scheduler=SimpleNamespace(identity=None), status="running", sync=lambda *_, **__: {"workers": workers}
    )
    assert slots_of(client) == ({"a": 0.0, "b": 1.0, "c": None}, {"a", "c"})
    crew = Crew.__new__(Crew)
    crew.offered, crew.places, crew.paused = {"a": 0.0}, {}, frozenset("a")
    assert crew.troubles == ["worker a: is paused by Dask, for it has used most of its memory; start it with more"]
    crew.job_queue = SimpleNamespace(workers=1, trouble="")
    assert crew.trouble == ""  # it may go on by itself


def test_workers_without_gpus_are_named_beside_others_that_have_some():
    crew = Crew.__new__(Crew)
    crew.client, crew.job_queue, crew.offered, crew.since = SimpleNamespace(cluster=None), None, {}, {}
    blind, sighted = Report(is_apart=False, trouble="", is_blind=True), Report(is_apart=False, trouble="")
    rest = "no GPU, and cells compute on the CPU there; KDCORE_DEVICE=cpu says that it is meant"
    for places, said in (
        ({"a": blind, "b": sighted}, [f"worker a sees {rest}"]),
        ({"a": blind, "b": blind}, [f"the workers see {rest}"]),
        ({"b": sighted}, []),
        ({}, []),
    ):
        crew.places = places
        assert crew.complaints == said


@pytest.mark.parametrize("chosen", [
    "7", "0,0", "2,0", "cuda:1", "all", "GPU-2", "GPU-", "MIG-GPU-9a/1/0", "MIG-9",
])  # fmt: skip
def test_gpus_that_are_named_and_are_not_there(machine, monkeypatch, chosen):
    """A whole sweep would compute on the CPU."""
    with_gpus(machine, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    with pytest.raises(UserError, match=rf"CUDA_VISIBLE_DEVICES={chosen}: leaves none of the 2 GPUs here"):
        gpus.gpus()


@pytest.mark.parametrize("chosen", ["", "-1", "NoDevFiles", "none", "10000", "void"])
def test_no_gpu_may_be_meant(machine, monkeypatch, chosen):
    with_gpus(machine, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.gpus() == []


@pytest.mark.slow
@pytest.mark.parametrize(("told", "said"), [("8", True), ("", False), ("1", False), ("3", False)])
def test_threads_of_a_worker_that_do_not_count_are_named(monkeypatch, tmp_path, told, said):
    """Such as those of a script that its job has sourced; Dask itself says 1."""
    monkeypatch.setattr(dask_workers, "TOLD", told)
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    (tmp_path / "token").touch()
    (tmp_path / "kdcore").symlink_to(ROOT / "kdcore")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    joining = Joining(str(tmp_path), "token", code_of(tmp_path), slots_per_gpu=1, threads=3, name=PLUGIN)
    with (
        LocalCluster(n_workers=1, processes=False, memory_limit=None, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(joining)
        (report,) = client.run(report_place, PLUGIN).values()
    crew = Crew.__new__(Crew)
    crew.client, crew.job_queue, crew.offered, crew.places = SimpleNamespace(cluster=None), None, {}, {"a": report}
    crew.places["b"] = report
    remark = (
        "workers were started with OMP_NUM_THREADS=8, which does not count: cells there have 3 threads, unless "
        "train.threads is set; that of the sweep counts"
    )
    assert crew.complaints == [remark] * said


@pytest.mark.slow
def test_two_worker_processes_of_a_job_with_one_gpu(monkeypatch, tmp_path):
    """One of them gets its slot; when it leaves, the other one does."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "token").touch()
    (tmp_path / "kdcore").symlink_to(ROOT / "kdcore")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    plugin = f"{PLUGIN}{os.getpid()}"
    joining = Joining(str(tmp_path), "token", code_of(tmp_path), slots_per_gpu=1, threads=1, name=plugin)
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, memory_limit=None, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: None)  # both are there
        client.register_plugin(joining)
        offered, paused = slots_of(client)
        assert not paused
        assert sorted(offered.values()) == [0, 1]
        reports = client.run(report_place, plugin)
        assert {reports[address].trouble for address, count in offered.items() if count} == {""}
        (left,) = [address for address, count in offered.items() if not count]
        assert reports[left].trouble == "other workers on its machine have all slots of its GPUs"
        client.retire_workers([address for address, count in offered.items() if count])
        deadline = time.monotonic() + 30
        while slots_of(client)[0][left] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_workers_are_seen_whatever_the_client_asks_in_between(monkeypatch):
    """A client asks for the scheduler's state every few seconds, without its workers."""
    with (
        LocalCluster(n_workers=1, processes=False, memory_limit=None, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        ask = client._update_scheduler_info

        async def and_again(n_workers=0):
            await ask(n_workers)
            await ask()

        monkeypatch.setattr(client, "_update_scheduler_info", and_again)
        assert client.scheduler_info(n_workers=-1)["workers"] == {}
        assert len(slots_of(client)[0]) == 1
