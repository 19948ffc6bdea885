"""The workers of a sweep: what it hands out to them, and what it learns of them."""

import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from distributed import Client, Future, LocalCluster, Scheduler
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from kdcore.sweep import FOLDER
from kdcore.sweep.dask_workers import PLUGIN, PULSES, SLOT, Joining, Report, carry_out, report_place, stop_stages
from kdcore.sweep.gpus import DEVICE
from kdcore.sweep.job_queue import JobQueue
from kdcore.sweep.processes import (
    Ending,
    Environment,
    Job,
    Outcome,
    prepare,
    run,
)
from kdcore.sweep.transfer import Delivery, Parcel, code_of
from kdcore.system.errors import RunError, UserError
from kdcore.system.files import replace_text
from kdcore.training import pulse

MARK = "token-"
"""Prefix of the name of the file by which workers recognise a sweep's folder."""
PATIENCE = 10.0
"""Seconds that a sweep which ends waits for an answer of Dask."""
PAUSED = "paused"
"""The status of a worker that begins nothing, in the words of Dask."""
JOINING = 60.0
"""Seconds that a worker has to join a sweep after it has connected."""


def _sweeps(dask_scheduler: Scheduler) -> dict[str, bool]:
    """Map the plugins of all sweeps, by name, to whether their sweep is still connected."""
    connected = {f"{PLUGIN}{client}" for client in dask_scheduler.clients}
    return {name: name in connected for name in dask_scheduler.worker_plugins if name.startswith(PLUGIN)}


def _look_again(dask_scheduler: Scheduler) -> None:
    """Give jobs that no worker could take to workers that have slots now. Dask itself looks only when a worker comes,
    and its slots come a moment later.
    """
    for state in list(dask_scheduler.workers.values()):
        runnable = dask_scheduler.bulk_schedule_unrunnable_after_adding_worker(state)
        dask_scheduler.transitions(runnable, "kdcore-slots")


def _unrunnable(dask_scheduler: Scheduler) -> list[str]:
    return [task.key for task in dask_scheduler.unrunnable]


def slots_of(client: Client) -> tuple[dict[str, float | None], frozenset[str]] | None:
    """Ask a scheduler which workers are connected; None while it does not answer.

    `Client.scheduler_info` now and then says that there are none: what it is about to return is overwritten by what the
    client asks for every few seconds, which lacks the workers.

    Returns:
        Address of each worker -> its slots; None before it has joined the sweep. Then the workers that Dask has paused,
        for they have little memory left: they begin nothing, so their slots are none.

    Raises:
        RunError: the scheduler is gone.
    """
    if client.scheduler is None or client.status in ("closing", "closed"):
        raise RunError("the Dask scheduler is gone; start it and its workers again, and run the same command")
    try:
        workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except OSError:
        return None
    paused = frozenset(address for address, worker in workers.items() if worker.get("status") == PAUSED)
    offered = {address: worker["resources"].get(SLOT) for address, worker in workers.items()}
    return {address: 0.0 if address in paused and slots else slots for address, slots in offered.items()}, paused


