"""Dask workers as a crew for stages: what each of them offers, what it is given to do, and how that ended."""

import asyncio
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

from distributed import Client, Future, Scheduler, Worker, WorkerPlugin, get_worker
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from kdcore.sweep import FOLDER, slots, warm
from kdcore.sweep.dvc_pipeline import PROJECT_FILE
from kdcore.sweep.processes import LOOK, Ending, Job, Outcome, nursery, run
from kdcore.sweep.transfer import Delivery, Parcel, Post, code_of
from kdcore.system.errors import RunError, UserError
from kdcore.system.files import replace_text
from kdcore.training import pulse

SLOT = "slot"
"""Dask's resource of which every job takes one."""
PLUGIN = "kdcore-"
"""Begins the name of the plugin by which workers join a sweep; that of the sweep's Dask client follows."""
MARK = "token-"
"""Begins the name of the file by which workers know a sweep's folder."""
PULSES = "kdcore-pulses"
"""Dask's topic on which workers that share no files with the sweep say how far their cells are."""

PATIENCE = 10.0
"""Seconds in which Dask must have answered a sweep that ends."""
PROFILERS = ("profile", "profile-cycle")
"""Of a Dask worker. They look at all threads a hundred times a second, and Python 3.11 may stand still for ever where a
garbage collection falls into that and DVC begins a thread (CPython issue 106883).
"""


@dataclass
class Place:
    """What a worker knows of where it is."""

    folder: str
    """The project's: the sweep's, or a clone of its own."""
    is_apart: bool
    """Whether it is a clone that shares no files with the sweep."""
    slots: slots.Slots
    trouble: str = ""
    """Why it cannot run jobs."""
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass
class Joining(WorkerPlugin):
    """Makes a Dask worker one of this sweep.

    A worker that was started in a clone of the project works there, others in the sweep's folder, which they must see.

    Args:
        root: the sweep's folder.
        token: a file in it that only this sweep has.
        code: of the project, see `code_of`.
        slots_per_gpu: jobs on one GPU at a time.
        threads: of each job; None shares each machine's cores among its jobs. The worker's own OMP_NUM_THREADS does
            not count, for Dask sets it to 1.
        name: begins with `PLUGIN`.
    """

    root: str
    token: str
    code: str
    slots_per_gpu: int
    threads: int | None
    name: str
    place: Place | None = None
    """Of the worker that has this copy of the plugin."""

    async def setup(self, worker: Worker) -> None:
        """Look where the project is, and offer slots: the worker's threads, on GPUs at most so many each."""
        self.place = self._find(Path.cwd(), worker.state.nthreads)
        await worker.set_resources(**{SLOT: 0 if self.place.trouble else self.place.slots.count})
        for name in PROFILERS:
            if name in worker.periodic_callbacks:
                worker.periodic_callbacks.pop(name).stop()

    async def teardown(self, worker: Worker) -> None:
        """What runs belongs to a sweep that is gone, or to a worker that ends: it may save its state first."""
        if self.place is not None:
            self.place.stopping.set()
            deadline = time.monotonic() + warm.GRACE
            while self.place.slots.free.qsize() < self.place.slots.count and time.monotonic() < deadline:
                await asyncio.sleep(LOOK)

    def _find(self, here: Path, threads: int) -> Place:
        offered = slots.Slots(slots.environments(threads, self.slots_per_gpu, self.threads))
        if (here / PROJECT_FILE).is_file() and not (here / self.token).is_file():
            equal = code_of(here) == self.code
            trouble = "" if equal else f"{here} holds other code than the sweep's folder: git pull there"
            return Place(str(here), is_apart=True, slots=offered, trouble=trouble)
        seen = (Path(self.root) / self.token).is_file()
        trouble = "" if seen else f"{here} is no clone of the project, and {self.root} is not on this machine"
        return Place(self.root, is_apart=False, slots=offered, trouble=trouble)


