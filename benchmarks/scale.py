"""What a large matrix costs before its first cell trains, and what a cell costs that the matrix leaves out.

Run: python -m benchmarks.scale [SEEDS [LEFT_OUT]]; the matrix has 14 pairs x 49 rows x SEEDS cells, and LEFT_OUT is how
many a small one leaves out.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.sweep import SWEEP, seconds
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


def main(seeds: str = "5", count: str = "1000") -> None:
    """Print the times, and keep them."""
    with tempfile.TemporaryDirectory() as temporary:
        times = planning(Path(temporary) / "large", int(seeds))
        common.show(
            ["", "seconds", "wanted"], [[name, f"{value:.1f}", f"{WANTED[name]:.0f}"] for name, value in times.items()]
        )
        without, beside = (left_out(Path(temporary) / f"{cells}-left-out", cells) for cells in (0, int(count)))
        added = {name: 1000 * (beside[name] - without[name]) / int(count) for name in without}
        rows = [[name, f"{without[name]:.1f}", f"{beside[name]:.1f}", f"{added[name]:.1f}"] for name in without]
        common.show(["", "seconds", f"with {int(count):,} left out", "milliseconds for each"], rows)
        print(f"wanted: at most {PER_CELL:.0f} milliseconds")
    content = {"seeds": int(seeds), "planning": times, "left_out": int(count), "without": without, "beside": beside}
    common.keep("scale", f"{seeds}-seeds", where=device.choose(), content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
