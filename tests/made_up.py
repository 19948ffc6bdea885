"""Made-up results of a matrix of 252 cells, in the form that stage tables reads."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from kdcore.catalog import levels
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.recipes import overridden
from kdcore.matrix.variants import Variant
from kdcore.results.published import Published
from kdcore.results.rows import Results
from kdcore.system import yamlfile
from kdcore.training.timings import Timing

PAIRS = [
    "resnet56-resnet20", "resnet110-resnet32", "resnet32x4-resnet8x4", "wrn_40_2-wrn_16_2", "vgg13-vgg8",
    "resnet32x4-shufflenetv2", "wrn_40_2-mobilenetv2",
]  # fmt: skip
EPOCHS = 24
BINS = 15


def matrix(*, pairs=PAIRS, seeds=(0, 1, 2), baselines=("vanilla",), missing=(), gain=1.0, data="cifar100", seed=0,
           variants=None, excluded=(), settings=None, methods=("kd", "dkd"), scales=(1, 2, 4)):  # fmt: skip
    """Make up 7 pairs x 2 methods x 3 scales x 2 stand x 3 seeds = 252 cells, and the students alone.

    Args:
        pairs: names of pairs, teacher-student.
        seeds: the seeds of every row.
        baselines: methods without scales and stand.
        missing: names of cells without a result.
        gain: how many percentage points each scale above M=[1], and stand, add to the accuracy.
        data: name of the data set; it decides which published figures are shown.
        seed: seed of the random numbers.
        variants: section `variants` of params.yaml, besides base.
        excluded: names of cells that params.yaml excludes.
        settings: what section train says where variants say something else.
        methods: logit methods and sums, each with all scales, without stand and with it.
        scales: the scales of each.
    """
    random = np.random.default_rng(seed)
    named = {name: Variant.model_validate(content) for name, content in {"base": {}, **(variants or {})}.items()}
    points = _points(pairs, seeds, named, logit=product(methods, scales, (False, True)), baselines=baselines)
    declared = [cell for cell in points
                if cell.variant == "base" or _is_changed(cell, named[cell.variant])]  # fmt: skip
    trained = [cell for cell in declared if cell.name not in excluded]
    evaluations, histories = [], {}
    for pair in pairs:
        base = random.uniform(68, 76)
        cells = [_cell(random, cell, named[cell.variant], base=base, gain=gain)
                 for cell in trained if cell.pair == pair]  # fmt: skip
        cells = [cell for cell in cells if cell["name"] not in missing]
        histories[pair] = pd.concat([_history(random, cell) for cell in cells], ignore_index=True)
        evaluations.append({
            "pair": pair, "train_images": 50_000, "classes": 100, "cells": cells,
            "teacher": {**_metrics(random, base + 4), "parameters": 861_620, "multiply_adds": 125_490_000},
            "student": {"parameters": 278_324, "multiply_adds": 40_810_000},
        })  # fmt: skip
    card = _card(pairs, seeds, baselines, data) | {
        "methods": list(methods),
        "scales": list(scales),
        "variants": {name: variant.model_dump(exclude_none=True) for name, variant in named.items()},
        "recipes": {cell.name: _recipe(cell, named[cell.variant]) for cell in trained},
        "excluded": [cell.name for cell in declared if cell.name in excluded],
        **({"settings": settings} if settings else {}),
    }
    return Results.of(card, evaluations, histories, _published(data))


def diagnosed(results, *, classes=100, layers=(5, 5), images=2000):
    """Add made-up diagnostics of all pairs, and costs of all cells, as stage diagnose would write them."""
    random = np.random.default_rng(1)
    diagnoses = {
        evaluation["pair"]: _diagnosis(random, evaluation, classes, layers, images)
        for evaluation in results.evaluations
    }
    return replace(results, card={**results.card, "diagnostics": list(diagnoses)}, diagnoses=diagnoses)


def grid(**values):
    """Make up variants of KD: one per two values of two parameters, besides temperature 4 with weight 2, the base."""
    (one, several), (other, more) = values.items()
    return {
        f"t{x:g}_w{y:g}".replace(".", "_"): {"kd": {one: x, other: y}}
        for x in several for y in more if (x, y) != (4, 2)
    }  # fmt: skip


def timing(name, **values):
    """Make up the training time of a cell: an hour, unless `values` say otherwise."""
    made = {"card": "0" * 64, "student": "resnet20", "method": "kd", "epochs": EPOCHS, "images_per_second": 1000.0,
            "seconds": 3600.0, "bytes": 1, "device": "cpu: made up", "threads": 2,
            "finished": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return Timing(name, **{**made, **values})


def _points(pairs, seeds, variants, *, logit, baselines):
    rows = list(logit)
    for pair in pairs:
        for (method, scale, stand), name, seed in product(rows, variants, seeds):
            yield Cell(pair, method, seed, scale, stand, variant=name)
        for baseline, name, seed in product(baselines, variants, seeds):
            yield Cell(pair, baseline, seed, variant=name)


def _is_changed(cell, variant):
    """Whether a variant is for a cell, and changes something there; all of its settings of training count."""
    return variant.is_for(cell) and bool(variant.train or overridden(cell, variant.recipes))


def _recipe(cell, variant):
    """Make up a recipe as the card of stage tables has it."""
    values = {"ce_weight": 0.1, "temperature": 4.0}
    values |= {"complementary_weight": 2.0} if (cell.scale or 1) != 1 else {}
    recipe = {key: [value, "mdistiller"] for key, value in values.items()}
    changes = overridden(cell, variant.recipes) if variant.recipes else {}
    return recipe | {key: [value, f"params.yaml, variant {cell.variant}"] for key, value in changes.items()}


def _card(pairs, seeds, baselines, data):
    return {
        "data": data, "pairs": list(pairs), "stand": [False, True], "baselines": list(baselines),
        "seeds": list(seeds), "stand_recipe": "paper", "accuracy": "top1",
        "epochs": EPOCHS, "optimizer": "sgd", "exceptions": [], "subset": False,
        "teachers": {pair.split("-")[0]: "published checkpoint" for pair in pairs},
    }  # fmt: skip


def _cell(random, cell, variant, *, base, gain):
    top1 = base + random.normal(0, 0.3)
    identity = {"name": cell.name, "pair": cell.pair, "method": cell.method, "variant": cell.variant, "seed": cell.seed}
    if cell.scale is not None:
        top1 += gain * ((cell.scale > 1) + cell.stand)
        identity |= {"scale": cell.scale, "levels": list(levels(cell.scale)), "stand": cell.stand}
        identity |= {"student": cell.student}
    recipe = {key: value for key, (value, _) in _recipe(cell, variant).items()}
    if variant.recipes:
        top1 -= abs(np.log2(recipe["temperature"] / 4)) + 0.3 * abs(recipe.get("complementary_weight", 2) - 2)
    return {
        **identity, **_metrics(random, top1), "top1_best": round(top1 + 0.2, 4),
        "recipe": recipe, "commit": "0123456789ab", "device": "cpu: made up",
        "computed_in": "float32", "threads": 2, "processes": 1, "versions": {"python": "3.11", "torch": "2.15"},
        "epochs": variant.train.get("epochs", EPOCHS), "weights_sha256": "0" * 64,
    }  # fmt: skip


def _diagnosis(random, evaluation, classes, layers, images):
    labels = [label for label in range(7) for _ in range(20)]
    levels = {level for cell in evaluation["cells"] for level in cell.get("levels", [])}
    bins = random.multinomial(images, np.arange(1, 11) / 55)
    cells = []
    for cell in evaluation["cells"]:
        own = cell.get("levels", [1])
        cells.append({
            "name": cell["name"], "seed": cell["seed"], "weights_sha256": cell["weights_sha256"],
            **_network(random, classes, images, own if max(own) > 1 else [], has_picture=cell["seed"] == 0),
            "correlation_mean": 0.15, "correlation_max": 1.1,
            "correlation_blocks": random.uniform(0, 1, (16, 16)).round(3).tolist(),
            "agreement": random.binomial(bins, 0.8).tolist(),
            "cka": random.uniform(0, 1, layers).round(4).tolist(), "adapters": 0,
        })  # fmt: skip
    steps = {cell["name"]: {"device": "cuda: made up", "threads": 2, "memory": 3 * 10**9,
                            "step_milliseconds": 10.0 + 5 * (max(cell.get("levels", [0])) > 1)}
             for cell in evaluation["cells"]}  # fmt: skip
    return {
        "pair": evaluation["pair"], "images": images, "class_images": [images // classes] * classes,
        "confidence_images": bins.tolist(),
        "picture": {"classes": [f"class {label}" for label in range(7)], "labels": labels},
        "teacher": _network(random, classes, images, sorted(levels), has_picture=True), "cells": cells,
        "cost": {"device": "cuda: made up", "threads": 2, "trainings": steps,
                 "images_per_second": {"teacher": {"1": 300.0, "250": 20_000.0},
                                       "student": {"1": 500.0, "250": 50_000.0}}},
    }  # fmt: skip


def _network(random, classes, images, levels, *, has_picture):
    each = images // classes
    regions = {str(level): random.multinomial(images * level**2, [0.5, 0.1, 0.1, 0.3]).tolist() for level in levels}
    picture = {"picture": random.uniform(0, 1, (140, 2)).round(3).tolist()} if has_picture else {}
    return {
        "logit_mean": 0.1, "logit_deviation": 2.5, "logits": random.uniform(0, 3, (2, 100)).round(2).tolist(),
        "class_right": random.binomial(each, 0.7, classes).tolist(), **({"regions": regions} if levels else {}),
        **picture,
    }  # fmt: skip


def _metrics(random, top1):
    confidence = (np.arange(BINS) + 0.5) / BINS
    count = random.integers(1, 2000, BINS)
    return {
        "top1": round(top1, 4), "top5": round(top1 + 15, 4), "nll": 1.1, "ece": round(random.uniform(2, 9), 4),
        "agreement": round(top1 + 6, 4),
        "reliability": {"count": count.tolist(), "confidence": confidence.round(4).tolist(),
                        "accuracy": (confidence * 0.95).round(4).tolist()},
    }  # fmt: skip


def _history(random, cell):
    epochs = np.arange(1, cell["epochs"] + 1)
    top1 = cell["top1"] * (1 - np.exp(-epochs / 5)) + random.normal(0, 0.2, cell["epochs"])
    top1[-1] = cell["top1"]
    frame = {"cell": cell["name"], "epoch": epochs, "lr": 0.05 * 0.1 ** (epochs > 15), "loss": 4 / epochs,
             "ce": 3 / epochs, "train_top1": top1 + 5, "test_top1": top1}  # fmt: skip
    if cell["method"] != "vanilla":
        frame[cell["method"]] = 2 / epochs
    return pd.DataFrame(frame)


@cache
def _published(data):
    return Published.of(yamlfile.read(ROOT / "data/published.yaml"), data)
