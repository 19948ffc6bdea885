"""Keep jobs in a cluster's queue: submit them, see which of them are gone, submit them anew, give up, cancel them.

dask-jobqueue writes the job scripts and knows the commands of each queue. Dask's own `adapt` is not used, for it takes
a job for there as soon as it is planned, whether the queue took it or not, and waits for its worker for ever.
"""

import asyncio
import re
import shlex
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_timedelta

from kdcore.sweep.display import duration
from kdcore.sweep.processes import tail
from kdcore.sweep.queue_commands import NUMBERS, QUESTIONS, QueueError, call, environment, logs, states
from kdcore.system.errors import shown

if TYPE_CHECKING:
    from dask_jobqueue.core import JobQueueCluster

TICK = 0.5
"""Seconds between two looks at which workers are connected."""
LOOK = 30.0
"""Seconds between two questions to the queue, as long as some job's worker is not there."""
SETTLED = 15.0
"""Seconds after which a job that the queue has taken must be among those that it lists."""
ABSENT = 2
"""How often in a row the queue must not list a job that is taken for gone; once may be a slip of the queue."""
BRIEF = 30.0
"""Seconds for which a worker must stay to show that its job is well."""
PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds before the next job is submitted, after one was refused or died: the first, and the longest pause."""
MOST = 6
"""How often in a row jobs may be refused, or die without a worker that stays, until the sweep gives up."""
SKEW = 60.0
"""Seconds by which the clock of a file system may be behind."""
CANCELS, CANCEL_PAUSE = 3, 2.0
"""How often a sweep that ends tells the queue to cancel its jobs until it obeys, and the seconds between."""
WHERE = {"-name": "-name", "-remote": "-name", "-pool": "-pool"}
"""Option of condor_submit that says where jobs go -> the same one of HTCondor's other commands."""
LOG_LINES = 12
"""Lines of a job's log that a message holds."""


@dataclass
class Job:
    """A job that the queue has taken."""

    number: str
    """By which the queue knows it."""
    worker: str
    """The name of its Dask worker."""
    submitted: float
    """Monotonic time."""
    came: float = 0.0
    """The monotonic time at which its worker came."""
    seen: float | None = None
    """The monotonic time at which its worker was last connected; None as long as it has not come."""
    absent: int = 0
    """How often in a row the queue did not list it."""
    is_well: bool = False
    """Whether its worker has stayed for `BRIEF` seconds."""


