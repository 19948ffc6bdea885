"""The report of what is there now, while cells still train, into scratch/report: python -m stages.report."""

from kdcore.matrix.cards import card_path
from kdcore.system.files import whole
from stages import run


def main() -> None:
    """Write scratch/report, and print what is done and what is not."""
    card_path("tables")
    from kdcore.results import partial
    from kdcore.results.write import write_results  # seconds to import, for which a missing plan need not wait

    found = partial.collect()
    with whole(partial.OUT) as folder:
        write_results(found.results, folder)
    print(f"{found.done} of {found.cells} cells have a result")
    for unfinished in found.unfinished:
        print(f"unfinished: {unfinished}")
    print(f"see {partial.OUT}/report.html")


if __name__ == "__main__":
    run(main)
