"""The file that --cluster names: which queue, how many jobs, and options of dask-jobqueue, all checked before any work.

dask-jobqueue itself checks next to nothing: it writes a text where a list belongs letter by letter into the script of
a job, and takes `memory: 16` for 16 bytes.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import dask
from dask.utils import parse_bytes
from pydantic import AfterValidator, BeforeValidator, Field

from kdcore.matrix.problems import explained
from kdcore.matrix.section import Count, Positive, Section, Text
from kdcore.sweep.queue_rules import dropped, exports, ignored, obeyed, overruled, unfit
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
CHOOSES_SHELL = ("PBSCluster", "MoabCluster", "SGECluster")
"""Queues that take the shell of a job's script from the directive -S."""
NEWER = {
    "job_extra": "job_extra_directives",
    "env_extra": "job_script_prologue",
    "extra": "worker_extra_args",
    "header_skip": "job_directives_skip",
}
"""Old name of an option -> its new one, beside which dask-jobqueue ignores the old one."""
NOT_CONFIGURED = ("config_name", "protocol", "security", "nanny", "silence_logs", "processes")
"""Options that Dask's configuration does not decide; `processes` is 1 where the file leaves it out."""
DIRECTIVE = re.compile(r"#(SBATCH|PBS|MSUB|BSUB|OAR|\$)\s")
"""The beginning of a line that a queue may read as a directive wherever it is in a job's script."""
ARGUMENTS = {
    "--name": "a sweep knows a job's worker by the name that it gives it",
    "--nworkers": "'processes' says how many workers a job has",
}
"""Argument of a worker that a sweep gives itself -> why."""
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


def _command(text: str) -> str:
    for line in text.splitlines():
        if directive := DIRECTIVE.match(line):
            raise ValueError(f"{shown(line)}: belongs into job_extra_directives, there without {directive[0].strip()}")
    return text


def _extra_argument(argument: str) -> str:
    for word in re.split(r"[\s=\"']", argument):
        if word in ARGUMENTS:
            raise ValueError(f"'{word}': {ARGUMENTS[word]}; leave it away")
    return argument


Words = Annotated[Text, BeforeValidator(_words)]
Size = Annotated[str, BeforeValidator(_size), AfterValidator(_memory)]
Lines = Annotated[list[Words], BeforeValidator(_entries)]
Command = Annotated[str, Field(min_length=1), BeforeValidator(_words), AfterValidator(_command)]
Script = Annotated[list[Command], BeforeValidator(_entries)]
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
    job_script_epilogue: Script | None = None
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


def read(path: Path, say: Callable[[str], object] = lambda line: None) -> ClusterFile:
    """Read and validate a cluster file, with what else decides the jobs: Dask's configuration, and variables.

    Args:
        path: of the file.
        say: shows a line to a person, on what else decides the jobs.

    Returns:
        Its content; options that are left empty are left out, those that Dask's configuration sets are added, a job has
        one process unless the file says more, and this process's KDCORE_ variables.

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
    job_class = getattr(jobqueue(), content.cluster).job_cls
    section = f"jobqueue.{options.get('config_name', job_class.default_config_name())}"
    added = {
        name: value
        for name, value in _configured(content.cluster, section).items()
        if name not in options and NEWER.get(name) not in options
    }
    with explained(f"{section} of Dask's configuration, which an option in {path} replaces"):
        added = Options.model_validate(added).model_dump(exclude_none=True)
    options = {"processes": 1, **added, **options}
    if problem := _problem(content.cluster, options):
        origin = f" ({section} of Dask's configuration)" if problem.partition(":")[0] in added else ""
        raise UserError(f"{path}: options{origin}: {problem}")
    if added:
        listed = ", ".join(f"{name}: {shown(value)}" for name, value in added.items())
        say(f"{path}: {section} of Dask's configuration adds {listed}")
    if variables := obeyed(content.cluster):
        say(f"{path}: the queue also obeys {', '.join(variables)}")
    if variables := ignored():
        say(f"{path}: {', '.join(variables)}: chooses GPUs of this machine, and is not passed on to jobs")
    shell = "" if content.cluster == "HTCondorCluster" else _shell(content.cluster, options)  # which runs /bin/sh
    if passed := exports(shell):
        prologue = options.get("job_script_prologue") or options.pop("env_extra", [])
        options["job_script_prologue"] = [*passed, *prologue]
    content = content.model_copy(update={"options": options})
    script(content, path)
    return content


def _shell(cluster: str, options: dict[str, Any]) -> str:
    """Return the shell of a job's script: that of a directive -S, where the queue prefers it, or of the first line."""
    directives = [*(options.get("job_extra_directives") or []), *(options.get("job_extra") or [])]
    named = (re.search(r"(?:^|\s)-S[ =]*([^\s,@]+)", line) for line in directives if cluster in CHOOSES_SHELL)
    return next((match[1] for match in named if match), options.get("shebang", ""))


def _configured(cluster: str, section: str) -> dict[str, Any]:
    """Read from Dask's own configuration the options that somebody has set there: in its files, or by variables."""
    defaults, values = dask.config.merge(*dask.config.defaults), {}
    for name in allowed(cluster):
        key = f"{section}.{'name' if name == 'job_name' else name}"
        value = dask.config.get(key, None)
        if name not in NOT_CONFIGURED and value not in (None, dask.config.get(key, None, config=defaults)):
            values[name] = value
    return values


def _problem(cluster: str, options: dict[str, Any]) -> str:
    return overruled(cluster, options) or dropped(options) or _misfit(cluster, options) or _unfit(cluster, options)


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
    for old, new in NEWER.items():
        if options.get(old) and options.get(new):
            return f"{old}: {shown(options[old])}: is ignored, for it is the old name of {new}; leave one of them away"
    return ""


def _unfit(cluster: str, options: dict[str, Any]) -> str:
    """Say which option writes a directive that a sweep cannot do with; empty where none does."""
    for name in ("job_extra_directives", "job_extra", "job_name", "queue", "account", "project", "resource_spec"):
        given, before = options.get(name, []), "-J " if (cluster, name) == ("LSFCluster", "job_name") else ""
        for text in [given] if isinstance(given, str) else given:
            if reason := unfit(cluster, before + text):
                return f"{name}: {shown(text)}: {reason}"
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