class Crew:
    """The workers of a sweep: takes stages to run, and says how they ended.

    Args:
        client: of the Dask scheduler that has the workers.
        root: the sweep's folder.
        slots_per_gpu: stages on one GPU at a time.
        threads: per stage; None shares each machine's cores among its stages.
        environment: of stages that run in the sweep's folder.
        job_queue: where the workers are jobs that the sweep submits.

    Raises:
        UserError: another sweep is at work with this scheduler.
    """

    paused: frozenset[str] = frozenset()
    """Addresses of the workers that Dask has paused."""

    def __init__(
        self,
        client: Client,
        root: Path,
        *,
        slots_per_gpu: int,
        threads: int | None,
        environment: Environment,
        job_queue: JobQueue | None = None,
    ) -> None:
        self.client, self.root, self.job_queue = client, root, job_queue
        self.code = code_of(root)
        self.ended: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.here = ThreadPoolExecutor(max_workers=1, thread_name_prefix="here")
        self.offered: dict[str, float | None] = {}
        """Address of each worker -> its slots; None before it has joined the sweep."""
        self.since: dict[str, float] = {}
        """Address of each worker -> the monotonic time when it was first seen."""
        self.places: dict[str, Report] = {}
        self.pending: dict[str, Future] = {}
        self.plugin = f"{PLUGIN}{client.id}"
        self._claim()
        token = f"{FOLDER}/{MARK}{os.getpid()}-{secrets.token_hex(4)}"
        for stale in (root / FOLDER).glob(f"{MARK}*"):  # left by sweeps that were killed
            stale.unlink()
        (root / token).touch()
        self.token = root / token
        self.environment = environment
        self.method = prepare(environment, self.code)
        client.register_plugin(Joining(str(root), token, self.code, slots_per_gpu, threads, self.plugin))
        client.subscribe_topic(PULSES, self._keep_pulse)

    @property
    def dashboard(self) -> str:
        """Address of Dask's dashboard; empty where there is none."""
        return str(self.client.dashboard_link or "")

    def _claim(self) -> None:
        """Take the workers for this sweep alone; cells of a sweep that was killed save their states first."""
        for plugin, is_there in self.client.run_on_scheduler(_sweeps).items():
            if is_there:
                address = self.client.scheduler.address
                raise UserError(f"{address}: another sweep is at work there; wait for it, or start another scheduler")
            self.client.unregister_worker_plugin(plugin)

    def capacity(self) -> int:
        """Count the stages that can run at a time on the workers that are connected now.

        Raises:
            RunError: the scheduler is gone.
        """
        answer = slots_of(self.client)
        if answer is not None and answer != (self.offered, self.paused):
            (offered, self.paused), now = answer, time.monotonic()
            self.offered = offered
            self.since = {address: self.since.get(address, now) for address in offered}
            joined = [address for address, slots in offered.items() if slots is not None]
            self.places = (
                self.client.run(report_place, self.plugin, workers=joined, on_error="ignore") if joined else {}
            )
            self.client.run_on_scheduler(_look_again)
        return int(sum(slots or 0 for slots in self.offered.values()))

    @property
    def is_apart(self) -> bool:
        """Whether some worker shares no files with the sweep."""
        return any(place.is_apart for place in self.places.values())

    @property
    def troubles(self) -> list[str]:
        """Why connected workers cannot run stages, a line each."""
        reasons = {address: place.trouble for address, place in self.places.items() if place.trouble}
        for address, slots in self.offered.items():
            if slots is None and time.monotonic() - self.since[address] > JOINING:
                reasons[address] = "did not join the sweep; see its log, and start it in the project's environment"
        for address in self.paused:
            reasons[address] = "is paused by Dask, for it has used most of its memory; start it with more"
        return [f"worker {address}: {reason}" for address, reason in reasons.items()]

    @property
    def complaints(self) -> list[str]:
        """What a person should know though stages run: troubles of workers, and of the queue, to which nothing more is
        submitted then.
        """
        queue_trouble = self.job_queue.trouble if self.job_queue is not None else ""
        ended = [f"no job is submitted any more: {queue_trouble}"] if queue_trouble else []
        remarks = dict.fromkeys(place.remark for place in self.places.values() if place.remark)
        blind = [] if isinstance(self.client.cluster, LocalCluster) else self.blind
        return [*self.troubles, *ended, *remarks, *blind]

    @property
    def blind(self) -> list[str]:
        """Which workers see no GPU, a line each, or one line where none sees any."""
        addresses = [address for address, place in self.places.items() if place.is_blind]
        whose = [f"worker {address} sees" for address in addresses]
        if whose and len(whose) == len(self.places):
            whose = ["the workers see"]
        return [
            f"{who} no GPU, and cells compute on the CPU there; {DEVICE}=cpu says that it is meant" for who in whose
        ]

    def reasons(self) -> list[str]:
        """Say why there may be no worker, and what to do."""
        where = f"start them with 'python -m dask worker {self.client.scheduler.address}'"
        return [*self.troubles, where if self.job_queue is None else self.job_queue.describe()]

    @property
    def trouble(self) -> str:
        """Why no worker can be expected any more; empty as long as one can."""
        if self.job_queue is None or any(self.offered.values()):
            return ""
        passing = len(self.paused) + sum(place.is_passing for place in self.places.values())
        lasting = len(self.troubles) - passing
        if 0 < self.job_queue.workers <= lasting:
            return "\n".join(["no job can run stages; mend that, and run it again", *self.troubles])
        return self.job_queue.trouble

    def submit(self, job: Job, parcel: Parcel) -> None:
        """Have some worker run a stage."""
        key = f"{job.step}-{secrets.token_hex(4)}"
        future = self.client.submit(carry_out, job, parcel, self.plugin, key=key, pure=False, resources={SLOT: 1})
        self.pending[job.step] = future  # Dask drops a job whose future nobody holds
        future.add_done_callback(partial(self._end, job.step))

    def run_here(self, job: Job) -> None:
        """Run a stage in the sweep's folder, beside those of the workers. Stage plan needs nothing of what the fork
        server still imports while it runs, so it has an interpreter of its own.
        """
        method = "spawn" if job.step == "plan" else self.method
        work = self.here.submit(lambda: Delivery(run(job, self.environment, self.stopping.is_set, method=method)))
        work.add_done_callback(partial(self._end, job.step))

    def finished(self, timeout: float) -> list[Delivery]:
        """Return the stages that have ended since the last call; wait so many seconds for the first."""
        deliveries = []
        try:
            deliveries.append(self.ended.get(timeout=timeout))
            while True:
                deliveries.append(self.ended.get_nowait())
        except queue.Empty:
            return deliveries

    def stop(self) -> None:
        """Ask all stages to save their states and end; `finished` still reports each."""
        self.stopping.set()
        _ask_beside(self._stop_all)

    def _stop_all(self) -> None:
        unrunnable = self.client.run_on_scheduler(_unrunnable)
        for future in list(self.pending.values()):
            if future.key in unrunnable:  # no worker has it that could say how it ended
                future.cancel()
        self.client.run(stop_stages, self.plugin, on_error="ignore")

    def abandon(self) -> None:
        """Leave nothing in a cluster's queue, without waiting, for this process ends now."""
        if self.job_queue is not None:
            self.job_queue.abandon()

    def close(self) -> None:
        """Release the workers."""
        self.here.shutdown()
        self.token.unlink(missing_ok=True)
        _ask_beside(partial(self.client.unregister_worker_plugin, self.plugin)).join(PATIENCE)

    def _end(self, step: str, future: "Future | futures.Future[Delivery]") -> None:
        self.pending.pop(step, None)
        try:
            delivery = future.result()
        except (KilledWorker, CancelledError, FutureCancelledError) as error:
            ending = Ending.STOPPED if self.stopping.is_set() else Ending.LOST
            delivery = Delivery(Outcome(step, ending, tail=[f"its worker is gone: {error}"]))
        except Exception as error:
            delivery = Delivery(Outcome(step, Ending.FAILED, tail=[f"{type(error).__name__}: {error}"]))
        self.ended.put(delivery)

    def _keep_pulse(self, event: tuple[float, dict[str, str]]) -> None:
        """Write the pulse of a cell that runs elsewhere to the file that cells in this folder write themselves."""
        _, message = event
        replace_text(self.root / pulse.pulse_file(message["name"]), message["pulse"])


def _ask_beside(call: Callable[[], object]) -> threading.Thread:
    """Call Dask in a thread of its own, for the sweep must be able to end though Dask does not answer."""

    def ask() -> None:
        with suppress(RuntimeError, OSError, AttributeError, CancelledError, FutureCancelledError):  # it is gone
            call()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread
