"""Data for `dvc plots`: frames with few columns, whose names do not depend on the matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdcore.results.rows import Results
from kdcore.system import csvfile


def write(results: Results, folder: Path) -> None:
    """Write every frame into a folder."""
    for name, frame in {"top1": top1(results), "curves": curves(results), "reliability": reliability(results)}.items():
        csvfile.write(folder / f"{name}.csv", frame)


def top1(results: Results) -> pd.DataFrame:
    """Return mean and sample standard deviation over seeds, in percent, per pair and row that has all its seeds."""
    lines = [
        # Python's round, as in all tables: NumPy's differs where a figure ends in 5.
        (entry.pair, entry.row.label, round(mean, 2), entry.deviation and round(entry.deviation, 2))
        for entry in results.entries
        if (mean := entry.mean) is not None
    ]
    return pd.DataFrame(lines, columns=["pair", "row", "top1", "deviation"])


def curves(results: Results) -> pd.DataFrame:
    """Return test accuracy per pair, row and epoch in percent, mean over the seeds that there are so far; epochs after
    which one of the seeds was not measured are left out.
    """
    labels = {cell: entry.row.label for entry in results.entries for cell in results.cells_of(entry)}
    parts = [pd.DataFrame(columns=["pair", "row", "epoch", "test_top1"])]
    for pair, history in results.histories.items():
        labelled = history.assign(pair=pair, row=history["cell"].map(labels))
        seeds = labelled.groupby(["pair", "row", "epoch"], sort=False)["test_top1"]
        are_measured = seeds.count() == seeds.size()
        parts.append(seeds.mean()[are_measured].round(2).reset_index())
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def reliability(results: Results) -> pd.DataFrame:
    """Return reliability diagrams: per pair, row and bin, mean confidence, accuracy (0 to 1) and count of test images.

    Images of all seeds are pooled. Empty bins are left out, and so are rows with a seed that is missing or unmeasured.
    """
    parts = [pd.DataFrame(columns=["pair", "row", "confidence", "accuracy", "count"])]
    for entry in results.entries:
        networks = [] if entry.lacks else results.measured(entry)
        if networks and all("reliability" in network for network in networks):
            bins = pooled(networks).round({"confidence": 4, "accuracy": 4})
            parts.append(bins.assign(pair=entry.pair, row=entry.row.label)[parts[0].columns])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def pooled(networks: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Pool the reliability bins of some networks: confidence, accuracy and count of each bin that is not empty."""
    bins = pd.concat([pd.DataFrame(network["reliability"]) for network in networks]).astype(float)
    count = bins["count"]
    sums = bins.assign(confidence=bins["confidence"] * count, accuracy=bins["accuracy"] * count)
    sums = sums.groupby(level=0).sum()
    sums = sums[sums["count"] > 0]
    means = sums[["confidence", "accuracy"]].div(sums["count"], axis=0)
    return means.assign(count=sums["count"].astype(int))
