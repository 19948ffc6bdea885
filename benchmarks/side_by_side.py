"""How much time cells save that are trained side by side, sharing the teacher's maps (`kdcore.training.lockstep`).

Feature methods of one pair and seed, each alone and then all together, in turn. Processor time of this process, which
other programs disturb less than the clock; evaluation is of one image.

Run: python -m benchmarks.side_by_side [PAIR [METHODS [IMAGES [REPETITIONS [PRECISION]]]]]
"""

import sys
import time
from statistics import median
from typing import Any

import torch

from benchmarks import common
from kdcore.data.dataset import Dataset
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.training import device, lockstep, loop


def card(pair: str, method: str, precision: str) -> dict[str, Any]:
    """The card of a cell with the published recipe; noise is learnt slowly, so that no loss explodes."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    recipe = recipes.resolve(
        Cell(pair, method, 0), dataset="cifar100", published=published, overrides={}, stand_recipe="paper"
    )
    train = {"epochs": 1, "batch_size": common.BATCH, "lr": 1e-4, "schedule": "cosine", "precision": precision}
    values = {key: value.value for key, value in recipe.items()}
    return {
        "name": method,
        "student": pair.split("-")[1],
        "method": method,
        "seed": 0,
        "train": train,
        "recipe": values,
    }


def seconds(
    cards: list[dict[str, Any]], teacher: Network, dataset: Dataset, where: torch.device, *, together: bool
) -> float:
    """Processor time of an epoch of all cells, without preparing them."""
    runs = [loop.prepare(one, dataset, teacher, device=where) for one in cards]
    started = time.process_time()
    if together:
        for _ in lockstep.side_by_side(runs, teacher, dataset):
            pass
    else:
        for run in runs:
            loop.train(run, teacher, dataset)
    return time.process_time() - started


def main(
    pair: str = "resnet56-resnet20",
    methods: str = "at,rkd,sp,fitnet",
    count: str = "640",
    repetitions: str = "5",
    precision: str = "auto",
) -> None:
    """Print the seconds apart and together, and their ratio, and keep them."""
    where, dataset = device.choose(), common.noise(int(count))
    teacher, _ = common.networks_of(pair, where)
    cards = [card(pair, method, precision) for method in methods.split(",")]
    seconds(cards, teacher, dataset, where, together=True)  # warms caches
    pairs = [
        [seconds(cards, teacher, dataset, where, together=together) for together in (False, True)]
        for _ in range(int(repetitions))
    ]
    ratios = [apart / together for apart, together in pairs]
    dtype = str(device.compute_dtype(precision, where)).removeprefix("torch.")
    print(f"{pair}, {methods}, batch {common.BATCH}, {dtype}, {where}, {count} images\n")
    rows = [[f"{apart:.2f}", f"{together:.2f}", f"{apart / together:.2f}"] for apart, together in pairs]
    common.show(["apart, s", "together, s", "ratio"], rows)
    print(f"ratio: {common.spread(ratios, 2)}")
    content = {"pair": pair, "methods": methods.split(","), "images": int(count), "dtype": dtype, "seconds": pairs}
    common.keep("side-by-side", pair, dtype, where=where, content={**content, "ratio": round(median(ratios), 3)})


if __name__ == "__main__":
    main(*sys.argv[1:])