def carry_out(job: Job, parcel: Parcel, plugin: str) -> Delivery:
    """Run a job on a Dask worker (see `Joining`)."""
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
            return Delivery(run(job, environment, is_to_end, worker=name))
        post = Post(Path(place.folder))
        post.fetch(parcel.inputs)
        outcome = run(job, environment, is_to_end, worker=name, beat=lambda: _tell(worker, job))
        done = outcome.ending is Ending.DONE
        return Delivery(outcome, is_apart=True, made=post.send_made(parcel.outputs) if done else None)
    except RunError as error:
        return Delivery(Outcome(job.step, Ending.FAILED, worker=name, tail=str(error).splitlines()), place.is_apart)
    finally:
        place.slots.free.put(environment)


def _tell(worker: Worker, job: Job) -> None:
    path = Path(job.folder) / pulse.pulse_file(job.name)
    if path.is_file():
        worker.log_event(PULSES, {"name": job.name, "pulse": path.read_text()})


def _stop(plugin: str, dask_worker: Worker) -> None:
    _place(dask_worker, plugin).stopping.set()


@dataclass(frozen=True)
class Report:
    """Of a worker: what the sweep has to know of its `Place`."""

    is_apart: bool
    trouble: str


def _report(plugin: str, dask_worker: Worker) -> Report:
    place = _place(dask_worker, plugin)
    return Report(place.is_apart, place.trouble)


def _place(worker: Worker, plugin: str) -> Place:
    return cast(Place, cast(Joining, worker.plugins[plugin]).place)


def _sweeps(dask_scheduler: Scheduler) -> dict[str, bool]:
    """Names of the plugins of sweeps -> whether the sweep is still there."""
    there = {f"{PLUGIN}{client}" for client in dask_scheduler.clients}
    return {name: name in there for name in dask_scheduler.worker_plugins if name.startswith(PLUGIN)}


def _look_again(dask_scheduler: Scheduler) -> None:
    """Give jobs that no worker could take to those that have slots now: Dask looks when a worker comes, and slots come
    a moment later.
    """
    for state in list(dask_scheduler.workers.values()):
        found = dask_scheduler.bulk_schedule_unrunnable_after_adding_worker(state)
        dask_scheduler.transitions(found, "kdcore-slots")


def _unrunnable(dask_scheduler: Scheduler) -> list[str]:
    return [task.key for task in dask_scheduler.unrunnable]


