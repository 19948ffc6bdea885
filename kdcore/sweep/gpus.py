"""The GPUs of a machine, as CUDA_VISIBLE_DEVICES names them, and how the workers of a sweep there share them."""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from filelock import FileLock, Timeout

from kdcore.system.errors import UserError, shown

DEVICE, VISIBLE, HIP = "KDCORE_DEVICE", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
NO_GPU = ("", "-1", "nodevfiles", "none", "void", "10000")
"""Values of CUDA_VISIBLE_DEVICES that mean none, in small letters: Slurm and HTCondor set some."""
CUDA_DEVICE = re.compile(r"cuda(?::(\d+))?")
NUMBER = re.compile(r"\+?([0-9]+)")
"""How CUDA reads a number: what follows it counts for nothing."""
OTHER_DEVICE = re.compile(r"(cpu|hpu|mps|mtia|xpu)(:\d+)?")
"""The other devices of torch; whether one is there, its stages find."""
LISTED = re.compile(r"(GPU \d+|\s+MIG \S+).*\(UUID: ([^)\s]+)\)")
"""A line of `nvidia-smi -L`: a GPU, or a part of the GPU above it."""
OLD_PART = re.compile(r"MIG-(GPU-[^/]+)/\d+/\d+")
"""A MIG part as drivers before R470 name it, and some queues still do."""
DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/kfd"))
"""What is there where a GPU's driver is, of NVIDIA or of AMD."""
ANSWER = 60.0
"""Seconds that nvidia-smi has to answer. It hangs where a GPU does."""
JOB_NUMBERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "OAR_JOB_ID", "_CONDOR_JOB_AD")
"""Variables in which a queue tells a job its number, or something else that no other job on the machine has."""
LOCKS = Path("/tmp")  # noqa: S108 (each name is of one sweep)
Environment = dict[str, str]
"""Environment variables that give a stage its GPU and its number of threads."""


def device_wanted() -> str:
    """Read which device KDCORE_DEVICE names; empty where it names none. Whether it is there is not checked.

    Raises:
        UserError: it names no device.
    """
    named = os.environ.get(DEVICE, "")
    if named and not (CUDA_DEVICE.fullmatch(named) or OTHER_DEVICE.fullmatch(named)):
        raise UserError(f"{DEVICE}={named}: is no device; use cpu, cuda or cuda:1, or leave {DEVICE} away")
    return named


def accelerator() -> str:
    """Name the device that is neither a CPU nor a GPU of CUDA and that KDCORE_DEVICE chooses for all stages, with its
    number: "xpu:0" or "mps:0"; empty where it chooses none.
    """
    chosen = OTHER_DEVICE.fullmatch(device_wanted())
    return f"{chosen[1]}{chosen[2] or ':0'}" if chosen and chosen[1] != "cpu" else ""


def gpus() -> list[str]:
    """List the GPUs that stages may use, as CUDA_VISIBLE_DEVICES names them. With KDCORE_DEVICE=cuda:1 it is the second
    of the visible ones alone. torch, which takes seconds, is asked only where nvidia-smi knows of no GPU, and
    KDCORE_DEVICE names one or a GPU's driver is there.

    Raises:
        UserError: KDCORE_DEVICE names no device or a GPU that is not visible; CUDA_VISIBLE_DEVICES means GPUs, and
            names none; or nvidia-smi does not answer.
    """
    named = device_wanted()
    wanted = CUDA_DEVICE.fullmatch(named or "cuda")
    if wanted is None:
        return []
    found = installed()
    names = visible(os.environ.get(VISIBLE), found)
    if found and not names and not named and (chosen := os.environ[VISIBLE].strip()).lower() not in NO_GPU:
        raise UserError(
            f"{VISIBLE}={chosen}: leaves none of the {len(found)} GPUs here, for an entry names none, or one twice; "
            f'name them by number from 0, or by UUID, or say {VISIBLE}="" to compute on the CPU'
        )
    is_known = bool(names or found) or VISIBLE in os.environ  # torch numbers what that variable leaves
    if not is_known and (named or any(path.exists() for path in DRIVERS)):
        names = _seen_by_torch()
    if not named:
        return names
    number = int(wanted[1] or 0)
    if number >= len(names):
        shown = f", with {VISIBLE}={os.environ[VISIBLE]}" if VISIBLE in os.environ else ""
        raise UserError(
            f"{DEVICE}={named}: no such GPU here, for {len(names)} can be seen{shown}; "
            f"use {_allowed(len(names))}, or leave {DEVICE} away"
        )
    return names if wanted[1] is None else [names[number]]


def _allowed(count: int) -> str:
    return "cpu" if not count else "cuda or cuda:0" if count == 1 else f"cuda, or cuda:0 to cuda:{count - 1}"


def _seen_by_torch() -> list[str]:
    """List the GPUs of a machine that has no nvidia-smi, such as one of AMD, or many a container.

    Raises:
        UserError: `HIP` chooses several, so all stages would compute on the first of them.
    """
    import torch

    count = torch.cuda.device_count()
    if count > 1 and HIP in os.environ:
        raise UserError(f"{HIP}={os.environ[HIP]}: a sweep gives GPUs by {VISIBLE}, which ROCm then ignores; use that")
    return [str(number) for number in range(count)]


