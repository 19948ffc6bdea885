"""How much faster a cell's steps are where they are compiled (`train.compile: auto`): images per second of four ways,
side by side in alternating runs, each in a process of its own.

- eager, compiled: the teacher computes every batch.
- eager table, compiled table: the teacher's logits are in a table that an earlier cell has filled.

The first steps of a run, in which graphs are compiled or read from the cache, are timed apart.

Run: python -m benchmarks.compiled [PAIR [LEVELS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks import common
from benchmarks.common import BATCH, Case
from kdcore.data.dataset import Dataset
from kdcore.networks.contract import Network
from kdcore.training import device, loop

WAYS = ("eager", "compiled", "eager table", "compiled table")
COMPARED = (("compiled", "eager"), ("compiled table", "eager table"))
WARM = 4
"""Steps that are timed apart: a compiler's graphs are made in the first one, and CUDA's recorded in the next ones."""


@cache
def _inputs(pair: str, images: int) -> tuple[Dataset, Network]:
    """The images and the teacher of this process, made once."""
    return common.noise(images), common.networks_of(pair, device.choose())[0]


@contextmanager
def begun(way: str, case: Case, images: int, tables: Path) -> Iterator[tuple[float, Iterator[None]]]:
    """Take the first steps of a cell.

    Yields:
        Their seconds, and the other steps, to be taken inside the block.
    """
    where = device.choose()
    dataset, teacher = _inputs(case.pair, images)
    with common.tables(tables / way.split(maxsplit=1)[0] if "table" in way else None):
        run = loop.prepare(case.card, dataset, teacher, device=where, compiled=way.startswith("compiled"))
        steps = loop.steps(run, teacher, dataset)
        yield common.seconds(lambda: list(islice(steps, WARM)), where), steps


def epoch(way: str, case: Case, images: int, tables: Path) -> tuple[float, float]:
    """Seconds of the first steps of a cell, and of each later step of its epoch."""
    with begun(way, case, images, tables) as (first, steps):
        count = images // BATCH - WARM
        later = common.seconds(lambda: list(islice(steps, count)), device.choose())
        list(steps)  # the evaluation, and what a small last batch leaves
    return first, later / count


def main(
    pair: str = "resnet56-resnet20",
    levels: str = "1",
    count: str = "1280",
    repetitions: str = "7",
    computed: str = "auto",
) -> None:
    """Print rates and ratios with their spread, and keep them."""
    where, images = device.choose(), int(count)
    case = Case(pair, common.levels(levels), precision=computed)
    with ExitStack() as stack:
        tables = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {way: stack.enter_context(common.apart()) for way in WAYS}

        def turn() -> dict[str, tuple[float, float]]:
            return {way: one.submit(epoch, way, case, images, tables).result() for way, one in processes.items()}

        begun = turn()  # compiles, or reads what an earlier run has compiled, and fills the tables
        times = [turn() for _ in range(int(repetitions))]
    rates = {way: [round(BATCH / run[way][1], 1) for run in times] for way in WAYS}
    ratios = {f"{fast} / {slow}": [round(run[slow][1] / run[fast][1], 3) for run in times] for fast, slow in COMPARED}
    first = {way: {"in a new process": round(begun[way][0], 1), "later": round(median(r[way][0] for r in times), 1)}
             for way in WAYS}  # fmt: skip
    print(f"{pair}, M=[{levels}], batch {BATCH}, {case.dtype(where)}, {where}, {images} images, {repetitions} runs\n")
    rows = [[f"{way}, images/s", common.spread(values, 0)] for way, values in rates.items()]
    rows += [[name, common.spread(values, 3)] for name, values in ratios.items()]
    rows += [
        [f"{way}, first {WARM} steps, s", f"{of['in a new process']}, then {of['later']}"] for way, of in first.items()
    ]
    common.show(["", "median (lowest to highest)"], rows)
    content = {
        **case.describe(where),
        "images": images,
        "images_per_second": {way: median(values) for way, values in rates.items()},
        "rates": {way: sorted(values) for way, values in rates.items()},
        "ratios": {name: sorted(values) for name, values in ratios.items()},
        "first_steps_seconds": first,
    }
    common.keep("compiled", pair, case.scale, case.dtype(where), where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
