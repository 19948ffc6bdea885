"""Say below the tables under which regimes of training data rows were trained, and how a long tail's classes fare."""

from collections.abc import Iterator
from statistics import fmean

from kdcore.results.entry import Entry
from kdcore.results.rows import Results
from kdcore.results.shots import COUNTS, FEW, GROUPS, MANY, THIRDS

KINDS = {
    "symmetric": "a wrong label is any other class, each as likely",
    "pairflip": "a wrong label is the next class",
}
GROUPED = {
    COUNTS: f"classes with more than {MANY}, {FEW} to {MANY}, and fewer than {FEW} training images",
    THIRDS: "the third of the classes with most training images, the classes between, and the third with fewest",
}


def notes(results: Results) -> Iterator[str]:
    """List the notes of the tables; none where no cell has a regime of training data."""
    cells = [cell for evaluation in results.evaluations for cell in evaluation["cells"]]
    kinds = dict.fromkeys(cell["label_noise"].split()[0] for cell in cells if cell.get("label_noise"))
    if kinds:
        meaning = "; ".join(f"{kind}: {KINDS[kind]}" for kind in kinds)
        yield (
            f"Label noise: that share of the training images of each class has a wrong label ({meaning}), the same "
            "images for all rows of a rate; test and validation images have their own. Train accuracies are over the "
            "labels that were learnt."
        )
    for kind in dict.fromkeys(cell["grouped_by"] for cell in cells if cell.get("grouped_by")):
        yield f"Long tail: head / medium / tail are {GROUPED[kind]}; accuracies are means over their classes."
    for pair in results.card["pairs"]:
        lines = [
            f"{entry.row.label} {shown}" for entry in results.entries_of(pair) if (shown := _groups(results, entry))
        ]
        if lines:
            yield f"{pair}, long tail, head / medium / tail (%): {'; '.join(lines)}."


def _groups(results: Results, entry: Entry) -> str:
    """Write the accuracies of a row's groups of classes, means over its seeds: "80.12 / 60.10 / 21.50"; empty where
    they were not measured for all seeds, or there is no tail.
    """
    cells = [cell for cell in results.measured(entry) if cell.get("grouped_by")] if entry.row.method else []
    if not cells or entry.lacks or len(cells) < len(entry.values):
        return ""
    keys = [f"{name}_top1" for name in GROUPS]
    means = [fmean(values) if (values := [cell[key] for cell in cells if key in cell]) else None for key in keys]
    return " / ".join("–" if mean is None else f"{mean:.2f}" for mean in means)
