"""Write the report of a matrix whose cells still train to scratch/report: python -m stages.report."""

from kdcore.matrix.card_files import card_path
from stages import run


def main() -> None:
    """Write scratch/report, and print what is done and what is not."""
    card_path("tables")
    from kdcore.results import partial  # imported late, because it takes seconds
    from kdcore.results.write import write_results

    halfway = partial.collect()
    write_results(halfway.results, partial.OUT)
    print(f"{halfway.done} of {halfway.cells} cells have a result")
    for unfinished in halfway.unfinished:
        print(f"unfinished: {unfinished}")
    print(f"see {partial.OUT}/report.html")


if __name__ == "__main__":
    run(main)
