"""Stage evaluate: measure the teacher and all cells of one pair."""

from pathlib import Path

from kdcore import device, evaluation, jsonfile, plan, yamlfile
from kdcore.data import store
from kdcore.experiment import DATA
from kdcore.folders import whole
from stages import run


def main(pair: str) -> None:
    """Write evaluations/<pair>."""
    card = yamlfile.read(plan.FOLDER / "evaluate" / f"{pair}.yaml")
    dataset = store.load(DATA / card["data"])
    weights = Path("pairs") / f"{pair}.safetensors"
    summary, curves = evaluation.evaluate_pair(card, dataset, weights, device.choose())
    with whole(Path("evaluations") / pair) as folder:
        jsonfile.write(folder / "metrics.json", summary)
        curves.to_csv(folder / "curves.csv", index=False)


if __name__ == "__main__":
    run(main)
