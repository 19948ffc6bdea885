"""All that a matrix's results become: tables, plots for DVC, figures, a page."""

from pathlib import Path

from kdcore.results import dvc_plots, figures, tables
from kdcore.results.report import page
from kdcore.results.rows import Results


def write_results(results: Results, folder: Path) -> None:
    """Write it into an existing folder."""
    for part in (tables, dvc_plots, figures, page):
        part.write(results, folder)
