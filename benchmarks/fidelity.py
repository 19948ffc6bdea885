"""Whether the fast path learns as the plain one does: accuracy of the same cells, KD with M=[1,2], over seeds.

- plain: float32, the teacher as it is, no tables.
- fast: bfloat16, the teacher folded, its logits through a table.

Both see the same images in the same order and begin with the same weights. On the digits, cells and teacher are of
params.yaml; on CIFAR-100 the cells are of the preset cifar100-quick, with a teacher from a checkpoint.

Rounding parts two runs of one seed within a few epochs, so that they end as far apart as two seeds do. What would tell
is a mean difference beyond that noise; three seeds leave it much room.

Run: python -m benchmarks.fidelity [SEEDS [SOURCE CHECKPOINT [PAIR [EPOCHS]]]]

Of CIFAR-100, SOURCE is what data.source of params.yaml may be, and CHECKPOINT a file of the teacher's weights.
"""

import sys
import tempfile
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast
from unittest import mock

import torch

from benchmarks import common
from kdcore import checkpoints
from kdcore.data import sources
from kdcore.data.dataset import Dataset, Split, first_of_each_class
from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.matrix.params import Params
from kdcore.matrix.train_section import TrainSettings, stretched
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.training import device, loop, teacher_outputs

PATHS = {"plain": "float32", "fast": "bfloat16"}
DIGITS = "resnet20-resnet8"
QUICK = "presets/cifar100-quick.yaml"
TEST_PER_CLASS = 50
"""Of CIFAR-100's test images: float32 takes longer over all of them than over an epoch."""
Card = dict[str, Any]


def digits(seeds: list[int]) -> Params:
    """The matrix of the default run, as far as it is needed."""
    teacher = DIGITS.partition("-")[0]
    return _matrix("params.yaml", DIGITS, seeds, {teacher: yamlfile.read("params.yaml")["teachers"][teacher]})


def cifar100(seeds: list[int], source: str, checkpoint: str, pair: str) -> Params:
    """That of the quick preset, with data set and teacher from here."""
    data = {**yamlfile.read(QUICK)["data"], "source": source}
    return _matrix(QUICK, pair, seeds, {pair.partition("-")[0]: {"source": checkpoint}}, data=data)


def _matrix(file: str, pair: str, seeds: list[int], teachers: dict[str, Any], **changes: Any) -> Params:
    axes: dict[str, Any] = {"pairs": [pair], "methods": ["kd"], "scales": [2], "stand": [False], "seeds": seeds}
    return params.load(file, teachers=teachers, **axes, **changes)


def teacher_of(card: Card, dataset: Dataset, where: torch.device) -> Network:
    """Trained now, or from the checkpoint that its card names."""
    if card["source"] == "train":
        run = loop.prepare(card, dataset, None, device=where)
        loop.train(run, None, dataset)
        return run.student.eval()
    return checkpoints.restore(card["student"], len(dataset.classes), Path(card["source"]), where)


def shorter(card: Card, epochs: int) -> Card:
    """The card of a cell, with another number of epochs."""
    settings = stretched(TrainSettings.model_validate(card["train"]), epochs, "EPOCHS")
    return {**card, "train": {**card["train"], **settings.model_dump(include={"epochs", "milestones"})}}


def top1(card: Card, path: str, dataset: Dataset, teacher: Network, where: torch.device) -> float:
    """Accuracy in percent after the last epoch of a cell."""
    card = {**card, "train": {**card["train"], "precision": PATHS[path]}}
    run = loop.prepare(card, dataset, teacher, device=where)
    if path == "plain":
        with common.tables(None), mock.patch.object(teacher_outputs, "folded", lambda network, _image_size: network):
            loop.train(run, teacher, dataset)
    else:
        with tempfile.TemporaryDirectory() as folder, common.tables(Path(folder)):
            loop.train(run, teacher, dataset)
    return run.history[-1]["test_top1"]


def main(
    seeds: str = "3",
    source: str = "embedded",
    checkpoint: str = "",
    pair: str = "resnet56-resnet8",
    epochs: str = "3",
) -> None:
    """Print the accuracies, their difference and the noise of seeds, and keep them."""
    where, drawn = device.choose(), list(range(int(seeds)))
    matrix = digits(drawn) if source == "embedded" else cifar100(drawn, source, checkpoint, pair)
    cards = make_cards(
        matrix,
        published_recipes=yamlfile.read("data/recipes.yaml"),
        known_teachers=yamlfile.read("data/teachers.yaml"),
    )
    cells = [cards[f"{cell.stage}/{cell.name}"] for cell in matrix.cells() if cell.method == "kd"]
    dataset = sources.fetch_once(matrix.data.model_dump())
    if source != "embedded":
        cells = [shorter(card, int(epochs)) for card in cells]
        dataset = replace(dataset, test=first_of_each_class(cast(Split, dataset.test), TEST_PER_CLASS))
    teacher = teacher_of(cards[f"teacher/{cells[0]['teacher']}"], dataset, where)
    found: dict[str, list[float]] = {path: [] for path in PATHS}
    for card in cells:
        for path, accuracies in found.items():
            accuracies.append(top1(card, path, dataset, teacher, where))
    report(cells[0], found, [len(dataset.train.labels), len(dataset.test.labels)], where)


def report(card: Card, found: dict[str, list[float]], images: list[int], where: torch.device) -> None:
    """Print and keep the accuracies of each path, seed by seed."""
    count = len(found["plain"])
    found = {**found, "fast - plain": [fast - plain for plain, fast in zip(*found.values(), strict=True)]}
    means, deviations = ({name: of(values) for name, values in found.items()} for of in (mean, stdev))
    error = deviations["fast - plain"] / sqrt(count)
    noise = sqrt((deviations["plain"] ** 2 + deviations["fast"] ** 2) / count)
    print(
        f"{card['pair']} on {card['data']}, KD, M=[1,2], {where}, {card['train']['epochs']} epochs of {images[0]} "
        f"images, top-1 (%) on {images[1]}\n"
    )
    rows = [
        [name, *(f"{value:.2f}" for value in values), f"{means[name]:.2f} ± {deviations[name]:.2f}"]
        for name, values in found.items()
    ]
    common.show(["", *(f"seed {seed}" for seed in range(count)), "mean ± deviation"], rows)
    print(
        f"fast - plain: {means['fast - plain']:+.2f}, standard error {error:.2f}; of means of other seeds {noise:.2f}"
    )
    content = {
        "pair": card["pair"],
        "data": card["data"],
        "dtypes": PATHS,
        "epochs": card["train"]["epochs"],
        "images": images,
        "top1": {name: [round(value, 3) for value in values] for name, values in found.items()},
        "mean": {name: round(value, 3) for name, value in means.items()},
        "deviation": {name: round(value, 3) for name, value in deviations.items()},
        "standard_error": {"paired": round(error, 3), "other seeds": round(noise, 3)},
    }
    common.keep("fidelity", card["pair"], card["data"], where=where, content=content)


if __name__ == "__main__":
    main(*sys.argv[1:])
