"""How sure the rows of a matrix are, as far as the number of test images goes: for matrices of few seeds.

An interval over test images says where the accuracy of these very networks may lie on other images of the same kind.
What other seeds would give, it does not say; only other seeds do.

Run: python -m benchmarks.image_intervals [PROJECT [PICTURE [EARLIER]]]. PROJECT is a folder in which a matrix of one
pair was run, PICTURE a file for a picture of the accuracies, such as docs/images/cifar100.png. EARLIER is what this
command kept of other cells of the same matrix, whose networks may be gone: it keeps which images each is right about.
"""

import base64
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

from benchmarks import common
from kdcore import catalog, checkpoints
from kdcore.data import storage
from kdcore.data.dataset import Dataset
from kdcore.results import drawing
from kdcore.results.row import Row, by_size
from kdcore.results.significance import ALPHA
from kdcore.system.errors import UserError
from kdcore.training import device
from kdcore.training.inference import predict
from kdcore.training.run_folder import WEIGHTS

Right = np.ndarray
"""(N,) float64: 1 where a network is right about a test image, else 0."""
Seeds = dict[str, Right]
"""The networks of a row, by seed."""
OF_CELL = ("method", "variant", "change", "seed", "scale", "stand", "weights_sha256")
"""Columns of tables/cells.csv that are kept beside what a network is right about."""
ROUNDED = 5e-3
"""Percentage points by which accuracies that were written into a table may differ from the same ones."""
PER_CENT = 100
OVER = ("over_student", "over_plain")
"""Keys of a row's gains."""


def margin(values: np.ndarray) -> float:
    """Half the confidence interval of a mean over N images, in percentage points; of the difference of two networks,
    whose values are -1, 0 and 1, it is that of McNemar's test.
    """
    return float(norm.ppf(1 - ALPHA / 2) * values.std() / len(values) ** 0.5) * PER_CENT


def compared(row: Seeds, other: Seeds) -> dict[str, float] | None:
    """The mean of a row less that of another on the same images, and half its confidence interval.

    Only seeds that both have count; None where there are none.
    """
    both = [seed for seed in row if seed in other]
    if not both:
        return None
    difference = np.mean([row[seed] - other[seed] for seed in both], axis=0)
    gain, half = round(float(difference.mean()) * PER_CENT, 2), round(margin(difference), 2)
    return {"gain": gain, "margin": half, "seeds": len(both)}


def packed(right: Right) -> str:
    """Write a network's column as text: a bit per image."""
    return base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode()


