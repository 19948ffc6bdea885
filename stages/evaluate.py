"""Stage evaluate: measure the teacher and all cells of one pair."""

from pathlib import Path

from kdcore import jsonfile, plan, yamlfile
from kdcore.folders import whole
from stages import run


def main(pair: str) -> None:
    """Write evaluations/<pair>."""
    card = yamlfile.read(plan.card_file(pair, "evaluate"))
    from kdcore import device, evaluation  # seconds to import, for which a wrong name need not wait
    from kdcore.data import store
    from kdcore.experiment import DATA

    device.use_threads(card.get("threads"))
    dataset = store.load(DATA / card["data"])
    weights = Path("pairs") / f"{pair}.safetensors"
    summary, curves = evaluation.evaluate_pair(card, dataset, weights, device.choose())
    with whole(Path("evaluations") / pair) as folder:
        jsonfile.write(folder / "metrics.json", summary)
        curves.to_csv(folder / "curves.csv", index=False)


if __name__ == "__main__":
    run(main)
