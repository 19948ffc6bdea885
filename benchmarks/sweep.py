"""A sweep beside a serial `dvc repro`: the default run in clones, in turn.

Run: python -m benchmarks.sweep [JOBS [REPETITIONS]]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import common
from kdcore.training import device
from tests.project import copy_of_project

WANTED = 0.6
"""Of the serial run's time."""
SERIAL, SWEEP = ["dvc", "repro"], ["python", "-m", "stages.sweep"]


def environment() -> dict[str, str]:
    """Of a command in a project, which finds this interpreter and the project's own code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}


def seconds(folder: Path, command: Sequence[str]) -> float:
    """Of a command in a project."""
    before = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - before


def default_run(folder: Path, command: Sequence[str]) -> float:
    """Of the default run in a new clone."""
    folder.mkdir()
    copy_of_project(folder)
    shutil.copy("params.yaml", folder)  # the shipped matrix, which the tests' copies do not have
    seconds(folder, ["git", "init", "-q"])
    return seconds(folder, command)


def main(jobs: str = "2", repetitions: str = "1") -> None:
    """Print the ratio, and keep it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        times: dict[str, list[float]] = {"serial": [], "sweep": []}
        for run in range(int(repetitions)):
            for name, command in (("serial", SERIAL), ("sweep", [*SWEEP, "--jobs", jobs])):
                times[name].append(default_run(folder / f"{name}-{run}", command))
            serial, parallel = ((folder / f"{name}-{run}" / "dvc.lock").read_bytes() for name in times)
            print(f"dvc.lock of serial run and sweep equal: {serial == parallel}")
    rows = [[name, common.spread(values, 1)] for name, values in times.items()]
    common.show(["default run", "seconds, median (lowest to highest)"], rows)
    ratio = median(times["sweep"]) / median(times["serial"])
    print(f"sweep / serial: {ratio:.2f} (wanted: at most {WANTED})")
    content = {"jobs": int(jobs), "seconds": times, "ratio": round(ratio, 3)}
    common.keep("sweep", f"jobs{jobs}", where=device.choose(), content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
