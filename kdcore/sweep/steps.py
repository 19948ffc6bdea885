"""What kind of work a stage of the pipeline is, by its name and its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcore.matrix import left_out
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import STAGES, TRAININGS
from kdcore.matrix.robustness_section import CIFAR100_C
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import read_json
from kdcore.training import run_folder

HERE = ("plan", "data", "target", "pairs", "tables")
"""Stages that run in the sweep's folder: they read files outside DVC, or download."""


def card_of(step: str) -> dict[str, Any] | None:
    """Read the card of a cell's stage; None for other stages."""
    stage, _, name = step.partition("@")
    return yamlfile.read_written(CARDS / stage / f"{name}.yaml") if stage in STAGES else None


def is_left_out(step: str) -> bool:
    """Say whether a stage is that of a cell which the matrix leaves out."""
    card = card_of(step)
    return card is not None and left_out.is_left_out(card)


def is_here(step: str) -> bool:
    """Say whether a stage runs in the sweep's folder, and so takes no slot of a worker."""
    stage, _, name = step.partition("@")
    if stage == "teacher":
        card = CARDS / "teacher" / f"{name}.yaml"
        return not card.is_file() or yamlfile.read(card)["source"] != "train"
    return stage in HERE or (stage == "robustness" and name.endswith(f"-{CIFAR100_C}"))


def is_training(step: str) -> bool:
    """Say whether a stage trains a network: it then gives a sign of life with every epoch, and every few seconds."""
    return step.partition("@")[0] in TRAININGS and not is_here(step)


def remarks(step: str, log: Sequence[str]) -> list[str]:
    """Choose what a person should read of a stage that is done: all that it said of a data set or of a checkpoint, and
    the warnings of the others.

    Args:
        step: the stage's name.
        log: the last lines of its log.
    """
    is_about_inputs = step.partition("@")[0] in ("data", "target") or (step.startswith("teacher@") and is_here(step))
    return [line for line in log if line.strip() and (is_about_inputs or line.startswith("warning:"))]


def check_outputs(step: str, outputs: Sequence[str]) -> None:
    """Refuse outputs that are no valid results, though the exit code was 0.

    Args:
        step: the stage's name.
        outputs: the paths that it should have made.

    Raises:
        UserError: one is missing, damaged, or the result of another card.
    """
    stage, _, name = step.partition("@")
    for output in map(Path, outputs):
        if not output.exists():
            raise UserError(f"{output}: has not been made")
        for file in output.glob("*.json"):
            read_json(file)
        if stage in TRAININGS and not is_left_out(step):
            run_folder.check(output, yamlfile.read(CARDS / stage / f"{name}.yaml"))