def unpacked(text: str, images: int) -> Right:
    """Read what `packed` wrote."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=images)
    return bits.astype(np.float64)


def earlier(file: Path, pair: str, data: str, images: int) -> dict[str, dict[str, Any]]:
    """The cells that another run of this command kept.

    Raises:
        UserError: they are of another pair or other images, or were kept before cells were.
    """
    kept = json.loads(file.read_text())
    if "cells" not in kept:
        raise UserError(f"{file}: has no cells, only rows; name a file that this command writes now")
    if (kept["pair"], kept["data"], kept["images"]) != (pair, data, images):
        raise UserError(f"{file}: is of {kept['pair']} on {kept['images']} images of {kept['data']}")
    return kept["cells"]


def row_of(cell: dict[str, Any]) -> Row:
    """The row of a cell, given its line of tables/cells.csv as text."""
    of_variant = Row(cell["method"], variant=cell["variant"], change=cell["change"])
    if not cell["scale"]:
        return of_variant
    scale = cell["scale"]
    return replace(of_variant, scale=int(scale) if scale.isdigit() else scale, stand=cell["stand"] == "True")


def right(project: Path, cell: dict[str, Any], dataset: Dataset, where: torch.device) -> Right:
    """Which test images the network of a cell is right about, 0 or 1.

    Raises:
        UserError: it is not the network whose accuracy the table has.
    """
    weights = project / "runs" / cell["pair"] / cell["name"] / WEIGHTS
    network = checkpoints.restore(cell["student"], len(dataset.classes), weights, where, stem=dataset.stem)
    predicted = predict(network, dataset.test, dataset, where).argmax(dim=1).cpu().numpy()
    found = (predicted == dataset.test.labels).astype(np.float64)
    if abs(found.mean() * PER_CENT - float(cell["top1"])) > ROUNDED:
        raise UserError(f"{weights}: has {found.mean():.2%}, but the table {cell['top1']}%; run the matrix there again")
    return found


def ordered(rows: dict[Row, Seeds]) -> dict[Row, Seeds]:
    """The student alone first, then the rows of each method, those without stand first, by M."""
    methods = list(dict.fromkeys(row.method for row in rows))

    def place(row: Row) -> tuple[Any, ...]:
        size = () if row.scale is None else by_size(row.scale)
        return row.method != catalog.VANILLA, methods.index(row.method), bool(row.stand), size

    return {row: rows[row] for row in sorted(rows, key=place)}


def measured(rows: dict[Row, Seeds]) -> list[dict[str, Any]]:
    """Accuracy of every row, and its gains over the student alone and over the plain row of its method."""
    student = next((row for row in rows if row.method == catalog.VANILLA), None)
    found = []
    for row, seeds in rows.items():
        mean = np.mean(list(seeds.values()), axis=0)
        line = {"row": row.label, "seeds": len(seeds), "top1": round(float(mean.mean()) * PER_CENT, 2)}
        line |= {"margin": round(margin(mean), 2)}
        for of, other in zip(OVER, (student, replace(row, scale=1, stand=False)), strict=True):
            if other in rows and other != row and (gain := compared(seeds, rows[other])):
                line[of] = gain
        found.append(line)
    return found


@mpl.rc_context(drawing.STYLE)
def draw(lines: dict[Row, dict[str, Any]], epochs: list[dict[str, str]]) -> Figure:
    """Draw accuracy over epochs, and beside it that of the last epoch with its interval over test images.

    Args:
        lines: what `measured` says of each row.
        epochs: the lines of tables/curves.csv.
    """
    figure = Figure(figsize=(drawing.TEXT, 2.3))
    curves, last = figure.subplots(1, 2)
    for i, (row, line) in enumerate(lines.items()):
        look = drawing.look(row.label, i - 1, i - 1)
        colour = drawing.ALONE if row.method == catalog.VANILLA else look.colour
        points = [(int(point["epoch"]), float(point["test_top1"])) for point in epochs if point["row"] == row.label]
        epoch, top1 = zip(*points, strict=True) if points else ((), ())
        curves.plot(epoch, top1, color=colour, linestyle="--" if row.stand else "-", linewidth=0.8)
        face = "white" if row.stand else colour
        last.errorbar(line["top1"], -i, xerr=line["margin"], fmt=look.marker, color=colour, mfc=face)
    curves.set(xlabel="Epoch", ylabel="Test accuracy (%)", xlim=(0, None))
    last.set_yticks([-i for i in range(len(lines))], [row.label for row in lines])
    last.tick_params(axis="y", length=0)
    last.set(xlabel=f"Last epoch (%), {1 - ALPHA:.0%} interval over test images")
    return figure


def table(file: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def main(project: str = ".", picture: str | None = None, kept: str | None = None) -> None:
    """Print accuracies and gains with their intervals, keep them, and draw them."""
    folder, where = Path(project), device.choose()
    table_of_cells = table(folder / "tables/cells.csv")
    pairs = sorted({cell["pair"] for cell in table_of_cells})
    if len(pairs) != 1:
        raise UserError(f"{folder}: has the pairs {', '.join(pairs)}; one is expected")
    (data,) = (file.stem for file in (folder / "tables").glob("*.md"))
    dataset = storage.load(folder / "data" / data)
    images = len(dataset.test.labels)
    cells = earlier(Path(kept), pairs[0], data, images) if kept else {}
    for cell in table_of_cells:
        text = packed(right(folder, cell, dataset, where))
        cells[cell["name"]] = {column: cell[column] for column in OF_CELL} | {"right": text}
    rows: dict[Row, Seeds] = {}
    for cell in cells.values():
        rows.setdefault(row_of(cell), {})[cell["seed"]] = unpacked(cell["right"], images)
    rows = ordered(rows)
    lines = measured(rows)
    shown = [
        [line["row"], str(line["seeds"]), f"{line['top1']:.2f} ± {line['margin']:.2f}"]
        + [f"{gain['gain']:+.2f} ± {gain['margin']:.2f}" if (gain := line.get(of)) else "" for of in OVER]
        for line in lines
    ]
    print(f"{pairs[0]} on {data}, {images} test images; ± half the {1 - ALPHA:.0%} interval\n")
    common.show(["", "seeds", "top-1, %", "over the student", "over the plain row"], shown)
    content = {"pair": pairs[0], "data": data, "images": images, "rows": lines, "cells": cells}
    common.keep("image-intervals", pairs[0], data, where=where, content=content)
    if picture is not None:
        figure = draw(dict(zip(rows, lines, strict=True)), table(folder / "tables/curves.csv"))
        figure.savefig(picture, dpi=drawing.DPI)


if __name__ == "__main__":
    main(*sys.argv[1:])
