"""All that a matrix's results become: tables, plots for DVC, figures, a page."""

from pathlib import Path

from kdcore import figures, plots, report, tables
from kdcore.results import Results


def write(results: Results, folder: Path) -> None:
    """Write it into an existing folder."""
    for part in (tables, plots, figures, report):
        part.write(results, folder)
