"""Stages train and baseline: train one cell of the matrix."""

import os
from pathlib import Path

from kdcore.matrix import left_out
from kdcore.matrix.card_files import card_path
from kdcore.matrix.cell import RUNS, STAGES
from kdcore.system import collector, yamlfile
from kdcore.system.errors import UserError, shown
from stages import run


def main(stage: str, name: str) -> None:
    """Write the folder of one cell, or the marker of one that is left out.

    Args:
        stage: "train" or "baseline".
        name: the cell's, as DVC names it behind "@".
    """
    if stage not in STAGES:
        raise UserError(f"STAGE {shown(stage)}: must be {' or '.join(STAGES)}, and NAME one of its cells")
    card_file = card_path(name, stage)
    card = yamlfile.read(card_file)
    pair, out = card["pair"], RUNS / card["pair"] / name
    if left_out.is_left_out(card):
        left_out.mark(out)
        return
    with collector.uncollected():  # torch takes seconds, and what is left out need not wait for it
        from kdcore.training import experiment, torchrun

    if torchrun.processes() > 1 and not torchrun.is_joined():
        torchrun.start("stages.train", [stage, name], torchrun.processes())
    beside = [card_path(other, stage) for other in os.environ.get(experiment.BESIDE_VARIABLE, "").split()]
    experiment.run(card_file, out, teacher_weights=Path("pairs") / f"{pair}.safetensors", beside=beside)


if __name__ == "__main__":
    run(main)
