"""What `dvc plots` draws, as frames: few columns, whose names do not depend on the matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdcore.results.rows import Entry, Evaluation, Results


def write(results: Results, folder: Path) -> None:
    """Write all of them into a folder."""
    for name, frame in {"top1": top1(results), "curves": curves(results), "reliability": reliability(results)}.items():
        frame.to_csv(folder / f"{name}.csv", index=False)


def top1(results: Results) -> pd.DataFrame:
    """Accuracy per pair and row that has all its seeds: mean and sample standard deviation over them, in percent."""
    lines = [
        (entry.pair, entry.row.label, round(entry.mean, 2), None if deviation is None else round(deviation, 2))
        for entry in results.entries
        if entry.mean is not None
        for deviation in [entry.deviation]
    ]
    return pd.DataFrame(lines, columns=["pair", "row", "top1", "deviation"])


def curves(results: Results) -> pd.DataFrame:
    """Test accuracy per pair, row and epoch, mean over the seeds that have come so far, in percent."""
    labels = {cell: entry.row.label for entry in results.entries for cell in results.cells_of(entry)}
    parts = [pd.DataFrame(columns=["pair", "row", "epoch", "test_top1"])]
    for pair, history in results.histories.items():
        labelled = history.assign(pair=pair, row=history["cell"].map(labels))
        mean = labelled.groupby(["pair", "row", "epoch"], sort=False)["test_top1"].mean().round(2)
        parts.append(mean.reset_index())
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def reliability(results: Results) -> pd.DataFrame:
    """Reliability diagrams: per pair, row and bin, mean confidence and accuracy (0 to 1) and the count of test images.

    Images of all seeds are pooled. Empty bins are left out, and so are rows that miss a seed, or one's evaluation.
    """
    parts = [pd.DataFrame(columns=["pair", "row", "confidence", "accuracy", "count"])]
    by_pair = {evaluation["pair"]: evaluation for evaluation in results.evaluations}
    for entry in results.entries:
        networks = [] if entry.missing else _measured(entry, by_pair[entry.pair])
        if networks and all("reliability" in network for network in networks):
            bins = pooled(networks).round({"confidence": 4, "accuracy": 4})
            parts.append(bins.assign(pair=entry.pair, row=entry.row.label)[parts[0].columns])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def pooled(networks: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Reliability bins of some networks' images together: confidence, accuracy, count of each that is not empty."""
    bins = pd.concat([pd.DataFrame(network["reliability"]) for network in networks]).astype(float)
    count = bins["count"]
    sums = bins.assign(confidence=bins["confidence"] * count, accuracy=bins["accuracy"] * count)
    sums = sums.groupby(level=0).sum()
    sums = sums[sums["count"] > 0]
    means = sums[["confidence", "accuracy"]].div(sums["count"], axis=0)
    return means.assign(count=sums["count"].astype(int))


def _measured(entry: Entry, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The networks of a row: one per seed, or the teacher."""
    if entry.row.method is None:
        return [evaluation["teacher"]]
    return [cell for cell in evaluation["cells"] if entry.row.holds(cell)]
