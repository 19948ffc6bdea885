"""How much memory a cell of CIFAR-100's size takes: its first steps and an evaluation, in a process of its own.

50,000 training and 10,000 test images, on disk and mapped, as the pipeline has them. Of the peak, what is mapped from
files, the images and the teacher's table, can be dropped by the system at any time; the rest, anonymous, cannot. Linux
alone. Of a GPU's memory nothing is measured.

Run: python -m benchmarks.memory [PAIR [LEVELS [STEPS [PRECISION]]]]
"""

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from benchmarks import common
from benchmarks.common import BATCH, CLASSES, Case
from kdcore import checkpoints
from kdcore.data import storage
from kdcore.training import device, loop
from kdcore.training.loop import Callbacks

TRAIN, TEST = 50_000, 10_000
WANTED = 1.5
"""GB, without a table."""
EVERY = 0.02
"""Seconds between two looks at a process."""


class _EnoughError(Exception):
    pass


def cell(case: Case, folder: Path, steps: int, tables: Path | None) -> float:
    """Train so many steps and evaluate.

    Returns:
        The largest resident memory that this process had, in GB. Not getrusage's, which begins with what the parent
        has when it starts a child.
    """
    where, card, done = device.choose(), case.card, 0

    def count(_images: int) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise _EnoughError

    dataset, weights = storage.load(folder / "data" / card["data"]), folder / "pairs" / f"{case.pair}.safetensors"
    teacher = checkpoints.restore(card["teacher"], CLASSES, weights, where)
    run = loop.prepare(card, dataset, teacher, device=where, callbacks=Callbacks(on_step=count))
    with common.tables(tables), suppress(_EnoughError):
        loop.train(run, teacher, dataset)
    run.end_epoch(dataset)
    if tables is not None and not any(tables.glob("*/logits")):
        raise RuntimeError(f"no table was made: the disk of {tables} is too full for one of this size")
    return _resident(os.getpid(), "VmHWM")


def peaks(process: ProcessPoolExecutor, case: Case, folder: Path, steps: int, tables: Path | None) -> dict[str, float]:
    """GB: the peak, and the largest anonymous part that was seen, which the system does not keep."""
    pid = process.submit(os.getpid).result()
    work, anonymous = process.submit(cell, case, folder, steps, tables), 0.0
    while not work.done():
        anonymous = max(anonymous, _resident(pid, "RssAnon"))
        wait([work], timeout=EVERY)
    return {"peak": round(work.result(), 3), "anonymous": round(anonymous, 3)}


def _resident(pid: int, field: str) -> float:
    """A field of a process's status, in GB."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[field].removesuffix("kB")) * 1024 / 1e9


def main(pair: str = "resnet56-resnet20", levels: str = "1,2,4", steps: str = "60", computed: str = "auto") -> None:
    """Print the peaks with and without a table, and keep them."""
    where, case = device.choose(), Case(pair, common.levels(levels), precision=computed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common.lay_out(folder, case, count=TRAIN, test=TEST)
        found = {}
        for way, tables in (("trainer", None), ("with a new table", folder / "tables")):
            with common.apart() as process:
                found[way] = peaks(process, case, folder, int(steps), tables)
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {steps} steps and {TEST} test images\n")
    common.show(
        ["", "peak, GB", "anonymous, GB"],
        [[way, f"{gigabytes['peak']:.2f}", f"{gigabytes['anonymous']:.2f}"] for way, gigabytes in found.items()],
    )
    print(f"wanted: at most {WANTED} GB without a table")
    content = {**case.describe(where), "images": [TRAIN, TEST], "steps": int(steps), "gigabytes": found}
    common.keep("memory", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
