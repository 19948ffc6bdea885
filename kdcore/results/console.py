"""Print what was measured of one checkpoint to a terminal."""

import pandas as pd
from rich.columns import Columns
from rich.console import Console
from rich.table import Table


def print_checkpoint(title: str, metrics: dict[str, float], by_class: pd.Series) -> None:
    """Print what `kdcore.results.evaluation.evaluate_checkpoint` returns."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in {
        "top-1": f"{metrics['top1']:.2f} %",
        "top-5": f"{metrics['top5']:.2f} %",
        "negative log-likelihood": f"{metrics['nll']:.4f} nats",
        "expected calibration error": f"{metrics['ece']:.2f} %",
        "test images": f"{metrics['test_images']:,}",
        "parameters": f"{metrics['parameters']:,}",
        "multiply-adds": f"{metrics['multiply_adds']:,} per image",
    }.items():
        table.add_row(name, text)
    console = Console()
    console.print(table)
    console.print("top-1 of the classes, lowest first (%):")
    console.print(Columns([f"{name} {top1:.1f}" for name, top1 in by_class.sort_values(kind="stable").items()]))
