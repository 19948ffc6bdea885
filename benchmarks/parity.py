"""Accuracies of published trainers beside ours, on the same images with the same settings.

Run: python -m benchmarks.parity [PROJECT] compares, in a project where presets/cifar100-parity.yaml was run; and
python -m benchmarks.parity PROJECT CHECKOUT SEED trains one more seed of theirs, on the images and with the teacher of
that project. What it prints last goes into benchmarks/parity.yaml. A checkout is fetched outside the project (see
`benchmarks.checkout`).
"""

import io
import random
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_ind

from benchmarks import common
from benchmarks.checkout import Checkout
from kdcore import checkpoints
from kdcore.data import storage
from kdcore.data.dataset import Split
from kdcore.matrix import params
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import device, loop

THEIRS = Path(__file__).with_name("parity.yaml")
TEACHER, STUDENT = "resnet56", "resnet20"
PAIR = f"{TEACHER}-{STUDENT}"
LEVEL = 0.05
"""Below this p the means differ by more than chance."""


def ours(project: Path, cell: dict[str, Any]) -> list[float]:
    """Top-1 accuracies of a row of a project's table, in the order of seeds.

    Args:
        project: its folder.
        cell: the row's scale and stand.

    Raises:
        UserError: the table has no such row, or only one seed of it.
    """
    file = project / "tables/cells.csv"
    if not file.is_file():
        raise UserError(f"{file}: is missing; run presets/cifar100-parity.yaml there")
    cells = pd.read_csv(file)
    is_row = (cells["pair"] == PAIR) & (cells["method"] == "kd")
    is_row &= (cells["scale"].astype(str) == str(cell["scale"])) & (cells["stand"].astype(str) == str(cell["stand"]))
    found = cells[is_row].sort_values("seed")["top1"].tolist()
    if len(found) < 2:
        raise UserError(f"{file}: has {len(found)} cells of kd with {cell}; at least two seeds are needed")
    return found


def compared(theirs: list[float], of_ours: list[float]) -> dict[str, Any]:
    """Means, standard deviations, and Welch's test of the difference of the means, with its 95% interval."""
    test = ttest_ind(of_ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {
        "theirs": theirs,
        "ours": of_ours,
        "difference": round(mean(of_ours) - mean(theirs), 2),
        "interval": [round(float(low), 2), round(float(high), 2)],
        "p": round(float(test.pvalue), 3),
    }


def show(results: dict[str, dict[str, Any]], published: dict[str, Any]) -> None:
    """Print the comparison as a table with a verdict."""
    rows = []
    for name, result in results.items():
        sides = [
            f"{mean(result[side]):.2f} ± {stdev(result[side]):.2f} ({len(result[side])})" for side in ("theirs", "ours")
        ]
        low, high = result["interval"]
        verdict = "no difference found" if result["p"] >= LEVEL else "they differ"
        moved = f"{result['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        rows.append([f"{name}: {published[name]['method']}", *sides, moved, f"{result['p']:.2f}", verdict])
    common.show(["", "theirs (seeds)", "ours (seeds)", "difference (95%)", "p", "verdict"], rows)


def train_theirs(project: Path, folder: Path, seed: int) -> list[float]:
    """Train and test a student by a published trainer, with the settings of the preset.

    Args:
        project: its data set, teacher and `params.yaml` are used.
        folder: of the checkout.
        seed: of weights, order and crops.

    Returns:
        Top-1 accuracies (%) on the test images, epoch by epoch.
    """
    checkout, where = Checkout(folder), device.choose()
    cell = yamlfile.read(THEIRS)[checkout.repository]["cell"]
    train = params.load(project / "params.yaml").train
    dataset = storage.load(project / "data/cifar100")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - transforms of that code draw from it
    torch.manual_seed(seed)
    regions = cell["scale"] > 1
    teacher, student = (checkout.network(name, 100, regions=regions).to(where) for name in (TEACHER, STUDENT))
    ready: Network = loop.create(TEACHER, 100, 0, where)
    checkpoints.load(project / f"pairs/{PAIR}.safetensors", ready)
    teacher.load_state_dict(ready.state_dict())
    settings = {
        "SOLVER__BATCH_SIZE": train.batch_size,
        "SOLVER__EPOCHS": train.epochs,
        "SOLVER__LR": train.lr,
        "SOLVER__LR_DECAY_STAGES": list(train.milestones or []),
        "SOLVER__LR_DECAY_RATE": train.lr_decay,
        "SOLVER__WEIGHT_DECAY": train.weight_decay,
        **({"EXPERIMENT__LOGIT_STAND": True} if cell["stand"] else {}),
    }
    distiller = checkout.distiller("SDD_KD" if regions else "KD", student, teacher, regions=regions, **settings)
    reached: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        with redirect_stdout(io.StringIO()):
            running = checkout.trainer(distiller, _split(dataset.train), _split(dataset.test), Path(out))
        log = running.log

        def heard(rate: float, epoch: int, found: dict[str, Any]) -> None:
            reached.append(round(float(found["test_acc"]), 2))
            log(rate, epoch, found)

        running.log = heard
        for epoch in range(1, train.epochs + 1):
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                running.train_epoch(epoch)
            print(f"epoch {epoch}: {reached[-1]:.2f}", flush=True)
    return reached


def _split(images: Any) -> Split:
    if not isinstance(images, Split):
        raise UserError("published trainers read CIFAR-100 as arrays; this data set is stored otherwise")
    return images


def main(project: str = ".", checkout: str = "", seed: str = "0") -> None:
    """Compare, or train one seed of a published trainer."""
    if checkout:
        train_theirs(Path(project), Path(checkout), int(seed))
        return
    published = yamlfile.read(THEIRS)
    results = {name: compared(of["top1"], ours(Path(project), of["cell"])) for name, of in published.items()}
    show(results, published)
    common.keep("parity", PAIR, where=device.choose(), content={"compared": results})


if __name__ == "__main__":
    main(*sys.argv[1:])
