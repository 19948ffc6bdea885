"""How much sooner a matrix is done with the teacher's table: KD x M in [1], [1,2], [1,2,4] x stand off and on.

Every cell is trained without tables and then with them, which begin empty, so that the first cells fill what the later
ones find. Evaluation after every epoch is included; the start of processes is not (see `benchmarks.startup`).

Run: python -m benchmarks.matrix [PAIR [IMAGES [EPOCHS [PRECISION]]]]
"""

import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks import common
from benchmarks.common import BATCH, Case
from kdcore.training import device

PYRAMIDS = ((1,), (1, 2), (1, 2, 4))
TEST_SHARE = 5
"""Training images per test image, as CIFAR-100 has them."""


def main(pair: str = "resnet56-resnet20", count: str = "2560", epochs: str = "2", computed: str = "auto") -> None:
    """Print the seconds of every cell and of all, and keep them."""
    where, images = device.choose(), int(count)
    dataset = common.noise(images, images // TEST_SHARE)
    teacher, _ = common.networks_of(pair, where)
    cases = [Case(pair, levels, stand, int(epochs), computed) for levels, stand in product(PYRAMIDS, (False, True))]
    found: dict[str, dict[str, float]] = {"without": {}, "with": {}}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"without": None, "with": Path(folder)}
        with common.tables(None):
            common.train(Case(pair, precision=computed), common.noise(4 * BATCH), teacher, where)  # warms caches
        for case in cases:
            name = f"M=[{','.join(map(str, case.levels))}]{' + stand' if case.stand else ''}"
            for way, tables in ways.items():
                with common.tables(tables):
                    found[way][name] = common.seconds(partial(common.train, case, dataset, teacher, where), where)
    for cells in found.values():
        cells["all"] = sum(cells.values())
    rows = [
        [name, f"{without:.1f}", f"{found['with'][name]:.1f}", f"{without / found['with'][name]:.2f}"]
        for name, without in found["without"].items()
    ]
    computed_in = cases[0].dtype(where)
    print(f"{pair}, KD, batch {BATCH}, {computed_in}, {where}, {epochs} epochs of {images} images\n")
    common.show(["cell", "without tables, s", "with tables, s", "ratio"], rows)
    content = {
        "pair": pair,
        "batch": BATCH,
        "dtype": computed_in,
        "images": images,
        "epochs": int(epochs),
        "seconds": {way: {name: round(value, 2) for name, value in cells.items()} for way, cells in found.items()},
        "ratio": round(found["without"]["all"] / found["with"]["all"], 3),
    }
    common.keep("matrix", pair, computed_in, where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
