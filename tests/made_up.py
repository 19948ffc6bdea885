"""Made-up results of a matrix of 252 cells, in the form that stage tables reads."""

from functools import cache

import numpy as np
import pandas as pd

from kdcore.catalog import levels
from kdcore.matrix.fingerprint import ROOT
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


def matrix(*, pairs=PAIRS, seeds=(0, 1, 2), baselines=("vanilla",), missing=(), gain=1.0, data="cifar100", seed=0):
    """Make up 7 pairs x 2 methods x 3 scales x 2 stand x 3 seeds = 252 cells, and the students alone.

    Args:
        pairs: names of pairs, teacher-student.
        seeds: the seeds of every row.
        baselines: methods without scales and stand.
        missing: names of cells without a result.
        gain: how many percentage points each scale above M=[1], and stand, add to the accuracy.
        data: name of the data set; it decides which published figures are shown.
        seed: seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    evaluations, histories = [], {}
    for pair in pairs:
        base = random.uniform(68, 76)
        kinds = [("kd", scale, stand) for scale in (1, 2, 4) for stand in (False, True)]
        kinds += [("dkd", scale, stand) for scale in (1, 2, 4) for stand in (False, True)]
        kinds += [(baseline, None, None) for baseline in baselines]
        cells = [_cell(random, pair, kind, seed, base=base, gain=gain) for kind in kinds for seed in seeds]
        cells = [cell for cell in cells if cell["name"] not in missing]
        histories[pair] = pd.concat([_history(random, cell) for cell in cells], ignore_index=True)
        evaluations.append({
            "pair": pair, "train_images": 50_000, "classes": 100, "cells": cells,
            "teacher": {**_metrics(random, base + 4), "parameters": 861_620, "multiply_adds": 125_490_000},
            "student": {"parameters": 278_324, "multiply_adds": 40_810_000},
        })  # fmt: skip
    return Results.of(_card(pairs, seeds, baselines, data), evaluations, histories, _published(data))


def timing(name, **values):
    """Make up the training time of a cell: an hour, unless `values` say otherwise."""
    made = {"card": "0" * 64, "student": "resnet20", "method": "kd", "epochs": EPOCHS, "images_per_second": 1000.0,
            "seconds": 3600.0, "bytes": 1, "device": "cpu: made up", "threads": 2,
            "finished": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return Timing(name, **{**made, **values})


def _card(pairs, seeds, baselines, data):
    names = [f"{pair}-{method}-{scale}-{stand}-{seed}" for pair in pairs for method in ("kd", "dkd")
             for scale in (1, 2, 4) for stand in (False, True) for seed in seeds]  # fmt: skip
    names += [f"{pair}-{baseline}-{seed}" for pair in pairs for baseline in baselines for seed in seeds]
    return {
        "data": data, "pairs": list(pairs), "methods": ["kd", "dkd"], "scales": [1, 2, 4], "stand": [False, True],
        "baselines": list(baselines), "seeds": list(seeds), "stand_recipe": "paper", "accuracy": "top1",
        "epochs": EPOCHS, "optimizer": "sgd", "exceptions": [], "subset": False,
        "teachers": {pair.split("-")[0]: "published checkpoint" for pair in pairs},
        "recipes": {name: {"ce_weight": [0.1, "mdistiller"], "temperature": [4.0, "mdistiller"]} for name in names},
    }  # fmt: skip


def _cell(random, pair, kind, seed, *, base, gain):
    method, scale, stand = kind
    top1 = base + random.normal(0, 0.3)
    identity = {"name": "-".join(map(str, (pair, method, seed))), "pair": pair, "method": method, "seed": seed}
    if scale is not None:
        top1 += gain * ((scale > 1) + stand)
        identity |= {"name": f"{pair}-{method}-{scale}-{stand}-{seed}", "scale": scale}
        identity |= {"levels": list(levels(scale)), "stand": stand, "student": pair.split("-")[1]}
    return {
        **identity, **_metrics(random, top1), "top1_best": round(top1 + 0.2, 4),
        "recipe": {"ce_weight": 0.1, "temperature": 4.0}, "commit": "0123456789ab", "device": "cpu: made up",
        "computed_in": "float32", "threads": 2, "processes": 1, "versions": {"python": "3.11", "torch": "2.15"},
        "epochs": EPOCHS, "weights_sha256": "0" * 64,
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
    epochs = np.arange(1, EPOCHS + 1)
    top1 = cell["top1"] * (1 - np.exp(-epochs / 5)) + random.normal(0, 0.2, EPOCHS)
    top1[-1] = cell["top1"]
    frame = {"cell": cell["name"], "epoch": epochs, "lr": 0.05 * 0.1 ** (epochs > 15), "loss": 4 / epochs,
             "ce": 3 / epochs, "train_top1": top1 + 5, "test_top1": top1}  # fmt: skip
    if cell["method"] != "vanilla":
        frame[cell["method"]] = 2 / epochs
    return pd.DataFrame(frame)


@cache
def _published(data):
    return Published.of(yamlfile.read(ROOT / "data/published.yaml"), data)
