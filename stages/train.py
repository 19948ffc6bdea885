"""Stages train and baseline: train one cell of the matrix."""

from pathlib import Path

from kdcore import distributed, experiment, plan, yamlfile
from kdcore.cell import RUNS
from stages import run


def main(stage: str, name: str) -> None:
    """Write the folder of one cell.

    Args:
        stage: "train" or "baseline".
        name: the cell's, as DVC names it behind "@".
    """
    if distributed.processes() > 1 and not distributed.is_joined():
        distributed.start("stages.train", [stage, name], distributed.processes())
    card_file = plan.FOLDER / stage / f"{name}.yaml"
    pair = yamlfile.read(card_file)["pair"]
    experiment.run(card_file, RUNS / pair / name, teacher_weights=Path("pairs") / f"{pair}.safetensors")


if __name__ == "__main__":
    run(main)
