"""Write the results of a matrix: tables, plots for DVC, figures, a page.

The code that this module imports is what makes stage tables stale (see `kdcore.matrix.cards`).
"""

from pathlib import Path

from kdcore.results import dvc_plots, figures, tables
from kdcore.results.report import page
from kdcore.results.robustness import tables as robustness
from kdcore.results.rows import Results
from kdcore.system.files import whole


def write_results(results: Results, folder: Path) -> None:
    """Replace a folder by one with all parts; after an error, the old one is still there."""
    with whole(folder) as aside:
        for part in (tables, dvc_plots, figures, robustness, page):
            part.write(results, aside)
