"""The file that --cluster names: which queue, how many jobs, and options of dask-jobqueue, all checked before any work.

dask-jobqueue itself checks next to nothing: it writes a text where a list belongs letter by letter into the script of
a job, and takes `memory: 16` for 16 bytes.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from dask.utils import parse_bytes
from pydantic import AfterValidator, BeforeValidator, Field

from kdcore.matrix.params import explained
from kdcore.matrix.section import Count, Positive, Section, Text
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, named, shown, suggest

MEMORY = re.compile(r"[0-9]+(\.[0-9]+)? ?[KMGTP]i?B?", re.IGNORECASE)
CLOCK = r"[0-9]+:[0-5][0-9]:[0-5][0-9]"
TIMES = {
    "SLURMCluster": (rf"{CLOCK}|[0-9]+-[0-9]+(:[0-5][0-9]){{0,2}}", '"08:00:00" or "1-08:00:00"'),
    "LSFCluster": ("[0-9]+:[0-5][0-9]", '"08:00", hours and minutes'),
}
"""Class -> how its walltime is written, and examples; other queues have hours, minutes and seconds."""
HINTS = {
    "n_workers": " 'jobs', beside 'options', says how many.",
    "host": " It belongs into scheduler_options.",
    "dashboard_address": " It belongs into scheduler_options.",
}
ARRAY = "makes an array, whose jobs a sweep does not know; 'jobs', beside 'options', says how many there are"
OTHER = "submits to a cluster that is not asked for its jobs; set the variable SLURM_CLUSTERS, which all commands read"
WAITS = "lets the command that submits a job wait until the job has ended, and so the sweep; leave it away"
UNFIT = {
    "SLURMCluster": {
        "-a": ARRAY,
        "--array": ARRAY,
        r"-M\S*": OTHER,
        r"--clu\S*": OTHER,
        "-W": WAITS,
        "--wait": WAITS,
    },
    "PBSCluster": {"-J": ARRAY, "-t": ARRAY, r"-W ?\S*block=true": WAITS},
    "MoabCluster": {"-t": ARRAY},
    "SGECluster": {"-t": ARRAY, "-sync y": WAITS},
    "OARCluster": {"--array": ARRAY, "--array-param-file": ARRAY},
    "LSFCluster": {r"-J ?\S*\[": ARRAY, "-K": WAITS},
}
"""Class -> pattern of a directive that a sweep cannot do with -> why."""
PLACEHOLDER = "tcp://<this machine>:<a free port>"


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)}: must be text; put it into quotes")
    return value


def _entries(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)}: must be a list of text, as in [{shown(str(value))}]")
    return value


def _directives(value: Any) -> Any:
    """Check extra directives: a list of text, or with HTCondor keys and values; which of them, the class decides."""
    for line in [] if isinstance(value, dict) else _entries(value):
        if not _words(line).strip() or not line.isprintable():
            raise ValueError(f"{shown(line)}: must be one line of text")
        if line.startswith("#"):
            raise ValueError(
                f"{shown(line)}: leave {line.split(maxsplit=1)[0]} away, for it is written before each entry"
            )
    for entry in value.values() if isinstance(value, dict) else []:
        if isinstance(entry, list | dict) or entry is None:
            raise ValueError(f"{shown(entry)}: must be text, a number, true or false")
    return value


def _memory(size: str) -> str:
    if not MEMORY.fullmatch(size) or parse_bytes(size) < 1:
        raise ValueError(f"{shown(size)}: must be a size with its unit, such as 16GB or 500MB")
    return size


def _size(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError(f"{value}: has no unit, so it would be bytes; write {value}GB or {value}MB")
    return _words(value)


def _shebang(line: str) -> str:
    if not line.startswith("#!"):
        raise ValueError(f"{shown(line)}: must begin with #!, as in '#!/usr/bin/env bash'")
    return line


def _folder(path: str) -> str:
    whole = os.path.expanduser(os.path.expandvars(path))
    if "$" in whole or whole.startswith("~"):
        raise ValueError(
            f"{shown(path)}: names a folder that is not known here; write it out, for queues replace nothing"
        )
    return whole


def _extra_argument(argument: str) -> str:
    if re.split(r"[\s=]", argument.strip())[0] == "--name":
        raise ValueError("'--name': a sweep knows a job's worker by the name that it gives it; leave it away")
    return argument


Words = Annotated[Text, BeforeValidator(_words)]
Size = Annotated[str, BeforeValidator(_size), AfterValidator(_memory)]
Lines = Annotated[list[Words], BeforeValidator(_entries)]
Script = Annotated[list[Annotated[str, Field(min_length=1), BeforeValidator(_words)]], BeforeValidator(_entries)]
"""Commands of a shell; one entry may hold several lines."""
Directives = Annotated[Any, AfterValidator(_directives)]
Arguments = Annotated[list[Annotated[Words, AfterValidator(_extra_argument)]], BeforeValidator(_entries)]


class Options(Section):
    """What the classes of dask-jobqueue take, as far as it makes sense in a file; `allowed` lists what each takes."""

    queue: Words | None = None
    account: Words | None = None
    project: Words | None = None
    cores: Count | None = None
    processes: Count | None = None
    memory: Size | None = None
    walltime: Words | None = None
    resource_spec: Words | None = None
    job_extra_directives: Directives | None = None
    job_extra: Directives | None = None
    job_directives_skip: Lines | None = None
    header_skip: Lines | None = None
    job_script_prologue: Script | None = None
    env_extra: Script | None = None
    worker_extra_args: Arguments | None = None
    extra: Arguments | None = None
    worker_command: Words | None = None
    python: Words | None = None
    local_directory: Words | None = None
    log_directory: Annotated[Words, AfterValidator(_folder)] | None = None
    shared_temp_directory: Words | None = None
    shebang: Annotated[Words, AfterValidator(_shebang)] | None = None
    job_name: Words | None = None
    config_name: Words | None = None
    interface: Words | None = None
    protocol: Words | None = None
    security: Annotated[Literal[True] | None, BeforeValidator(lambda value: None if value is False else value)] = None
    scheduler_options: dict[str, Any] | None = None
    death_timeout: Positive | None = None
    nanny: bool | None = None
    silence_logs: Literal["critical", "error", "warning", "info", "debug"] | None = None
    job_cpu: Count | None = None
    job_mem: Size | None = None
    ncpus: Count | None = None
    mem: Annotated[int, Field(ge=10**6)] | None = None
    """Bytes."""
    lsf_units: Words | None = None
    use_stdin: bool | None = None
    memory_per_core_property_name: Words | None = None
    disk: Size | None = None
    submit_command_extra: Lines | None = None
    cancel_command_extra: Lines | None = None


class ClusterFile(Section):
    """The content of the file that --cluster names: jobs for dask-jobqueue to submit, each of which is a worker."""

    cluster: str
    """The name of a class, see `classes`."""
    jobs: Count
    """How many jobs are submitted."""
    options: dict[str, Any]
    """Arguments of that class: queue, cores, memory, walltime, job_extra_directives, ..."""


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


def allowed(cluster: str) -> list[str]:
    """Name the options that a class takes, and its jobs."""
    made = getattr(jobqueue(), cluster)
    return [name for name in Options.model_fields if name in {*_parameters(made), *_parameters(made.job_cls)}]


def _parameters(made: type) -> Iterator[str]:
    """Name the arguments of a class and of those that it is derived from."""
    for base in made.__mro__:
        if "__init__" in vars(base):
            yield from signature(vars(base)["__init__"]).parameters


def read(path: Path) -> ClusterFile:
    """Read and validate a cluster file.

    Returns:
        Its content; options that are left empty are left out, and a job has one process unless the file says more.

    Raises:
        UserError: it is wrong; the message lists the problems.
    """
    given = yamlfile.read(path, bounded=True)
    with explained(str(path)):
        content = ClusterFile.model_validate(given)
    if content.cluster not in classes():
        raise UserError(
            f"{path}: cluster: {content.cluster!r} is no class of dask_jobqueue. Allowed: {', '.join(classes())}"
        )
    known = allowed(content.cluster)
    unknown = [
        f"{path}: options: {named(name)}: {content.cluster} has no such option.{HINTS.get(name, suggest(name, known))}"
        for name in content.options
        if name not in known
    ]
    if unknown:
        raise UserError("\n".join([*unknown, f"Allowed: {', '.join(known)}"]))
    with explained(f"{path}: options"):
        options = Options.model_validate(content.options).model_dump(exclude_none=True)
    options = {"processes": 1, **options}
    if problem := _elsewhere(content.cluster) or _misfit(content.cluster, options):
        raise UserError(f"{path}: options: {problem}")
    content = content.model_copy(update={"options": options})
    script(content, path)
    return content


def _elsewhere(cluster: str) -> str:
    """Say which variable sends jobs to a cluster that is not asked for them; empty where none does."""
    wanted = os.environ.get("SBATCH_CLUSTERS", "")
    is_here = cluster != "SLURMCluster" or wanted in ("", os.environ.get("SLURM_CLUSTERS"))
    return "" if is_here else f"SBATCH_CLUSTERS={wanted}: {OTHER}"


def _misfit(cluster: str, options: dict[str, Any]) -> str:
    """Say which options do not fit to the class or to each other; empty where all do."""
    form, examples = TIMES.get(cluster, (CLOCK, '"08:00:00"'))
    walltime = options.get("walltime")
    if walltime is not None and (not re.fullmatch(form, walltime) or not re.search("[1-9]", walltime)):
        return f"walltime: {shown(walltime)}: must be written as in {examples}, with {cluster}"
    if options["processes"] > options.get("cores", options["processes"]):
        return (
            f"processes: {options['processes']}: must be at most cores, {options['cores']}; 1 is enough for any sweep"
        )
    wanted, kind = (dict, "keys and values") if cluster == "HTCondorCluster" else (list, "a list of text")
    for name in ("job_extra_directives", "job_extra"):
        if not isinstance(options.get(name, wanted()), wanted):
            return f"{name}: {shown(options[name])}: must be {kind}, with {cluster}"
        for line in options.get(name, ()):
            for directive, reason in UNFIT.get(cluster, {}).items():
                if re.search(rf"(^|\s){directive}(?![a-z-])", line):
                    return f"{name}: {shown(line)}: {reason}"
    return ""


def script(content: ClusterFile, path: Path) -> str:
    """Write the script of a job; the scheduler's address and the worker's name stand for those of a sweep.

    Raises:
        UserError: the class does not take the options.
    """
    job_class = getattr(jobqueue(), content.cluster).job_cls
    known = {*_parameters(job_class)} - {"security"}
    options = {name: value for name, value in content.options.items() if name in known}
    with _refused(content, path), _unmade(options.get("log_directory")):
        return str(job_class(PLACEHOLDER, name="worker-0", **options).job_script())


@contextmanager
def _refused(content: ClusterFile, path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OSError, RuntimeError, LookupError, ImportError) as error:
        reason: BaseException = error
        while inner := reason.__cause__ or reason.__context__:  # Dask says what did not work; the first error says why
            reason = inner
        raise UserError(f"{path}: options: {content.cluster} does not take them: {reason}") from error


@contextmanager
def _unmade(folder: str | None) -> Iterator[None]:
    """Remove a folder that dask-jobqueue makes inside the block, and those above it that were not there."""
    path = Path(folder or ".").absolute()
    missing = [place for place in (path, *path.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in missing:
            if place.is_dir():
                place.rmdir()


def make(content: ClusterFile, path: Path) -> Any:
    """Make the cluster that a file describes, without jobs yet.

    Raises:
        UserError: its class does not take these options.
    """
    with _refused(content, path):
        return getattr(jobqueue(), content.cluster)(**content.options)
