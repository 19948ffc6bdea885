"""The command `python -m stages.sweep`: its options, the sweep or dry run that they ask for, and its exit code."""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kdcore.matrix import params, replaced
from kdcore.sweep import display, gpus, journal, mend, processes
from kdcore.sweep.display import Screen
from kdcore.sweep.dvc_pipeline import Pipeline, override
from kdcore.sweep.engine import Sweep, Tries
from kdcore.sweep.schedule import GOOD, Estimates, Order, State
from kdcore.system.errors import UserError
from kdcore.training import loggers, timings

if TYPE_CHECKING:
    from kdcore.sweep.crew import Crew

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Options:
    """Options of the command line.

    Raises:
        UserError: an option is out of range.
    """

    targets: list[str]
    glob: bool
    changes: list[str]
    """Changes of params.yaml, each key=value, as for `dvc exp run -S`."""
    dry_run: bool
    failed: bool
    """Whether to run only the stages that failed or were blocked in the last sweep, and what they need."""
    jobs: int | None
    slots_per_gpu: int
    scheduler: str | None
    cluster: Path | None
    retries: int
    timeout: float
    """Minutes without a sign of life after which a stage is ended; 0 waits for ever."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        at_least = {"jobs": 1, "slots_per_gpu": 1, "retries": 0, "timeout": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < inf:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
        if self.failed and self.targets:
            raise UserError(f"--failed {' '.join(self.targets)}: --failed names its own targets; leave one of them out")

    @property
    def is_local(self) -> bool:
        """Whether this machine is the only worker."""
        return self.cluster is None and self.scheduler is None

    @property
    def tries(self) -> Tries:
        """How often a stage is tried, and how long it may be silent."""
        return Tries(self.retries, 60 * self.timeout or None)


TARGETS = "stages, as for 'dvc repro', with what they need (default: all)"
CHANGES = "change params.yaml, as for 'dvc exp run'"
SCHEDULER = "a running Dask scheduler, tcp://host:port"
TIMEOUT = "minutes without a sign of life after which a training is ended; 0 waits for ever (default: 60)"


def parse(arguments: Sequence[str], description: str | None) -> Options:
    """Read the options of `python -m stages.sweep`; exits with code 2 and a usage where they are wrong."""
    parser = argparse.ArgumentParser("python -m stages.sweep", description=description)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=TARGETS)
    parser.add_argument("--glob", action="store_true", help="targets are patterns: 'train@resnet20-*'")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=CHANGES)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done, and why")
    parser.add_argument("--failed", action="store_true", help="only what failed in the last sweep")
    add_workers(parser)
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="for lost workers and memory (default: 2)")
    parser.add_argument("--timeout", type=float, default=60, metavar="MINUTES", help=TIMEOUT)
    return Options(**vars(parser.parse_args(arguments)))


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which workers there are."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-j", "--jobs", type=int, metavar="N", help="at a time (default: by GPUs, or cores and memory)")
    where.add_argument("--scheduler", metavar="ADDRESS", help=SCHEDULER)
    where.add_argument("--cluster", type=Path, metavar="FILE", help="a cluster's queue, see docs/cluster.md")
    parser.add_argument("--slots-per-gpu", type=int, default=1, metavar="N", help="jobs on one GPU (default: 1)")


def sweep(options: Options) -> int:
    """Bring stale stages up to date in parallel.

    Returns:
        The exit code: 0 if all stages are done, 1 if one failed, 128 plus the signal's number if it was stopped.

    Raises:
        UserError: the command line or the project is wrong, or another sweep is at work; nothing was done.
    """
    processes.threads_wanted()
    processes.refuse_together()
    loggers.chosen()
    if options.is_local:
        gpus.gpus()
    gpus.device_wanted()
    if options.dry_run:
        return show_forecast(options)
    with journal.opened() as diary, Screen(diary) as screen, ExitStack() as stack:
        hire = hiring(options, stack, screen.say)
        for line in mend.mend(Path.cwd(), is_idle=True):
            screen.say(line)
        if options.changes:
            with Pipeline(Path.cwd()).held():  # first see that no `dvc repro` is at work
                change(PARAMS, options.changes)
        matrix = params.load(PARAMS)
        replaced.check(matrix, PARAMS)
        pipeline = Pipeline(Path.cwd(), failed() if options.failed else options.targets, glob=options.glob)
        pipeline.recorded_before = diary.recorded_before
        order = Order(matrix, Estimates(timings.load()), pipeline.steps)
        screen.seconds = order.seconds
        with pipeline.held(), stack:  # what the workers do ends before DVC is free for others
            current = Sweep(
                pipeline,
                order,
                hire,
                tries=options.tries,
                journal=diary,
                screen=screen,
            )
            current.run()
        screen.say(summary(current))
        code = int(current.schedule.count(*GOOD) < len(current.schedule.steps))
        if options.changes and code:
            screen.say(
                f"{PARAMS} still holds what -S changed; 'git checkout {PARAMS}' takes that back, and other edits"
            )
    return code if current.stopped is None else 128 + current.stopped


def show_forecast(options: Options) -> int:
    """Print what a sweep would do; nothing is changed but what `mend` repairs.

    Returns:
        The exit code, 0.

    Raises:
        UserError: the command line or the project is wrong.
    """
    from kdcore.sweep import forecast  # makes all cards, whose imports take half a second

    for line in mend.mend(Path.cwd(), is_idle=False):
        display.console().print(line, markup=False, soft_wrap=True)
    targets = failed() if options.failed else options.targets
    with TemporaryDirectory() as aside:
        changed = _changed(PARAMS, options.changes, Path(aside)) if options.changes else None
        matrix = params.load(changed or PARAMS)
        if changed is None:
            replaced.check(matrix, PARAMS)
        pipeline = Pipeline(Path.cwd(), targets, glob=options.glob, params=changed)
        jobs, console = _jobs(options), display.console()
        forecast.make(pipeline, matrix, Estimates(timings.load()), jobs=jobs, replaced=changed).show(console)
    if options.cluster is not None:
        from kdcore.sweep import cluster_file

        content = cluster_file.read(options.cluster, partial(console.print, markup=False, soft_wrap=True))
        what = f"\n{options.cluster}: jobs: {content.jobs}, each with this script:\n"
        console.print(what, cluster_file.script(content, options.cluster), markup=False, soft_wrap=True)
    return 0


def _changed(path: Path, changes: list[str], folder: Path) -> Path:
    """Make a changed copy of a params file in a folder."""
    copy = folder / path.name
    change(path, changes, copy)
    return copy


def _jobs(options: Options) -> int:
    """Say how many stages will run at a time: 1 for a scheduler, whose workers are not known before it is asked, and
    as many as one GPU has slots for each job of a cluster, whose GPUs are not known before it runs.
    """
    if options.cluster is not None:
        from kdcore.sweep import cluster_file

        content = cluster_file.read(options.cluster)
        return content.jobs * min(options.slots_per_gpu, content.options.get("cores", options.slots_per_gpu))
    return 1 if options.scheduler else options.jobs or processes.default_jobs(options.slots_per_gpu)


def change(path: Path, changes: list[str], to: Path | None = None) -> None:
    """Change a params file as `dvc exp run -S` does, if the result is valid.

    Args:
        path: of the file.
        changes: each key=value.
        to: where to write the result; None replaces the file.

    Raises:
        UserError: there is no such file, a change is malformed, or makes the file wrong.
    """
    aside = (to or path).with_name(f".{path.name}.unfinished.yaml")
    try:
        aside.write_bytes(path.read_bytes())
        override(aside, changes)
        params.load(aside)
        aside.replace(to or path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); start it in the project's folder") from error
    except UserError as error:
        raise UserError(str(error).replace(str(aside), f"{path} with -S {' -S '.join(changes)}")) from error
    finally:
        aside.unlink(missing_ok=True)


def failed() -> list[str]:
    """List the stages that failed or were blocked in the last sweep, and where that tried such again and was stopped,
    those that it had not come to.

    Raises:
        UserError: there was no sweep, or nothing failed.
    """
    last = journal.read()
    steps = last.steps.values() if last is not None else ()
    meant = [State.FAILED, State.BLOCKED]
    if last is not None and "--failed" in last.command.split():
        meant += journal.UNFINISHED  # it was interrupted, and these had failed before
    names = [step.name for step in steps if step.state in meant]
    if not names:
        raise UserError("--failed: nothing failed in the last sweep here; run it without --failed")
    return names


def summary(ended: Sweep) -> str:
    """Say how a sweep ended: which stages had remarks, a line for each failure, and a line of counts."""
    count = {state: ended.schedule.count(state) for state in State}
    text = ", ".join(f"{number} {state.value}" for state, number in count.items() if number)
    failures = [f"failed: {step.name}: {step.reason}" for step in ended.failures]
    remarked = [f"remarks: {display.shortened(ended.remarked)}, above and in {journal.LOGS}/"] if ended.remarked else []
    again = ["python -m stages.sweep --failed tries these again"] if failures else []
    return "\n".join([*remarked, *failures, *again, text])


def hiring(options: Options, stack: ExitStack, say: Callable[[str], None]) -> "Callable[[], Crew]":
    """Make the function that connects the workers. The scheduler or cluster file that the command line names is tried
    now, before anything is done.

    Raises:
        UserError: no scheduler answers, the cluster file is wrong, or jobs cannot be submitted here.
    """
    if options.cluster is not None:
        from kdcore.sweep import clusters

        clusters.check(options.cluster, say)
    hire = cache(lambda: stack.enter_context(_crew(options, say)))
    if options.scheduler is not None:
        hire()
        gpus.device_wanted()  # refuses a name of no device
        if own := [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("KDCORE_")]:
            say(f"{', '.join(own)}: count for stages that run here alone; workers obey their own environment")
    return hire


@contextmanager
def _crew(options: Options, say: Callable[[str], None]) -> "Iterator[Crew]":
    """Connect the workers that the command line names; only now is Dask imported, which takes half a second."""
    from kdcore.sweep import clusters
    from kdcore.sweep.crew import Crew

    threads, slots_per_gpu = processes.threads_wanted(), options.slots_per_gpu
    environment, job_queue = processes.alone(threads), None
    with ExitStack() as stack:
        if options.scheduler is not None:
            client = stack.enter_context(clusters.scheduler(options.scheduler))
        elif options.cluster is not None:
            client, job_queue = stack.enter_context(clusters.cluster(options.cluster, say))
        else:
            jobs = options.jobs or processes.default_jobs(slots_per_gpu)
            client = stack.enter_context(clusters.here(jobs))
            environment = processes.every_slot(jobs, slots_per_gpu, threads)[0]
        crew = Crew(
            client,
            Path.cwd(),
            slots_per_gpu=slots_per_gpu,
            threads=threads,
            environment=environment,
            job_queue=job_queue,
        )
        try:
            yield crew
        except BaseException:  # the sweep fails: nobody will wait for running stages
            crew.stop()
            raise
        finally:
            crew.close()
