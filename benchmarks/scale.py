"""What the size of a matrix costs: planning it, cells that it leaves out, and sweeps of cells that do nothing.

Run: python -m benchmarks.scale [SEEDS [LEFT_OUT [SIZES]]]; the matrix that is planned has 14 pairs x 49 rows x SEEDS
cells, LEFT_OUT is how many a small one leaves out, and SIZES are those of the sweeps: 50,250,1000,3000. SEEDS or
LEFT_OUT 0 and SIZES "" leave that part out.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import common
from benchmarks.sweep import SWEEP, environment, seconds
from kdcore.matrix import params
from kdcore.system import yamlfile
from kdcore.training import device
from tests import sweeps
from tests.project import copy_of_project

PRESET = Path("presets/cifar100-lskd.yaml")
"""Fourteen pairs."""
ROWS = {"methods": ["kd", "ctkd", "dkd", "nkd", "rld", "clkd", "skd"], "scales": [1, 2, 4],
        "baselines": ["vanilla", "fitnet", "at", "rkd", "crd", "ofd", "reviewkd"]}  # fmt: skip
WANTED = {"plan --check": 2.0, "dvc repro plan": 20.0, "dry run": 8.0}
"""Seconds for 3,430 cells."""
PER_CELL = 5.0
"""Milliseconds that a cell which is left out adds to a sweep."""
SWEPT, GROWTH = 0.3, 4 / 3
"""Seconds that a cell which does nothing adds to a sweep, and how much more that may be in a large sweep."""
JOBS = "2"


def planning(folder: Path, seeds: int) -> dict[str, float]:
    """Time the commands that look at the whole matrix, in a new project."""
    copy_of_project(folder)
    seconds(folder, ["git", "init", "-q"])
    content = {**yamlfile.read(PRESET), **ROWS, "seeds": list(range(seeds))}
    content["data"] = yamlfile.read(Path("params.yaml"))["data"]
    trained = yamlfile.read(Path("params.yaml"))["teachers"]["resnet20"]
    content["teachers"] = dict.fromkeys(content["teachers"], trained)
    yamlfile.write(folder / "params.yaml", content)
    print(f"{sum(1 for _ in params.load(folder / 'params.yaml').cells()):,} cells")
    return {
        "plan --check": seconds(folder, ["python", "-m", "stages.plan", "--check", "params.yaml"]),
        "dvc repro plan": seconds(folder, ["dvc", "repro", "plan"]),
        "dry run": seconds(folder, [*SWEEP, "--dry-run"]),
    }


def left_out(folder: Path, count: int) -> dict[str, float]:
    """Time sweeps of five cells that do nothing, beside so many that are left out: the first, and one more."""
    project = sweeps.make(folder)
    seeds = count // 5
    if seeds:
        project.set(seeds=list(range(1 + seeds)), exclude=[{"seeds": list(range(1, 1 + seeds))}])
    command = [*SWEEP, "--jobs", "1"]
    return {"first sweep": seconds(project.folder, command), "nothing to do": seconds(project.folder, command)}


def sweep(folder: Path, cells: int) -> dict[str, float]:
    """Sweep cells that do nothing, in a new project, and sweep once more.

    Returns:
        Seconds of the dry run, of the sweep, of a sweep with nothing to do, and of dvc status. Of the process
        that schedules: the most memory in MiB, and how many MB it wrote. Of the project afterwards: the size of
        dvc.lock in MB, and how many files there are, those of git left out.
    """
    project = sweeps.make(folder, seeds=cells // 5)
    command = [*SWEEP, "--jobs", JOBS]
    dry = seconds(folder, [*command, "--dry-run"])
    swept = watched(folder, command)
    files = sum(path.is_file() for path in folder.rglob("*") if ".git" not in path.parts)
    return {
        "dry run": dry,
        **swept,
        "nothing to do": seconds(folder, command),
        "dvc status": seconds(folder, ["dvc", "status"]),
        "dvc.lock": (project.folder / "dvc.lock").stat().st_size / 1e6,
        "files": files,
    }


def watched(folder: Path, command: Sequence[str]) -> dict[str, float]:
    """Run a sweep, and look at its process all the while: seconds, the most memory in MiB, MB that it wrote."""
    begun = time.perf_counter()
    memory = written = 0
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, cwd=folder, env=environment(), stdout=said, stderr=said)
        while process.poll() is None:
            with suppress(psutil.Error):  # it ends between two looks
                memory = max(memory, process.memory_info().rss)
                written = process.io_counters().write_chars
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read())
    return {"sweep": time.perf_counter() - begun, "memory": memory / 2**20, "written": written / 1e6}


def show_planning(times: dict[str, float]) -> None:
    """Print what planning took, beside what it may."""
    rows = [[name, f"{value:.1f}", f"{WANTED[name]:.0f}"] for name, value in times.items()]
    common.show(["", "seconds", "wanted"], rows)


def show_left_out(without: dict[str, float], beside: dict[str, float], count: int) -> None:
    """Print what cells that are left out add to sweeps."""
    added = {name: 1000 * (beside[name] - without[name]) / count for name in without}
    rows = [[name, f"{without[name]:.1f}", f"{beside[name]:.1f}", f"{added[name]:.1f}"] for name in without]
    common.show(["", "seconds", f"with {count:,} left out", "milliseconds for each"], rows)
    print(f"wanted: at most {PER_CELL:.0f} milliseconds")


def show_sweeps(of: dict[int, dict[str, float]]) -> None:
    """Print what sweeps of cells that do nothing cost, and what each further cell adds to the sweep."""
    sizes = list(of)
    rows = [
        [name, *(f"{of[size][key]:,.{digits}f}" for size in sizes)]
        for name, key, digits in (
            ("dry run, s", "dry run", 1),
            ("sweep, s", "sweep", 1),
            ("sweep with nothing to do, s", "nothing to do", 1),
            ("dvc status, s", "dvc status", 1),
            ("most memory of its process, MiB", "memory", 0),
            ("written by its process, MB", "written", 0),
            ("dvc.lock, MB", "dvc.lock", 2),
            ("files", "files", 0),
        )
    ]
    more = [
        (of[larger]["sweep"] - of[smaller]["sweep"]) / (larger - smaller)
        for smaller, larger in itertools.pairwise(sizes)
    ]
    rows.append(["each further cell, s", "", *(f"{value:.3f}" for value in more)])
    common.show(["cells that do nothing", *(f"{size:,}" for size in sizes)], rows)
    print(f"wanted: at most {SWEPT} s, the last at most {GROWTH:.2f} times the first; it is {more[-1] / more[0]:.2f}")


def main(seeds: str = "5", left_out_cells: str = "1000", sizes: str = "50,250,1000,3000") -> None:
    """Print the times, and keep them."""
    content: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if int(seeds):
            times = planning(folder / "large", int(seeds))
            show_planning(times)
            content |= {"seeds": int(seeds), "planning": times}
        if count := int(left_out_cells):
            without, beside = (left_out(folder / f"{cells}-left-out", cells) for cells in (0, count))
            show_left_out(without, beside, count)
            content |= {"left_out": count, "without": without, "beside": beside}
        if sizes:
            swept = {int(cells): sweep(folder / f"{cells}-swept", int(cells)) for cells in sizes.split(",")}
            show_sweeps(swept)
            content |= {"jobs": int(JOBS), "sweeps": swept}
    of = [f"{seeds}-seeds"] * bool(int(seeds)) + [f"{sizes.replace(',', '-')}-cells"] * bool(sizes)
    common.keep("scale", "-".join(of), where=device.choose(), content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
