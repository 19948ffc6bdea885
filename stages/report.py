"""The report of what is there now, while cells still train, into scratch/report: python -m stages.report."""

from kdcore import plan
from kdcore.folders import whole
from stages import run


def main() -> None:
    """Write scratch/report, and print what is done and what is not."""
    plan.card_file("tables")
    from kdcore import halfway, publication  # seconds to import, for which a missing plan need not wait

    found = halfway.collect()
    with whole(halfway.OUT) as folder:
        publication.write(found.results, folder)
    print(f"{found.done} of {found.cells} cells have a result")
    for unfinished in found.unfinished:
        print(f"unfinished: {unfinished}")
    print(f"see {halfway.OUT}/report.html")


if __name__ == "__main__":
    run(main)