def installed() -> dict[str, list[str]]:
    """List the GPUs that nvidia-smi knows of, in their order: the UUID of each -> the UUIDs of its MIG parts.

    Raises:
        UserError: nvidia-smi does not answer, or fails though there is a driver.
    """
    if shutil.which("nvidia-smi") is None:
        return {}
    try:
        listed = subprocess.run(  # nothing is listed where it fails
            ["nvidia-smi", "-L"],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=ANSWER,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"nvidia-smi -L: no answer in {ANSWER:g} seconds, so a GPU may hang; restart this machine, or compute on "
            f"the CPU with {DEVICE}=cpu"
        ) from error
    words = " ".join((listed.stdout + listed.stderr).split())
    if listed.returncode and DRIVERS[0].exists() and "No devices were found" not in words:
        raise UserError(
            f"nvidia-smi -L fails ({shown(words)}), so the driver or a GPU is broken; mend it, or compute on the CPU "
            f"with {DEVICE}=cpu"
        )
    found: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        if match := LISTED.match(line):
            kind, uuid = match.groups()
            if kind.startswith("GPU"):
                found[uuid] = []
            elif found:
                found[[*found][-1]].append(uuid)
    return found


def visible(chosen: str | None, found: dict[str, list[str]]) -> list[str]:
    """List the GPUs that CUDA would show to a program; in the place of a GPU that is divided, its MIG parts.

    Args:
        chosen: the value of CUDA_VISIBLE_DEVICES. As CUDA reads it, what follows an entry that names no GPU is ignored,
            and nothing is visible where one is named twice. None shows all, by UUID where a GPU is divided, for CUDA
            does not number those as nvidia-smi does.
        found: what `installed` has found; where that is nothing, any number or UUID counts as a GPU.
    """
    every = [*found] if any(found.values()) else [*map(str, range(len(found)))]
    entries = every if chosen is None else [entry.strip() for entry in chosen.split(",")]
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if entries and entries[0].startswith(prefix)), "")
    names: list[str] = []
    for entry in entries:
        name = _by_uuid(entry, prefix, found) if prefix else _by_number(entry, found)
        if not name:
            break
        names.append(name)
    if len(set(names)) < len(names):
        return []
    parts = {str(number): found[uuid] for number, uuid in enumerate(found)} | found
    return [part for name in names for part in parts.get(name) or [name]]


def _by_number(entry: str, found: dict[str, list[str]]) -> str:
    number = NUMBER.match(entry)
    return str(int(number[1])) if number and (not found or int(number[1]) < len(found)) else ""


def _by_uuid(entry: str, prefix: str, found: dict[str, list[str]]) -> str:
    """Complete a UUID, of which CUDA needs only a beginning that no other has."""
    if not entry.startswith(prefix):
        return ""
    if (old := OLD_PART.fullmatch(entry)) and old[1] in found:
        return entry
    fitting = [uuid for gpu, parts in found.items() for uuid in (gpu, *parts) if uuid.startswith(entry)]
    return entry if not found else fitting[0] if len(fitting) == 1 else ""


class Claims:
    """Claims slots of GPUs for one worker. Workers of one sweep on one machine may see the same GPUs: those of one job,
    or of `dask worker --nworkers 2`. Each slot is a lock that one of them holds until it ends.

    Args:
        slots: the environment of every slot that there is; those without a GPU or other device are free for all.
        most: how many the worker wants.
        sweep: a name that no other sweep has.
    """

    def __init__(self, slots: list[Environment], most: int, sweep: str) -> None:
        self.slots, self.wanted = slots, min(most, len(slots))
        self.held: dict[int, FileLock | None] = {}
        self.locks: list[FileLock | None] = []
        uuids, times = [*installed()] if any(VISIBLE in slot for slot in slots) else [], Counter[str]()
        job = next((os.environ[name] for name in JOB_NUMBERS if name in os.environ), "")
        for slot in slots:
            name = slot.get(VISIBLE) or slot.get(DEVICE, "")
            uuid = uuids[int(name)] if name.isdigit() and int(name) < len(uuids) else name
            if uuid.isdigit() or VISIBLE not in slot:  # without nvidia-smi; another job's GPU 0 may be another one
                uuid = f"{job}-{uuid}"
            times[uuid] += 1
            file = f"{sweep}-{re.sub('[^A-Za-z0-9-]', '_', uuid)}-{times[uuid]}.lock"
            self.locks.append(FileLock(_folder_of_locks() / file, thread_local=False) if name else None)

    def take(self) -> list[Environment]:
        """Claim slots that nobody holds, as long as the worker has too few; returns the new ones."""
        taken = []
        for number, lock in enumerate(self.locks):
            if len(self.held) < self.wanted and number not in self.held and _locked(lock):
                self.held[number] = lock
                taken.append(self.slots[number])
        return taken

    def release(self) -> None:
        """Leave all slots to other workers."""
        for lock in filter(None, self.held.values()):
            Path(lock.lock_file).unlink(missing_ok=True)  # one who waits for the lock sees that its file is gone
            lock.release()
        self.held.clear()


def _folder_of_locks() -> Path:
    """Return a folder that all jobs on a machine share. TMPDIR is often one of each job."""
    return LOCKS if os.access(LOCKS, os.W_OK) else Path(tempfile.gettempdir())


def _locked(lock: FileLock | None) -> bool:
    try:
        return lock is None or lock.acquire(blocking=False) is not None
    except Timeout:
        return False