class Crew:
    """The workers of a sweep: takes jobs, and says how they ended.

    Args:
        client: of the Dask scheduler that has the workers.
        root: the sweep's folder.
        slots_per_gpu: jobs on one GPU at a time.
        threads: see `Joining`.
        beside: jobs that share the cores of this machine with one that runs in the sweep's folder, and itself.

    Raises:
        UserError: another sweep is at work with this scheduler.
    """

    def __init__(self, client: Client, root: Path, *, slots_per_gpu: int, threads: int | None, beside: int) -> None:
        self.client = client
        self.root = root
        self.code = code_of(root)
        self.ended: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.here = ThreadPoolExecutor(max_workers=1, thread_name_prefix="here")
        self.offered: dict[str, float] = {}
        """Slots of each worker."""
        self.places: dict[str, Report] = {}
        self.pending: dict[str, Future] = {}
        self.plugin = f"{PLUGIN}{client.id}"
        self._claim()
        token = f"{FOLDER}/{MARK}{os.getpid()}-{secrets.token_hex(4)}"
        for left in (root / FOLDER).glob(f"{MARK}*"):  # by sweeps that were killed
            left.unlink()
        (root / token).touch()
        self.token = root / token
        client.register_plugin(Joining(str(root), token, self.code, slots_per_gpu, threads, self.plugin))
        client.subscribe_topic(PULSES, self._note)
        self.environment = slots.environments(beside, slots_per_gpu, threads)[0]
        nursery(str(root)).begin(self.environment)

    @property
    def dashboard(self) -> str:
        """Address of Dask's own page; empty without one."""
        return str(self.client.dashboard_link or "")

    def _claim(self) -> None:
        """Have the workers for this sweep alone; what the cells of one that was killed have done is saved first."""
        for plugin, is_there in self.client.run_on_scheduler(_sweeps).items():
            if is_there:
                address = self.client.scheduler.address
                raise UserError(f"{address}: another sweep is at work there; wait for it, or start another scheduler")
            self.client.unregister_worker_plugin(plugin)

    def capacity(self) -> int:
        """Jobs that can run at a time on the workers that are there now.

        Raises:
            RunError: the scheduler is gone.
        """
        workers = self.client.scheduler_info(n_workers=-1).get("workers")
        if workers is None:
            raise RunError("the Dask scheduler is gone; start it and its workers again, and run the same command")
        offered = {address: worker["resources"].get(SLOT, 0) for address, worker in workers.items()}
        if offered != self.offered:
            self.offered = offered
            self.places = self.client.run(_report, self.plugin, on_error="ignore")
            self.client.run_on_scheduler(_look_again)
        return int(sum(offered.values()))

    @property
    def is_apart(self) -> bool:
        """Whether some worker shares no files with the sweep."""
        return any(place.is_apart for place in self.places.values())

    @property
    def troubles(self) -> list[str]:
        """Why workers that are there cannot work."""
        return [f"worker {address}: {place.trouble}" for address, place in self.places.items() if place.trouble]

    def submit(self, job: Job, parcel: Parcel) -> None:
        """Let some worker run a job."""
        key = f"{job.step}-{secrets.token_hex(4)}"
        future = self.client.submit(carry_out, job, parcel, self.plugin, key=key, pure=False, resources={SLOT: 1})
        self.pending[job.step] = future  # or Dask would take it that nobody waits for it
        future.add_done_callback(partial(self._end, job.step))

    def run_here(self, job: Job) -> None:
        """Run a job in the sweep's folder, beside those of the workers."""
        work = self.here.submit(run, job, self.environment, self.stopping.is_set)
        work.add_done_callback(lambda done: self.ended.put(Delivery(done.result())))

    def finished(self, timeout: float) -> list[Delivery]:
        """Jobs that have ended since the last call; waits for one for so many seconds."""
        found = []
        try:
            found.append(self.ended.get(timeout=timeout))
            while True:
                found.append(self.ended.get_nowait())
        except queue.Empty:
            return found

    def stop(self) -> None:
        """Ask all jobs to save their states and end; they are still to be waited for."""
        self.stopping.set()
        _ask_beside(self._stop_all)

    def _stop_all(self) -> None:
        unrunnable = self.client.run_on_scheduler(_unrunnable)
        for future in list(self.pending.values()):
            if future.key in unrunnable:  # no worker will ever say that it has ended
                future.cancel()
        self.client.run(_stop, self.plugin, on_error="ignore")

    def close(self) -> None:
        """Leave the workers alone again."""
        self.here.shutdown()
        self.token.unlink(missing_ok=True)
        _ask_beside(partial(self.client.unregister_worker_plugin, self.plugin)).join(PATIENCE)

    def _end(self, step: str, future: Future) -> None:
        self.pending.pop(step, None)
        try:
            delivery = future.result()
        except (KilledWorker, CancelledError, FutureCancelledError) as error:
            ending = Ending.STOPPED if self.stopping.is_set() else Ending.LOST
            delivery = Delivery(Outcome(step, ending, tail=[f"its worker is gone: {error}"]))
        except Exception as error:
            delivery = Delivery(Outcome(step, Ending.FAILED, tail=[f"{type(error).__name__}: {error}"]))
        self.ended.put(delivery)

    def _note(self, event: tuple[float, dict[str, str]]) -> None:
        """Keep what a cell elsewhere says of itself where those of this folder keep it."""
        _, said = event
        replace_text(self.root / pulse.pulse_file(said["name"]), said["pulse"])


def _ask_beside(call: Callable[[], object]) -> threading.Thread:
    """Ask Dask for something beside the sweep, which must be able to end though Dask does not answer."""

    def ask() -> None:
        with suppress(RuntimeError, OSError, AttributeError, CancelledError, FutureCancelledError):  # it is gone
            call()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread
