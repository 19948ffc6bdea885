"""Stage evaluate: measure the teacher and all cells of one pair."""

from pathlib import Path

from kdcore.matrix.card_files import card_path
from kdcore.matrix.code import refuse_other_code
from kdcore.system import collector, csvfile, yamlfile
from kdcore.system.files import whole, write_json
from stages import run


def main(pair: str) -> None:
    """Write evaluations/<pair>."""
    card_file = card_path(pair, "evaluate")
    card = yamlfile.read(card_file)
    with collector.uncollected():  # takes seconds
        from kdcore.data import storage
        from kdcore.results import evaluation
        from kdcore.training import device
        from kdcore.training.experiment import DATA

    refuse_other_code(card, card_file, {"evaluation": evaluation.LOADED})
    device.use_threads(card.get("threads"))
    dataset = storage.load(DATA / card["data"])
    weights = Path("pairs") / f"{pair}.safetensors"
    summary, curves = evaluation.evaluate_pair(card, dataset, weights, device.choose())
    with whole(Path("evaluations") / pair) as folder:
        write_json(folder / "metrics.json", summary)
        csvfile.write(folder / "curves.csv", curves)


if __name__ == "__main__":
    run(main)
