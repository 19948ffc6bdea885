"""Stage tables: the matrix in tables, figures, a page, and metrics and plots for DVC."""

from pathlib import Path

import pandas as pd

from kdcore import jsonfile, notes, plan, publication, published, yamlfile
from kdcore.folders import whole
from kdcore.results import Results
from stages import run

TEACHERS, META = Path("teachers"), "meta.json"


def main() -> None:
    """Write tables/."""
    card = yamlfile.read(plan.card_file("tables"))
    card["teachers"] = notes.origins(card, {name: jsonfile.read(TEACHERS / name / META) for name in card["teachers"]})
    folders = {pair: Path("evaluations") / pair for pair in card["pairs"]}
    evaluations = [jsonfile.read(folder / "metrics.json") for folder in folders.values()]
    histories = {pair: pd.read_csv(folder / "curves.csv") for pair, folder in folders.items()}
    figures = published.Published.of(yamlfile.read("data/published.yaml"), card["data"])
    results = Results.of(card, evaluations, histories, figures)
    with whole(Path("tables")) as out:
        publication.write(results, out)


if __name__ == "__main__":
    run(main)
