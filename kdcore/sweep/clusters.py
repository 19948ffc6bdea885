"""Where a sweep's workers come from: this process, a running Dask scheduler, or a cluster's queue."""

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
    """dask_jobqueue, which takes Ctrl-C away from whoever imports it."""
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def classes() -> list[str]:
    """Names of those that submit jobs to a queue."""
    return sorted(name for name in dir(jobqueue()) if name.endswith("Cluster") and name != "JobQueueCluster")


class ClusterFile(Section):
    """What --cluster names: jobs that dask-jobqueue submits, each of which is a worker."""

    cluster: str
    """One of `classes`."""
    jobs: Count
    """How many are submitted."""
    options: dict[str, Any]
    """Of that class: queue, cores, memory, walltime, job_extra_directives, ..."""


@contextmanager
def here(jobs: int) -> Iterator[Client]:
    """A scheduler and its only worker, in this process: jobs are processes of their own already.

    Args:
        jobs: at a time.
    """
    address = "http://127.0.0.1:{port}/status"  # where it listens, for its page has no password
    with (
        _own(),
        dask.config.set({"distributed.dashboard.link": address}),
        LocalCluster(
            n_workers=1, threads_per_worker=jobs, processes=False, memory_limit=None, dashboard_address="127.0.0.1:0"
        ) as made,
        Client(made) as client,
    ):
        yield client


@contextmanager
def scheduler(address: str) -> Iterator[Client]:
    """A running scheduler, and whatever workers it has or gets.

    Raises:
        UserError: there is none.
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
    """Ask a scheduler who it is; a client would wait for ever for one that is silent."""
    async with rpc(address) as asked:
        await asked.identity()


@contextmanager
def cluster(path: Path) -> Iterator[Client]:
    """The workers that a cluster's queue gives.

    Args:
        path: of the file, see `ClusterFile`.

    Raises:
        UserError: the file is wrong.
    """
    content = read(path)
    with _own(), make(content, path) as made, Client(made) as client:
        made.adapt(minimum_jobs=content.jobs, maximum_jobs=content.jobs)  # a job that ends is submitted again
        yield client


def read(path: Path) -> ClusterFile:
    """A cluster file, validated.

    Raises:
        UserError: it is wrong; lists every problem.
    """
    content = yamlfile.read(path, bounded=True)
    with explained(str(path)):
        found = ClusterFile.model_validate(content)
    if found.cluster not in classes():
        raise UserError(
            f"{path}: cluster: {found.cluster!r} is no class of dask_jobqueue. Allowed: {', '.join(classes())}"
        )
    return found


def make(content: ClusterFile, path: Path) -> "JobQueueCluster":
    """The cluster that a file describes, without jobs.

    Raises:
        UserError: its class does not take these options.
    """
    try:
        return getattr(jobqueue(), content.cluster)(**content.options)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: options: {content.cluster} does not take them: {error}") from error


@contextmanager
def _own() -> Iterator[None]:
    """For a scheduler of ours: a job whose worker is gone comes back to us, who know how often it may be tried."""
    with _quiet(), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's remarks on workers that come and go, which are the sweep's to make, and on a missing network."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't detect a suitable IP address", RuntimeWarning)
            yield
    finally:
        logger.setLevel(level)
