"""Dask workers that run a sweep's stages: how they join it, what each of them offers, and how its stages ended."""

import asyncio
import multiprocessing
import os
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

from distributed import Worker, WorkerPlugin, get_worker

import kdcore
from kdcore.sweep.clone import Clone
from kdcore.sweep.dvc_pipeline import PROJECT_FILE
from kdcore.sweep.gpus import DEVICE, Claims, device_wanted
from kdcore.sweep.processes import (
    GRACE,
    LOOK,
    THREADS,
    Ending,
    Environment,
    Job,
    Outcome,
    Slots,
    every_slot,
    prepare,
    refuse_together,
    run,
)
from kdcore.sweep.transfer import Delivery, Parcel, Post, code_of
from kdcore.system.errors import RunError, UserError
from kdcore.training import pulse

SLOT = "slot"
"""The Dask resource of which every job takes one."""
PLUGIN = "kdcore-"
"""Prefix of the name of the plugin by which workers join a sweep; the id of the sweep's Dask client follows."""
PULSES = "kdcore-pulses"
"""The Dask topic on which workers that share no files with the sweep report how far their cells are."""

CLAIMING = 5.0
"""Seconds between two looks whether others have left slots of a GPU, or the clone."""
PROFILERS = ("profile", "profile-cycle")
"""Periodic callbacks of a Dask worker that inspect all threads a hundred times a second. Python 3.11 may then hang for
ever when DVC begins a thread during a garbage collection (CPython issue 106883), so a sweep stops them.
"""

TOLD = os.environ.get(THREADS, "")
"""The number of threads that this process was started with: by a person, a script that was sourced, or a queue. Where
there is none, Dask sets 1; and later sweeps set what their cells have."""


@dataclass
class Place:
    """Where a worker runs stages, and how many at a time."""

    folder: str
    """The project's folder: the sweep's own, or a clone on the worker's machine."""
    is_apart: bool
    """Whether it is a clone that shares no files with the sweep."""
    slots: Slots
    method: str = ""
    """How processes are started, see `processes.prepare`."""
    trouble: str = ""
    """Why the worker cannot run stages, whatever other workers do."""
    in_use: str = ""
    """Who uses the clone, so that the worker has to wait; empty where nobody does."""
    is_blind: bool = False
    """Whether it computes on the CPU only because it sees no GPU."""
    remark: str = ""
    """What a person should know though the worker runs stages."""
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass
class Joining(WorkerPlugin):
    """Makes a Dask worker a worker of this sweep.

    A worker that was started in a clone of the project works there, others in the sweep's folder, which they must see.

    Args:
        root: the sweep's folder.
        token: path of a file in it that only this sweep has.
        code: digest of the project's code, see `code_of`.
        slots_per_gpu: stages on one GPU at a time.
        threads: per stage; None shares each machine's cores among its stages. The worker's own OMP_NUM_THREADS does
            not count, for Dask sets it to 1.
        name: of the plugin; begins with `PLUGIN`.
    """

    root: str
    token: str
    code: str
    slots_per_gpu: int
    threads: int | None
    name: str
    place: Place | None = None
    """Where the worker that holds this copy of the plugin runs stages."""
    claims: Claims | None = None
    """Its slots, which other workers on its machine may want too."""
    clone: Clone | None = None
    """The clone in which it works, if it has files of its own."""
    claiming: "asyncio.Task[None] | None" = None

    async def setup(self, worker: Worker) -> None:
        """Find the project, and offer as many slots as the worker has threads, or fewer where its GPUs have fewer."""
        multiprocessing.current_process().daemon = False  # Dask makes workers daemons, which may start no processes
        self.place = self._find(Path.cwd(), Slots([]))
        try:
            refuse_together()
            slots = every_slot(worker.state.nthreads, self.slots_per_gpu, self.threads)
            self.place.is_blind = DEVICE not in slots[0] and not device_wanted()
            if TOLD not in ("", "1", slots[0][THREADS]) and not self.place.trouble:
                self.place.remark = (
                    f"workers were started with {THREADS}={TOLD}, which does not count: cells there have "
                    f"{slots[0][THREADS]} threads, unless train.threads is set; that of the sweep counts"
                )
            if not self.place.trouble:
                self.claims = Claims(slots, worker.state.nthreads, self.name)
                self.clone = Clone(Path(self.place.folder), self.name, self.root) if self.place.is_apart else None
                self.place.slots.add(self._claim(self.place, self.claims))
        except (UserError, OSError) as error:  # its machine or environment is not fit for it
            self.place.trouble = self.place.trouble or str(error)
        if self.claims is not None and not self.place.trouble:
            self.place.method = prepare(slots[0], self.code)
            self.claiming = asyncio.create_task(self._claim_more(worker, self.place, self.claims))
        await worker.set_resources(**{SLOT: self.place.slots.count})
        for name in PROFILERS:
            if name in worker.periodic_callbacks:
                worker.periodic_callbacks.pop(name).stop()

    def _claim(self, place: Place, claims: Claims) -> list[Environment]:
        """Claim free slots, but none before the clone is this sweep's alone."""
        place.in_use = "" if self.clone is None else self.clone.keep()
        return [] if place.in_use else claims.take()

    async def _claim_more(self, worker: Worker, place: Place, claims: Claims) -> None:
        """Offer slots once others have left them, or the clone."""
        while place.slots.count < claims.wanted:
            await asyncio.sleep(CLAIMING)
            if more := self._claim(place, claims):
                place.slots.add(more)
                await worker.set_resources(**{SLOT: place.slots.count})

    async def teardown(self, worker: Worker) -> None:
        """Let running stages save their states: their sweep is gone, or this worker ends."""
        if self.claiming is not None:
            self.claiming.cancel()
        if self.place is not None:
            self.place.stopping.set()
            deadline = time.monotonic() + GRACE
            while self.place.slots.free.qsize() < self.place.slots.count and time.monotonic() < deadline:
                await asyncio.sleep(LOOK)
        if self.claims is not None:
            self.claims.release()
        if self.clone is not None:
            self.clone.release()

    def _find(self, here: Path, slots: Slots) -> Place:
        if (here / PROJECT_FILE).is_file() and not (here / self.token).is_file():
            place = Place(str(here), is_apart=True, slots=slots)
            if code_of(here) != self.code:
                place.trouble = f"{here} holds other code than the sweep's folder: git pull there"
        else:
            place = Place(self.root, is_apart=False, slots=slots)
            if not (Path(self.root) / self.token).is_file():
                place.trouble = f"{here} is no clone of the project, and {self.root} is not on this machine"
        imported = Path(kdcore.__file__).parents[1]
        if not place.trouble and code_of(imported, "kdcore") != code_of(Path(place.folder), "kdcore"):
            remedy = f"start the worker in {place.folder} with 'python -m dask worker'"
            place.trouble = f"it has imported other code than that of {place.folder}, from {imported}: {remedy}"
        return place


