"""What changes the jobs of a sweep in ways that it could not see: directives, and variables that a queue obeys."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from kdcore.sweep.gpus import HIP, VISIBLE
from kdcore.sweep.processes import BESIDE, THREADS, TOGETHER
from kdcore.sweep.queue_commands import environment
from kdcore.system.errors import shown

ARRAY = "makes an array, whose jobs a sweep does not know; 'jobs', beside 'options', says how many there are"
OTHER = "submits to a cluster that is not asked for its jobs; set the variable SLURM_CLUSTERS, which all commands read"
WAITS = "lets the command that submits a job wait until the job has ended, and so the sweep; leave it away"
UNFIT = {
    "SLURMCluster": {
        "-a": ARRAY,
        "--ar(r|ra|ray)?": ARRAY,
        r"-M\S*": OTHER,
        r"--clu\S*": OTHER,
        "-W": WAITS,
        "--wait": WAITS,
    },
    "PBSCluster": {"-J": ARRAY, "-t": ARRAY, r"-W\s*\S*block=(?![fFnN0])\w*": WAITS, "-I": WAITS},
    "MoabCluster": {"-t": ARRAY, "-I": WAITS},
    "SGECluster": {"-t": ARRAY, r"-sync\s+(?!no?\b)\w+": WAITS},
    "OARCluster": {r"--ar\S*": ARRAY, "-I": WAITS, r"--int\S*": WAITS},
    "LSFCluster": {r"-J\s*\S*\[": ARRAY, "-K": WAITS, "-I[psSX]*": WAITS},
}
"""Class -> pattern of a directive that a sweep cannot do with -> why. Queues take unique beginnings of long names."""
OVERRULING = {
    "SLURMCluster": {"SBATCH_PARTITION": "queue", "SBATCH_ACCOUNT": "account", "SBATCH_TIMELIMIT": "walltime"},
}
"""Class -> variable that the queue obeys rather than the script of a job -> the option that writes the script."""
OBEYED = {
    "SLURMCluster": r"SBATCH_\w+",
    "LSFCluster": r"LSB_DEFAULT\w+",
    "PBSCluster": "PBS_ACCOUNT|PBS_DEFAULT",
    "MoabCluster": "PBS_ACCOUNT|PBS_DEFAULT",
}
"""Class -> pattern of variables that decide what its jobs get, beside or instead of their script."""
SETS_THREADS = re.compile(rf"(?m)^[^#\n]*(\b{THREADS}:?=|\bset(env)?\s(.*\s)?{THREADS}\s+\S).*")
"""A line of a script, or a directive, that gives a job its number of threads; comments do not."""


def unfit(cluster: str, line: str) -> str:
    """Say why a sweep cannot do with a directive; empty where it can."""
    for directive, reason in UNFIT.get(cluster, {}).items():
        if re.search(rf"(^|\s)[\"']?{directive}(?![a-z-])", line):
            return reason
    return ""


def overruled(cluster: str, options: dict[str, Any]) -> str:
    """Say which variable overrules an option, or sends jobs where they are not looked for; empty where none does."""
    elsewhere = os.environ.get("SBATCH_CLUSTERS", "")
    if cluster == "SLURMCluster" and elsewhere not in ("", os.environ.get("SLURM_CLUSTERS")):
        return f"SBATCH_CLUSTERS={elsewhere}: {OTHER}"
    for variable, name in OVERRULING.get(cluster, {}).items():
        value = os.environ.get(variable, "")
        if name in options and value not in ("", options[name]):
            return f"{name}: {shown(options[name])}: {variable}={value} overrules it; unset that variable"
    return ""


def dropped(options: dict[str, Any]) -> str:
    """Say which option sets the number of threads, which a worker does not pass on to its cells; empty where none does.
    Left silent, that would change results: with `train.threads: auto` the number decides how sums are rounded.
    """
    for name, given in options.items():
        for text in _texts(given):
            if line := SETS_THREADS.search(text):
                remedy = f"start the sweep itself with {THREADS}, or set train.threads in params.yaml"
                return f"{name}: {shown(line[0].strip())}: does not count, for cells share the cores of a job; {remedy}"
    return ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value


READ_BY_CELLS = ("CXX", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT")
"""Variables of other programs that cells read (docs/environment.md)."""


def obeyed(cluster: str) -> list[str]:
    """List the variables of this process that the queue obeys, each with its value."""
    pattern = re.compile(OBEYED.get(cluster, "(?!)"))
    return [f"{name}={value}" for name, value in sorted(environment().items()) if value and pattern.fullmatch(name)]


def ignored() -> list[str]:
    """List the variables that choose GPUs of this machine, and do not count for jobs, each with its value."""
    return [f"{name}={os.environ[name]}" for name in (VISIBLE, HIP) if name in os.environ]


def exports(shebang: str) -> list[str]:
    """Write commands that give a job the variables of this process that cells read. Many queues would not pass them on.

    Args:
        shebang: the first line of the job's script, which names its shell; or the shell that a directive names.
    """
    words = [PurePath(word).name for word in shebang.removeprefix("#!").split()]
    program = next((word for word in words if word != "env" and not word.startswith("-") and "=" not in word), "")
    form = "setenv {} {}" if program.endswith("csh") else "export {}={}"  # also of tcsh
    names = [name for name in sorted(os.environ) if name.startswith("KDCORE_") or name in READ_BY_CELLS]
    return [form.format(name, shlex.quote(os.environ[name])) for name in names if name not in (BESIDE, TOGETHER)]
