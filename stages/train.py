"""Stages train and baseline: train one cell of the matrix."""

import os
from pathlib import Path

from kdcore.matrix.cards import card_path
from kdcore.matrix.cell import RUNS, STAGES
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown
from kdcore.training import experiment, torchrun
from stages import run


def main(stage: str, name: str) -> None:
    """Write the folder of one cell.

    Args:
        stage: "train" or "baseline".
        name: the cell's, as DVC names it behind "@".
    """
    if stage not in STAGES:
        raise UserError(f"STAGE {shown(stage)}: must be {' or '.join(STAGES)}, and NAME one of its cells")
    card_file = card_path(name, stage)
    if torchrun.processes() > 1 and not torchrun.is_joined():
        torchrun.start("stages.train", [stage, name], torchrun.processes())
    pair = yamlfile.read(card_file)["pair"]
    beside = [card_path(other, stage) for other in os.environ.get(experiment.BESIDE_VARIABLE, "").split()]
    weights = Path("pairs") / f"{pair}.safetensors"
    experiment.run(card_file, RUNS / pair / name, teacher_weights=weights, beside=beside)


if __name__ == "__main__":
    run(main)
