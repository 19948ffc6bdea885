"""Stage tables: the matrix in tables, figures, a page, and metrics and plots for DVC."""

from pathlib import Path

from kdcore import notes, plan, publication, published, results, runs, yamlfile
from kdcore.folders import whole
from stages import run


def main() -> None:
    """Write tables/."""
    card = yamlfile.read(plan.card_file("tables"))
    card["teachers"] = notes.origins(
        card, {name: runs.read_teacher(Path("teachers") / name) for name in card["teachers"]}
    )
    folders = {pair: Path("evaluations") / pair for pair in card["pairs"]}
    evaluations = [results.read_evaluation(folder) for folder in folders.values()]
    histories = {
        pair: results.read_curves(folder, evaluation)
        for (pair, folder), evaluation in zip(folders.items(), evaluations, strict=True)
    }
    figures = published.Published.of(yamlfile.read(published.FILE), card["data"])
    found = results.Results.of(card, evaluations, histories, figures)
    with whole(Path("tables")) as out:
        publication.write(found, out)


if __name__ == "__main__":
    run(main)
