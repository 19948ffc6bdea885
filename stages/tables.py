"""Stage tables: show the matrix in tables, figures, a page, and metrics and plots for DVC."""

from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.matrix.code import refuse_other_code
from kdcore.matrix.fingerprint import fingerprint
from kdcore.results import captions, probed, published
from kdcore.results.diagnostics import stored
from kdcore.results.robustness import tables as robustness
from kdcore.results.rows import Results, read_curves, read_evaluation
from kdcore.results.write import write_results
from kdcore.system import yamlfile
from kdcore.training import run_folder
from stages import run


def main() -> None:
    """Write tables/."""
    card_file = card_path("tables")
    card = yamlfile.read(card_file)
    refuse_other_code(card, card_file, {"publication": fingerprint("kdcore.results.write", everything=True)})
    teachers = {name: run_folder.read_teacher(Path("teachers") / name) for name in card["teachers"]}
    card = captions.with_teachers(card, teachers)
    folders = {pair: Path("evaluations") / pair for pair in card["pairs"]}
    evaluations = [read_evaluation(folder) for folder in folders.values()]
    histories = {
        pair: read_curves(folder, evaluation)
        for (pair, folder), evaluation in zip(folders.items(), evaluations, strict=True)
    }
    figures = published.Published.of(yamlfile.read(published.FILE), card["data"])
    results = Results.of(
        card, evaluations, histories, figures, robustness=robustness.read_all(card), diagnoses=stored.read_all(card)
    )
    results = probed.with_probes(results, Path("evaluations"))
    write_results(results, Path("tables"))


if __name__ == "__main__":
    run(main)
