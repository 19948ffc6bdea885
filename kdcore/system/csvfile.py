"""CSV files whose figures have the digits that their meaning deserves: 14.15, not 14.149999999999999."""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

GAINS = ("gain_over_plain", "gain_over_student", "gain_over_kd")
MARGINS = ("gain_margin", "gain_over_student_margin", "gain_over_kd_margin")
PERCENT = ("top1", "top5", "agreement", "ece", "deviation", "difference", *GAINS, *MARGINS, "published")
"""Columns in percent or percentage points, besides those that begin or end with top1."""
RATE = "lr"


def rounded(column: str, value: Any) -> Any:
    """Round a float as its column asks; return anything else unchanged.

    Percentages keep at most 4 decimals, other figures, such as losses, 6 significant digits. A learning rate keeps all
    digits that params.yaml can give it, and loses only the error of a product such as 0.05 * 0.1.
    """
    if not isinstance(value, float):
        return value
    if column in PERCENT or column.startswith("top1_") or column.endswith("_top1"):
        return round(value, 4)
    return float(f"{value:.{12 if column == RATE else 6}g}")


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, under the keys of the first one, rounded by `rounded`; NaN becomes an empty field."""
    file = StringIO()
    table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(
        {column: rounded(column, value) for column, value in row.items() if not _is_nan(value)} for row in rows
    )
    return file.getvalue()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def write(path: Path, frame: "pd.DataFrame") -> None:
    """Write a frame without its index, rounded by `rounded`."""
    columns = {str(name): [rounded(str(name), value) for value in column] for name, column in frame.items()}
    frame.assign(**columns).to_csv(path, index=False)