class JobQueue:
    """Keeps so many jobs in a cluster's queue, each of which is a worker as long as it runs.

    A job whose worker has left is cancelled, and another one is submitted: at the walltime, for example. One that dies,
    for it is gone from the queue before its worker came, or its worker left after a moment, is replaced after a pause,
    and so is one that the queue refused; the pauses grow. After `MOST` in a row `trouble` says why there is no use in
    going on.

    Args:
        cluster: has a scheduler, and describes the jobs.
        count: how many jobs.
        say: shows a line to a person, or several.
    """

    def __init__(self, cluster: "JobQueueCluster", count: int, say: Callable[[str], None]) -> None:
        self.cluster, self.count, self.say = cluster, count, say
        self.kind = str(cluster.job_cls.default_config_name())
        self.jobs: list[Job] = []
        self.parted: list[Job] = []
        """Jobs that were to be cancelled, of which the queue complained: they are gone, or still there."""
        self.trouble = ""
        """Why no worker can be expected any more; empty as long as one can."""
        self.refused = self.died = 0
        """Submissions that the queue refused in a row, and looks in a row that found jobs dead."""
        self.unconfirmed: list[str] = []
        """Names of the workers whose jobs the queue did not take, as it seemed."""
        self.submitted = 0
        self.pause_until = self.asked = 0.0
        """Monotonic times."""
        self.states: dict[str, str] | str = {}
        """Job -> its state, when the queue was last asked; or why that is not known."""
        example = self._job("example")
        self.cancel_command, self.logs = shlex.split(example.cancel_command), Path(example.log_directory or ".")
        words = pairwise(shlex.split(example.submit_command))
        self.where = [word for option, place in words if option in WHERE for word in (WHERE[option], place)]
        """Arguments that say to which of HTCondor's queues jobs go."""
        if not {*WHERE.values()} & {*self.cancel_command}:
            self.cancel_command += self.where
        self.processes = int(example.worker_processes)
        """Workers of each job."""
        self.stay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
        """Seconds for which a worker may be away."""
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="job queue", daemon=True)

    @contextmanager
    def kept(self) -> Iterator["JobQueue"]:
        """Keep the jobs inside the block, in a thread of its own, for the queue may take minutes to answer."""
        self.thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            try:
                self.thread.join()
            except KeyboardInterrupt:
                self.abandon()
                raise

    def _keep(self) -> None:
        try:
            while not self.closing.wait(TICK) and not self.trouble:
                self.tick(time.monotonic())
        except Exception:  # the sweep would wait for workers for ever
            self.trouble = f"the jobs in the queue cannot be looked after any more:\n{traceback.format_exc()}"
        self.closing.wait()
        jobs = [*self.jobs, *self._listed(self.parted)]
        for tries_left in reversed(range(CANCELS)):
            complaint = self._cancel(jobs)
            jobs = self._listed(jobs) if complaint else []  # it complains of jobs that have just ended, too
            if not jobs:
                return
            if tries_left:
                time.sleep(CANCEL_PAUSE)
        self.say(f"jobs {_numbers(jobs)} may still be in the queue: {complaint}")

    def abandon(self) -> None:
        """Have all jobs cancelled and do not wait for it, for this process ends now."""
        with suppress(OSError):
            if jobs := [*self.jobs, *self.parted]:
                subprocess.Popen(  # noqa: S603
                    self._cancelling(jobs),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=environment(),
                )

    def tick(self, now: float) -> None:
        """Look after the jobs once.

        Args:
            now: the monotonic time.
        """
        self._meet(now)
        if self.missing and now >= self.asked + LOOK:
            self.asked = now
            self._ask()
        while len(self.jobs) < self.count and time.monotonic() >= self.pause_until and not self.is_ending:
            self._submit()

    @property
    def is_ending(self) -> bool:
        """Whether nothing is submitted any more."""
        return self.closing.is_set() or bool(self.trouble)

    @property
    def workers(self) -> int:
        """How many workers there are once all jobs run that the queue takes and that do not die again and again."""
        count = len(self.jobs) if max(self.refused, self.died) >= MOST else self.count
        return count * self.processes

    @property
    def missing(self) -> list[Job]:
        """Jobs whose worker has not come yet."""
        return [job for job in self.jobs if job.seen is None]

    def _connected(self) -> list[str]:
        # Dask's own thread changes this SortedDict, whose `values` would look up workers that have just left
        return [str(worker.name) for worker in list(dict.values(self.cluster.scheduler.workers))]

    def _meet(self, now: float) -> None:
        """Note whose workers are connected, and part with jobs whose workers have left."""
        brief, names = [], {re.sub(r"^(worker-\d+)-\d+$", r"\1", name) for name in self._connected()}
        for worker in [worker for worker in self.unconfirmed if worker in names]:
            self.unconfirmed.remove(worker)
            told = "though the queue did not confirm its job: one more than wanted, which ends with the sweep"
            self.say(f"{worker} is there, {told}")
        for job in list(self.jobs):
            if job.worker in names:
                job.came = now if job.seen is None else job.came
                job.seen = now
                if not job.is_well and now - job.came >= BRIEF:
                    job.is_well, self.died = True, 0
            elif job.seen is not None and now - job.seen > self.stay:
                if job.is_well:
                    self._part([job])
                else:
                    brief.append(job)
        if brief:
            self._bury(brief, f"left within {BRIEF:g} seconds")

    # What the queue says

    def _ask(self) -> None:
        """Ask the queue which jobs it has, and part with those that are gone before their workers came."""
        settled = [job for job in self.missing if time.monotonic() - job.submitted >= SETTLED]
        self.states = self._answer(self.jobs)
        if isinstance(self.states, str):
            return
        for job in settled:
            job.absent = 0 if job.number in self.states else job.absent + 1
        self._meet(time.monotonic())  # a worker may have come while the queue was asked
        gone = [job for job in self.missing if job.absent >= ABSENT]
        if gone:
            self._bury(gone, "did not come, and the queue does not have it any more")

    def _answer(self, jobs: Sequence[Job]) -> dict[str, str] | str:
        """Ask the queue for the states of jobs; returns why they are not known where it cannot say."""
        question = QUESTIONS.get(self.kind)
        if question is None:
            return f"{self.kind} is not asked"
        try:
            said = self._call([*shlex.split(question.command), *self.where])
        except QueueError as error:
            if not question.nothing or question.nothing not in str(error):
                return str(error)
            said = ""
        return states(said, [job.number for job in jobs], question)

    def _listed(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out jobs that the queue would list if they were there, as far as it says."""
        known = self._answer(jobs) if jobs else {}
        latest = time.monotonic() - SETTLED
        return [job for job in jobs if isinstance(known, str) or job.number in known or job.submitted > latest]

    def _part(self, gone: list[Job]) -> None:
        """Cancel jobs that may have ended already, and forget them."""
        self.jobs = [job for job in self.jobs if job not in gone]
        if self._cancel(gone) and self.kind in QUESTIONS:
            self.parted += gone

    def _bury(self, gone: list[Job], how: str) -> None:
        """Part with jobs that died, say how, and wait before the next ones are submitted, or give up."""
        self._part(gone)
        self.died += 1
        whose = f"job {_numbers(gone)}: its worker" if len(gone) == 1 else f"jobs {_numbers(gone)}: the worker of each"
        said = f"{whose} {how}{self._log(gone)}"
        if self.died >= MOST and not self._connected():
            self.trouble = (
                f"{said}\nThat was so {self.died} times in a row: mend what ends them, job_script_prologue perhaps, "
                "and run it again"
            )
            return
        self.say(f"{said}\nsubmitting anew in {duration(self._pause(self.died))}")

    def _pause(self, times: int) -> float:
        pause = min(PAUSE * 2.0 ** min(times - 1, 60), LONGEST_PAUSE)  # in weeks, the power would be too large
        self.pause_until = time.monotonic() + pause
        return pause

    def _log(self, gone: list[Job]) -> str:
        """Return the end of the latest log of some jobs, if one can be found."""
        since = time.time() - (time.monotonic() - gone[0].submitted) - SKEW
        try:
            found = [path for job in gone for path in logs(job.number, self.logs, since)]
            if not found:
                return "; no log was found (option log_directory says where jobs write theirs)"
            latest = max(found, key=lambda path: path.stat().st_mtime)
            return "\n".join([f"; {latest} ends with", *(f"    {line}" for line in tail(latest, LOG_LINES))])
        except OSError as error:
            return f"; its log cannot be read ({error})"

    def describe(self) -> str:
        """Say in a line what has become of the jobs."""
        jobs, known = list(self.jobs), self.states
        if not jobs:
            return "no job is in the queue"
        age = duration(time.monotonic() - min(job.submitted for job in jobs))
        count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
        if isinstance(known, str):
            return f"{count} submitted, the first {age} ago; state in the queue unknown: {known}"
        unlisted = {job.number: "not listed" if job.absent else "just submitted" for job in jobs}
        by_state = Counter("at work" if job.seen else {**unlisted, **known}[job.number] for job in jobs)
        listed = ", ".join(f"{number} {state}" for state, number in by_state.items())
        return f"{count} submitted, the first {age} ago: {listed}"

    # What the queue is told

    def _job(self, name: str) -> Any:
        cluster = self.cluster
        address = getattr(cluster.scheduler, "contact_address", None) or cluster.scheduler.address
        return cluster.job_cls(address, name=name, **cluster._job_kwargs)

    def _submit(self) -> None:
        """Submit one job."""
        name, number_in, complaint = f"worker-{self.submitted}", NUMBERS[self.kind], ""
        self.submitted += 1

        async def call_queue(command: list[str], *, shell: bool = False) -> str:
            if shell:  # dask-jobqueue would throw away what bsub says
                return self._call(["sh", "-c", command[0].replace(" 2> /dev/null", "")])
            return self._call(command)

        try:
            job = self._job(name)
            job._call = call_queue
            with job.job_file() as script:
                said = asyncio.run(job._submit_job(script))
        except (QueueError, OSError, ValueError) as error:
            said = error.output if isinstance(error, QueueError) else ""
            complaint = str(error)
            if not re.search(number_in, said):  # else it failed after it had submitted the job
                self.unconfirmed.append(name)
                self._refuse(complaint)
                return
        try:
            told = re.search(number_in, said)
            number = told[1] if told and told.re.groups else str(job._job_id_from_submit_output(said))
        except ValueError:  # to submit another one would leave one more that nobody cancels
            self.trouble = (
                f"the queue took a job and did not say its number, so it may still be there: {shown(said)}\n"
                "See to it that the command which submits jobs prints it, and run it again"
            )
            return
        self.refused = 0
        self.jobs.append(Job(number, name, time.monotonic()))
        if complaint:
            self.say(f"the queue took job {number}, and complained: {complaint}")

    def _refuse(self, words: str) -> None:
        self.refused += 1
        if self.closing.is_set():
            return
        if self.refused >= MOST and not self.jobs:
            self.trouble = (
                f"the queue took no job, {self.refused} times in a row: {words}\n"
                "Mend the cluster file, or ask those who run the cluster, and run it again"
            )
            return
        pause = self._pause(self.refused)
        if self.refused <= MOST:
            self.say(f"the queue did not take a job: {words}\ntrying again in {duration(pause)}")

    def _call(self, command: Sequence[str]) -> str:
        return call(command, self.closing)

    def _cancel(self, jobs: Sequence[Job]) -> str:
        """Cancel jobs; returns what the queue complains of."""
        try:
            if jobs:
                self._call(self._cancelling(jobs))
        except QueueError as error:
            return str(error)
        return ""

    def _cancelling(self, jobs: Sequence[Job]) -> list[str]:
        return [*self.cancel_command, *(job.number for job in jobs)]


def _numbers(jobs: Sequence[Job]) -> str:
    return ", ".join(job.number for job in jobs)
