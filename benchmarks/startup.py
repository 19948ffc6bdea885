"""How long a cell of CIFAR-100's size takes from the start of its process to the end of its first step, by stages.

50,000 images on disk, a teacher's table that is made anew; files are in the system's cache after the first run.

Run: python -m benchmarks.startup [PAIR [LEVELS [REPETITIONS [PRECISION]]]]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import common
from benchmarks.common import BATCH, Case
from kdcore.training import device, teacher_cache

TRAIN, TEST = 50_000, 10_000
WANTED = 2.0
"""Seconds."""


def start(folder: Path, name: str, tables: Path) -> dict[str, float]:
    """Seconds of every stage, in their order."""
    command = [sys.executable, "-m", "benchmarks.first_step", str(folder), name]
    environment = {**os.environ, teacher_cache.FOLDER_VARIABLE: str(tables)}
    before = time.perf_counter()
    made = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
    found = {}
    for stage, end in json.loads(made.stdout.splitlines()[-1]).items():
        found[stage], before = end - before, end
    return found


def main(
    pair: str = "resnet56-resnet20", levels: str = "1,2,4", repetitions: str = "5", computed: str = "auto"
) -> None:
    """Print the seconds of every stage with their spread, and keep them."""
    where, case = device.choose(), Case(pair, common.levels(levels), precision=computed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        name = common.lay_out(folder, case, count=TRAIN, test=TEST).stem
        runs = [start(folder, name, folder / f"tables-{run}") for run in range(int(repetitions))]
    found = {stage: [run[stage] for run in runs] for stage in runs[0]}
    found["all"] = [sum(run.values()) for run in runs]
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {repetitions} runs\n")
    rows = [[stage, common.spread(values, 2)] for stage, values in found.items()]
    common.show(["until the end of", "seconds, median (lowest to highest)"], rows)
    print(f"wanted: at most {WANTED} s in all")
    content = {
        **case.describe(where),
        "images": [TRAIN, TEST],
        "seconds": {stage: round(median(values), 3) for stage, values in found.items()},
        "runs": {stage: sorted(round(value, 3) for value in values) for stage, values in found.items()},
    }
    common.keep("startup", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
