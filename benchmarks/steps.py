"""How long a whole training step of every method takes, beside one of KD: teacher, student, loss, backward, optimiser.

Every method has its published recipe, and logit methods have M=[1] without standardisation. Each is measured in turn
with KD, on the same images; without a table of the teacher's logits, so that all pay for the teacher.

Run: python -m benchmarks.steps [PAIR [METHODS [STEPS [REPETITIONS [PRECISION]]]]], METHODS "all" or joined by commas.
"""

import sys
from itertools import cycle
from statistics import median
from typing import Any

import torch

from benchmarks import common
from kdcore import catalog
from kdcore.data.dataset import Dataset
from kdcore.data.feed import Feed
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.training import device, loop, teacher_outputs

LIMIT = 1.3
"""Of KD's time, what a step of a logit method may take."""


def card(pair: str, method: str, precision: str) -> dict[str, Any]:
    """The card of a cell with the published recipe; noise is learnt slowly, so that no loss explodes."""
    published = yamlfile.read(ROOT / "data/recipes.yaml")
    logit = catalog.kind(method) == "logit"
    cell = Cell(pair, method, 0, *((1, False) if logit else (None, None)))
    recipe = recipes.resolve(cell, dataset="cifar100", published=published, overrides={}, stand_recipe="paper")
    train = {"epochs": 240, "batch_size": common.BATCH, "lr": 1e-4, "schedule": "cosine", "precision": precision}
    values = {key: value.value for key, value in recipe.items()}
    return {"name": method, "student": cell.student, "method": method, "seed": 0, "train": train, "recipe": values}


class Steps:
    """A cell in the middle of its first epoch.

    Args:
        method: what it learns by.
        pair: its networks.
        dataset: what it learns.
        teacher: is run at every step.
        where: it is computed.
        precision: see `kdcore.training.device.compute_dtype`.
    """

    def __init__(
        self, method: str, pair: str, dataset: Dataset, teacher: Network, where: torch.device, *, precision: str
    ) -> None:
        self.where = where
        self.run = loop.prepare(card(pair, method, precision), dataset, teacher, device=where)
        feed = Feed(dataset, where)
        self.teach = teacher_outputs.prepare(
            teacher, self.run.objective, feed, self.run.world, self.run.dtype, batch_size=common.BATCH
        )
        views = self.run.objective.views
        self.batches = cycle(list(feed.batches(common.BATCH, views=views, seed=0, epoch=1, skip=0)))
        self.run.begin_epoch()

    def take(self, count: int) -> float:
        """Seconds that this many steps take."""

        def steps() -> None:
            for _ in range(count):
                batch = next(self.batches)
                self.run.step(batch, self.teach(batch))

        return common.seconds(steps, self.where) / count


def main(
    pair: str = "resnet32x4-resnet8x4",
    methods: str = "all",
    steps: str = "3",
    repetitions: str = "7",
    precision: str = "auto",
) -> None:
    """Print milliseconds of a step of each method and of KD's, and their ratio, and keep them."""
    where, dataset = device.choose(), common.noise(4 * common.BATCH)
    teacher, _ = common.networks_of(pair, where)
    found: dict[str, dict[str, float]] = {}
    with common.tables(None):
        of_kd = Steps("kd", pair, dataset, teacher, where, precision=precision)
        for method in catalog.methods() if methods == "all" else methods.split(","):
            own = Steps(method, pair, dataset, teacher, where, precision=precision)
            for each in (own, of_kd):
                each.take(1)
            times = [(own.take(int(steps)), of_kd.take(int(steps))) for _ in range(int(repetitions))]
            found[method] = {
                "step_ms": round(1e3 * median(mine for mine, _ in times), 1),
                "kd_step_ms": round(1e3 * median(others for _, others in times), 1),
                "ratio": round(median(mine / others for mine, others in times), 3),
            }
    dtype = str(device.compute_dtype(precision, where)).removeprefix("torch.")
    print(f"{pair}, batch {common.BATCH}, {dtype}, {where}, {torch.get_num_threads()} threads\n")
    rows = [[name, *(f"{value:g}" for value in of.values())] for name, of in found.items()]
    common.show(["method", "step, ms", "KD's step, ms", "ratio"], rows)
    logit = [name for name in found if catalog.methods()[name].kind == "logit"]
    print(f"logit methods above {LIMIT}: {', '.join(n for n in logit if found[n]['ratio'] > LIMIT) or 'none'}")
    common.keep("steps", pair, dtype, where=where, content={"pair": pair, "batch": common.BATCH, "methods": found})


if __name__ == "__main__":
    main(*sys.argv[1:])
