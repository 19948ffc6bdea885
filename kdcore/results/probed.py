"""The results of linear probes: what tables and the page show of the networks of a matrix on other data sets.

A probe by one protocol on one target is a `Results` like that of the matrix itself, with the same rows, seeds and
gains, in which the accuracy of a network is that of the linear layer on its frozen features, after its last epoch.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcore.results import published
from kdcore.results.published import Published
from kdcore.results.row import Card
from kdcore.results.rows import METRICS, Evaluation, Results
from kdcore.system import validated, yamlfile
from kdcore.system.validated import Stored

FOLDER = "transfer"
"""The folder in evaluations/ that stage transfer fills: <target>/<pair>."""
UNLIKE = {
    "dcd": "in its code batch norms follow training mode and the best epoch counts; here they are fixed, and the last "
    "epoch counts"
}
"""Protocol -> what is otherwise here than in its published code."""
VIEWS = {
    "plain": "images as they are",
    "padded_crop": "padded crops, mirrored at random where flip is on",
    "resized_crop": "random resized crops, mirrored at random where flip is on",
}


class _Accuracies(Stored):
    top1: float
    top1_best: float


class _Cell(Stored):
    name: str
    probes: dict[str, _Accuracies]
    weights_sha256: str


class _Probed(Stored):
    """The keys of metrics.json that are read."""

    pair: str
    classes: int
    train_images: int
    test_images: int
    image_size: int
    teacher: dict[str, _Accuracies]
    cells: list[_Cell]


def with_probes(results: Results, folder: Path, *, partial: bool = False) -> Results:
    """Add the results of all probes that the card names.

    Args:
        results: of the matrix.
        folder: evaluations/.
        partial: whether pairs may be missing, which are not probed yet.

    Raises:
        UserError: the probes of a pair, or the published figures, are missing or damaged.
    """
    if "transfer" not in results.card:
        return results
    found, figures = {}, yamlfile.read(published.TRANSFER)
    for target, about in results.card["transfer"].items():
        files = {pair: folder / FOLDER / target / pair / METRICS for pair in results.card["pairs"]}
        there = {
            pair: validated.read_checked(file, _Probed) for pair, file in files.items() if file.is_file() or not partial
        }
        known = Published.of(figures, f"{results.card['data']}_to_{about['dataset']}", published.TRANSFER)
        for protocol in about["protocols"]:
            found[target, protocol] = _of_probes(results, about, there, protocol, known)
    return replace(results, transfer=found)


def _of_probes(
    results: Results, about: Card, there: dict[str, dict[str, Any]], protocol: str, figures: Published
) -> Results:
    card = {**results.card, "accuracy": "top1", "subset": results.card["subset"] or about.get("subset", False)}
    evaluations = [
        _probed(one, there[one["pair"]], protocol)
        for one in results.evaluations
        if protocol in there.get(one["pair"], {}).get("teacher", {})
    ]
    return Results.of(card, evaluations, {}, figures)


def _probed(evaluation: Evaluation, measured: dict[str, Any], protocol: str) -> Evaluation:
    """Return the evaluation of a pair with the accuracies of a probe. A cell that was trained anew since has none."""
    probes = {(cell["name"], cell["weights_sha256"]): cell["probes"].get(protocol) for cell in measured["cells"]}
    cells = []
    for cell in evaluation["cells"]:
        probe = probes.get((cell["name"], cell.get("weights_sha256")))
        if probe is not None:
            cells.append({**cell, **probe})
    sizes = {key: measured[key] for key in ("test_images", "image_size")}
    layer = {"classes": measured["classes"], "train_images": measured["train_images"], **sizes}
    teacher = {**evaluation["teacher"], "top1": measured["teacher"][protocol]["top1"]}
    return {**evaluation, "probe": layer, "teacher": teacher, "cells": cells}


def notes(results: Results) -> Iterator[str]:
    """Say of each target and protocol what was measured, and how."""
    for (target, protocol), one in results.transfer.items():
        settings = results.card["transfer"][target]["protocols"][protocol]
        sizes = next((evaluation["probe"] for evaluation in one.evaluations), None)
        images = "" if sizes is None else f" ({_sizes(sizes)})"
        unlike = f"; {UNLIKE[protocol]}" if protocol in UNLIKE else ""
        yield f"Transfer to {target}{images}, protocol {protocol}: {described(settings)}{unlike}."


def described(settings: Card) -> str:
    """Describe a protocol by the settings that a card holds."""
    drops = ", ".join(map(str, settings["milestones"]))
    momentum = f"{'Nesterov ' if settings['nesterov'] else ''}momentum {settings['momentum']:g}"
    by = {"network": "the images that the networks learnt from", "target": "the target's own training images"}
    normalised = by[settings["normalised_by"]] if "normalised_by" in settings else _by(settings)
    return (
        "a linear layer on the frozen features of networks in evaluation mode; "
        f"{settings['epochs']} epochs of SGD, learning rate {settings['lr']:g} times {settings['lr_decay']:g} after "
        f"epochs {drops}, {momentum}, weight decay {settings['weight_decay']:g}, batches of {settings['batch_size']}; "
        f"training on {VIEWS[settings['views']]}; normalised by {normalised}"
    )


def _sizes(probe: dict[str, int]) -> str:
    images = f"{probe['train_images']:,} training and {probe['test_images']:,} test images"
    return f"{probe['classes']} classes, {images}, seen at {probe['image_size']} x {probe['image_size']} pixels"


def _by(settings: Card) -> str:
    return f"mean {settings['mean']} and deviation {settings['std']}"


def title(target: str, protocol: str) -> str:
    """Name a probe's table."""
    return f"transfer to {target}, protocol {protocol}: top-1 (%) of linear probes on their features"
