"""Connect a sweep to its workers: in this process, at a running Dask scheduler, or from a cluster's queue."""

import asyncio
import logging
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from distributed import Client, LocalCluster, rpc

from kdcore.sweep import cluster_file
from kdcore.sweep.job_queue import JobQueue
from kdcore.system.errors import UserError

ANSWER = 3.0
"""Seconds that a scheduler has to answer."""
LOCAL = {"distributed.scheduler.worker-ttl": None, "distributed.admin.tick.interval": "500ms"}
"""Dask's options for workers in this process: none is ever lost; and measuring its own delays fifty times a second
takes two percent of a core, which the trainings want.
"""


@contextmanager
def here(jobs: int) -> Iterator[Client]:
    """Start a scheduler and one worker in this process, which is enough, for every stage is a process of its own.

    Args:
        jobs: stages at a time.
    """
    address = "http://127.0.0.1:{port}/status"  # the dashboard has no password: nobody else may reach it
    with (
        _own(),
        dask.config.set({"distributed.dashboard.link": address, **LOCAL}),
        LocalCluster(
            n_workers=1, threads_per_worker=jobs, processes=False, memory_limit=None, dashboard_address="127.0.0.1:0"
        ) as local_cluster,
        Client(local_cluster) as client,
    ):
        yield client


@contextmanager
def scheduler(address: str) -> Iterator[Client]:
    """Connect to a running scheduler; workers may come and go.

    Raises:
        UserError: no scheduler answers at that address.
    """
    with _quiet():
        try:
            asyncio.run(asyncio.wait_for(_identity(address), ANSWER))
            client = Client(address)
        except (OSError, ValueError, TypeError, OverflowError) as error:
            reason = str(error) or f"silence for {ANSWER:g} seconds"
            raise UserError(f"--scheduler {address}: no Dask scheduler answers there ({reason})") from error
        with client:
            yield client


async def _identity(address: str) -> None:
    """Ask a scheduler for its identity. A client would wait for ever where nobody answers."""
    async with rpc(address) as asked:
        await asked.identity()


@contextmanager
def cluster(path: Path, say: Callable[[str], None]) -> Iterator[tuple[Client, JobQueue]]:
    """Submit jobs to a cluster's queue; each is a worker as long as it runs. They are cancelled in the end.

    Args:
        path: of a file as `ClusterFile` describes it.
        say: shows a line to a person, or several.

    Raises:
        UserError: the file is wrong.
    """
    content = cluster_file.read(path)
    with (
        _own(),
        cluster_file.make(content, path) as made,
        Client(made) as client,
        JobQueue(made, content.jobs, say).kept() as jobs,
    ):
        yield client, jobs


def check(path: Path, say: Callable[[str], object]) -> None:
    """See that jobs can be submitted as a cluster file says.

    Args:
        path: of the file.
        say: shows a line to a person, on what else decides the jobs.

    Raises:
        UserError: it is wrong, or this machine cannot submit jobs to such a queue.
    """
    content = cluster_file.read(path, say)
    job_class = getattr(cluster_file.jobqueue(), content.cluster).job_cls
    command = shlex.split(job_class.submit_command)[0]
    if shutil.which(command) is None:
        raise UserError(
            f"--cluster {path}: there is no {command} here, with which {content.cluster} submits jobs; start the sweep "
            "on a machine that has it, such as a login node"
        )
    with _own(), cluster_file.make(content, path):  # a scheduler can listen as the options say
        pass


@contextmanager
def _own() -> Iterator[None]:
    """Configure a scheduler of this sweep: a stage whose worker is lost comes back to the sweep, which counts tries."""
    with _quiet(), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's messages on workers that come and go, and on its page's port, which the sweep reports itself, and
    on a missing network.
    """
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't detect a suitable IP address", RuntimeWarning)
            warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use", UserWarning)  # by another sweep
            yield
    finally:
        logger.setLevel(level)
