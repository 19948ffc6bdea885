"""Connect a sweep to its workers: in this process, at a running Dask scheduler, or from a cluster's queue."""

import asyncio
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster, rpc

from kdcore.matrix.params import explained
from kdcore.matrix.section import Count, Section
from kdcore.system import yamlfile
from kdcore.system.errors import UserError

if TYPE_CHECKING:
    from dask_jobqueue.core import JobQueueCluster


ANSWER = 3.0
"""Seconds that a scheduler has to answer."""


@cache
def jobqueue() -> ModuleType:
    """Import dask_jobqueue, and undo that it changes what Ctrl-C does."""
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def classes() -> list[str]:
    """Name the classes of dask_jobqueue that submit jobs to a queue."""
    return sorted(name for name in dir(jobqueue()) if name.endswith("Cluster") and name != "JobQueueCluster")


class ClusterFile(Section):
    """The content of the file that --cluster names: jobs for dask-jobqueue to submit, each of which is a worker."""

    cluster: str
    """The name of a class, see `classes`."""
    jobs: Count
    """How many jobs are submitted."""
    options: dict[str, Any]
    """Arguments of that class: queue, cores, memory, walltime, job_extra_directives, ..."""


@contextmanager
def here(jobs: int) -> Iterator[Client]:
    """Start a scheduler and one worker in this process, which is enough, for every stage is a process of its own.

    Args:
        jobs: stages at a time.
    """
    address = "http://127.0.0.1:{port}/status"  # the dashboard has no password: nobody else may reach it
    with (
        _own(),
        dask.config.set({"distributed.dashboard.link": address}),
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
def cluster(path: Path) -> Iterator[Client]:
    """Submit jobs to a cluster's queue; each is a worker as long as it runs.

    Args:
        path: of a file as `ClusterFile` describes it.

    Raises:
        UserError: the file is wrong.
    """
    content = read(path)
    with _own(), make(content, path) as submitted, Client(submitted) as client:
        submitted.adapt(minimum_jobs=content.jobs, maximum_jobs=content.jobs)  # a job that ends is submitted again
        yield client


def read(path: Path) -> ClusterFile:
    """Read and validate a cluster file.

    Raises:
        UserError: it is wrong; the message lists every problem.
    """
    given = yamlfile.read(path, bounded=True)
    with explained(str(path)):
        content = ClusterFile.model_validate(given)
    if content.cluster not in classes():
        raise UserError(
            f"{path}: cluster: {content.cluster!r} is no class of dask_jobqueue. Allowed: {', '.join(classes())}"
        )
    return content


def make(content: ClusterFile, path: Path) -> "JobQueueCluster":
    """Make the cluster that a file describes, without jobs yet.

    Raises:
        UserError: its class does not take these options.
    """
    try:
        return getattr(jobqueue(), content.cluster)(**content.options)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: options: {content.cluster} does not take them: {error}") from error


@contextmanager
def _own() -> Iterator[None]:
    """Configure a scheduler of this sweep: a stage whose worker is lost comes back to the sweep, which counts tries."""
    with _quiet(), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's messages on workers that come and go, which the sweep reports itself, and on a missing network."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't detect a suitable IP address", RuntimeWarning)
            yield
    finally:
        logger.setLevel(level)
