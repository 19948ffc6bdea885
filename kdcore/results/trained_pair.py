"""Restore the networks of a pair from its results: its teacher, and the student of every cell."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdcore import checkpoints
from kdcore.data.dataset import Dataset
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS, STAGES
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import run_folder

Card = dict[str, Any]


@dataclass(frozen=True)
class TrainedCell:
    """A cell with whole results, of the card that is planned."""

    identity: Card
    """Its entry in the card of the stage that measures it."""
    folder: Path
    meta: Card
    history: pd.DataFrame
    """One row per epoch."""

    @property
    def weights(self) -> Path:
        """The file of its student's weights."""
        return self.folder / run_folder.WEIGHTS


class TrainedPair:
    """The networks of a pair. Each is restored when it is asked for, frozen and in evaluation mode.

    Args:
        card: of a stage that measures a pair: the pair, its cells, and the share of the validation images if there are
            any.
        dataset: the data set that the networks were trained on.
        device: takes the networks.
    """

    def __init__(self, card: Card, dataset: Dataset, device: torch.device) -> None:
        self.card = card
        self.teacher_name, self.student_name = card["pair"].split("-")
        self.teacher_network: str = card.get("teacher", self.teacher_name)
        """The name of the teacher's network, where the teacher has one of its own."""
        self._restored = partial(
            checkpoints.restore,
            num_classes=len(dataset.classes),
            device=device,
            stem=dataset.stem,
            described=card.get("networks"),
        )

    def teacher(self, weights: Path) -> Network:
        """Restore the teacher; see `kdcore.checkpoints.load` for what is refused."""
        return self._restored(self.teacher_network, path=weights)

    def student(self, weights: Path) -> Network:
        """Restore a student, in the same way."""
        return self._restored(self.student_name, path=weights)

    def cells(self) -> Iterator[TrainedCell]:
        """Yield the cells in the order of the card.

        Raises:
            UserError: a cell has no whole results, or they are of another card than the plan has now.
        """
        validation = {"validation": self.card["validation"]} if "validation" in self.card else {}
        for identity in self.card["cells"]:
            folder = RUNS / self.card["pair"] / identity["name"]
            meta, history = run_folder.read(folder, {**identity, **validation})
            check_card(folder, meta)
            yield TrainedCell(identity, folder, meta, history)


def check_card(folder: Path, meta: Card) -> None:
    """Refuse a cell that was made from another card than the plan has now, which DVC may not have noticed.

    Args:
        folder: of its results.
        meta: the content of its meta.json.

    Raises:
        UserError: names it and what to do.
    """
    for stage in STAGES:
        file = CARDS / stage / f"{folder.name}.yaml"
        if file.is_file() and not run_folder.is_of(meta, yamlfile.read(file)):
            raise UserError(
                f"{folder}: was made from another card than {file}, perhaps while the matrix was changed; run "
                f"'dvc repro -f {stage}@{folder.name}'"
            )