def carry_out(job: Job, parcel: Parcel, plugin: str) -> Delivery:
    """Run a stage on a Dask worker that has joined the sweep.

    Args:
        job: the stage.
        parcel: what a worker with files of its own has to fetch and to send.
        plugin: name of the worker's copy of `Joining`.
    """
    worker = get_worker()
    place = _place(worker, plugin)
    key = worker.get_current_task()

    def is_to_end() -> bool:
        task = worker.state.tasks.get(key)
        return place.stopping.is_set() or task is None or task.state == "cancelled"  # the sweep was killed

    name = f"{worker.name} on {socket.gethostname()}"
    job = replace(job, folder=place.folder, log=str(Path(place.folder) / job.log))
    environment = place.slots.free.get()
    try:
        if not place.is_apart:
            return Delivery(run(job, environment, is_to_end, method=place.method, worker=name))
        post = Post(Path(place.folder))
        post.fetch(parcel.inputs)
        beat = partial(_send_pulse, worker, job)
        outcome = run(job, environment, is_to_end, method=place.method, worker=name, beat=beat)
        if outcome.ending is not Ending.DONE:
            return Delivery(outcome, is_apart=True)
        post.check(parcel.inputs)
        return Delivery(outcome, is_apart=True, outputs=post.send_outputs(parcel.outputs))
    except RunError as error:
        return Delivery(Outcome(job.step, Ending.FAILED, worker=name, tail=str(error).splitlines()), place.is_apart)
    finally:
        place.slots.free.put(environment)


def _send_pulse(worker: Worker, job: Job) -> None:
    path = Path(job.folder) / pulse.pulse_file(job.name)
    if path.is_file():
        worker.log_event(PULSES, {"name": job.name, "pulse": path.read_text()})


def stop_stages(plugin: str, dask_worker: Worker) -> None:
    """Ask the stages of a worker to save their states and end; runs on the worker."""
    _place(dask_worker, plugin).stopping.set()


@dataclass(frozen=True)
class Report:
    """What a sweep has to know of a worker's `Place`."""

    is_apart: bool
    trouble: str
    is_passing: bool = False
    """Whether the trouble ends when other workers leave."""
    is_blind: bool = False
    """Whether it computes on the CPU only because it sees no GPU."""
    remark: str = ""
    """What a person should know though the worker runs stages."""


def report_place(plugin: str, dask_worker: Worker) -> Report:
    """Say what a sweep has to know of a worker; runs on the worker."""
    place = _place(dask_worker, plugin)
    taken = "" if place.slots.count else place.in_use or "other workers on its machine have all slots of its GPUs"
    trouble, is_passing = place.trouble or taken, not place.trouble and bool(taken)
    return Report(place.is_apart, trouble, is_passing, place.is_blind and not trouble, place.remark)


def _place(worker: Worker, plugin: str) -> Place:
    return cast(Place, cast(Joining, worker.plugins[plugin]).place)
