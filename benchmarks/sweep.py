"""A sweep beside a serial `dvc repro`: the default run in clones, in turn; and what a matrix of cells that do nothing
costs, planned, swept, and swept once more.

Run: python -m benchmarks.sweep [JOBS [REPETITIONS [SEEDS]]]; 0 repetitions leave the default run out.
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
from tests import sweeps
from tests.project import copy_of_project

WANTED, PER_CELL, PLANNED = 0.6, 0.3, 5.0
"""Of the serial run's time; seconds per cell; seconds for a plan, and for a sweep that has nothing to do."""
SERIAL, SWEEP = ["dvc", "repro"], ["python", "-m", "stages.sweep"]


def seconds(folder: Path, command: Sequence[str]) -> float:
    """Of a command in a project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    before = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - before


def default_run(folder: Path, command: Sequence[str]) -> float:
    """Of the default run in a new clone."""
    folder.mkdir()
    copy_of_project(folder)
    shutil.copy("params.yaml", folder)  # the shipped matrix, which the tests' copies do not have
    seconds(folder, ["git", "init", "-q"])
    return seconds(folder, command)


def main(jobs: str = "2", repetitions: str = "1", seeds: str = "50") -> None:
    """Print ratios and overheads, and keep them."""
    swept = [*SWEEP, "--jobs", jobs]
    content: dict[str, object] = {"jobs": int(jobs)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        times: dict[str, list[float]] = {"serial": [], "sweep": []}
        for run in range(int(repetitions)):
            for name, command in (("serial", SERIAL), ("sweep", swept)):
                times[name].append(default_run(folder / f"{name}-{run}", command))
            serial, parallel = ((folder / f"{name}-{run}" / "dvc.lock").read_bytes() for name in times)
            print(f"dvc.lock of serial run and sweep equal: {serial == parallel}")
        if times["serial"]:
            rows = [[name, common.spread(values, 1)] for name, values in times.items()]
            common.show(["default run", "seconds, median (lowest to highest)"], rows)
            ratio = median(times["sweep"]) / median(times["serial"])
            print(f"sweep / serial: {ratio:.2f} (wanted: at most {WANTED})\n")
            content |= {"seconds": times, "ratio": round(ratio, 3)}
        project = sweeps.make(folder / "trivial", seeds=int(seeds))
        cells = 5 * int(seeds)
        trivial = {
            "plan": seconds(project.folder, [*swept, "--dry-run"]),
            "sweep": seconds(project.folder, swept),
            "nothing to do": seconds(project.folder, swept),
        }
        wanted = {"plan": PLANNED, "sweep": PER_CELL * cells, "nothing to do": PLANNED}
        rows = [[name, f"{value:.1f}", f"{wanted[name]:.1f}"] for name, value in trivial.items()]
        common.show([f"{cells} cells that do nothing", "seconds", "at most"], rows)
        print(f"per cell: {trivial['sweep'] / cells:.3f} s (wanted: at most {PER_CELL})")
        content |= {"cells": cells, "trivial": {name: round(value, 2) for name, value in trivial.items()}}
    common.keep("sweep", f"jobs{jobs}", where=device.choose(), content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
