"""What a machine has to offer: slots, each with a GPU or a share of the cores."""

import os
import queue
import shutil
import subprocess

import psutil

from kdcore.system.errors import UserError

DEVICE, THREADS = "KDCORE_DEVICE", "OMP_NUM_THREADS"
CELL_MEMORY = 1.5e9
"""Bytes that a cell of CIFAR-100 needs on the CPU, see benchmarks/memory.py."""
Environment = dict[str, str]
"""Variables that tell a job its slot."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them; torch is not asked, for it would take seconds."""
    device = os.environ.get(DEVICE, "cuda")
    if device.partition(":")[0] != "cuda":
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number, _ in enumerate(found)]


def default_jobs(slots_per_gpu: int) -> int:
    """As many as the GPUs have slots; without a GPU as many as there are cores, and memory for."""
    if gpus():
        return len(gpus()) * slots_per_gpu
    return max(1, min(cores(), int(psutil.virtual_memory().available / CELL_MEMORY)))


def environments(jobs: int, slots_per_gpu: int, threads: int | None) -> list[Environment]:
    """One for each slot of this machine.

    Args:
        jobs: at a time, at most.
        slots_per_gpu: of them, at most, on one GPU.
        threads: of each job; None shares the cores evenly.

    Returns:
        As many as jobs, fewer where there are fewer slots on GPUs. Every GPU gets its first job before one gets its
        second.
    """
    found = gpus()
    visible = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(slots_per_gpu) for gpu in found][:jobs] if found else None
    chosen: list[Environment] = [{} for _ in range(jobs)] if visible is None else visible
    return [{**slot, THREADS: str(threads or max(1, cores() // len(chosen)))} for slot in chosen]


def threads_wanted() -> int | None:
    """Of each job, by OMP_NUM_THREADS; None without it.

    Raises:
        UserError: it is no number.
    """
    said = os.environ.get(THREADS)
    if said is not None and not (said.isdecimal() and int(said) > 0):
        raise UserError(f"{THREADS}={said}: must be the number of threads of each job, 1 or more")
    return None if said is None else int(said)


class Slots:
    """Those of one machine, handed out one by one."""

    def __init__(self, found: list[Environment]) -> None:
        self.count = len(found)
        self.free: queue.SimpleQueue[Environment] = queue.SimpleQueue()
        for slot in found:
            self.free.put(slot)
