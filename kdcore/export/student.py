"""The trained student of a cell, with all that is known of it; a cell that is not trained, or is stale, is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.matrix import left_out, params, planned
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS, STAGES
from kdcore.matrix.code import Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.files import file_sha256
from kdcore.training import made_from, run_folder

if TYPE_CHECKING:
    from kdcore.data.dataset import Dataset
    from kdcore.networks.contract import Network

PAIRS = Path("pairs")
Card = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix whose results are whole, and of the card that the plan has now."""

    name: str
    card: Card
    folder: Path
    """Of its results."""
    meta: Card
    """The content of its meta.json: the card, and how it was computed."""

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder / run_folder.WEIGHTS

    @property
    def teacher(self) -> Path | None:
        """The file of its teacher's weights; None for a student that was trained alone."""
        return PAIRS / f"{self.card['pair']}.safetensors" if "teacher" in self.card else None

    def dataset(self) -> "Dataset":
        """Load its data set.

        Raises:
            UserError: it is not here, or damaged.
        """
        from kdcore.data import storage  # half a second

        return storage.load(made_from.DATA / self.card["data"])

    def network(self, dataset: "Dataset") -> "Network":
        """Make the network that is evaluated, with its weights and the end that its method gave it, on the CPU.

        Raises:
            UserError: the weights cannot be read.
        """
        import torch

        from kdcore import checkpoints

        restored = checkpoints.restore(
            self.card["student"],
            len(dataset.classes),
            self.weights,
            torch.device("cpu"),
            stem=dataset.stem,
            described=self.described,
        )
        return restored.to(memory_format=torch.contiguous_format)

    @property
    def described(self) -> Mapping[str, Any]:
        """The description of its student, where params.yaml names that network; else nothing."""
        student = self.card["student"]
        return {key: one for key, one in self.card.get("networks", {}).items() if key == student}


def find(name: str) -> Cell:
    """Find a trained cell of the matrix.

    Args:
        name: as DVC shows it behind "@", or with its stage: train@resnet20-resnet8-kd-1-False-base-0.

    Raises:
        UserError: there is no such cell, it is left out, not trained, damaged or stale.
    """
    stage, name = _known(name)
    card = yamlfile.read(CARDS / stage / f"{name}.yaml")
    if left_out.is_left_out(card):
        raise UserError(f"{name}: is left out of the matrix by params.yaml, so it is not trained; name another cell")
    folder = RUNS / card["pair"] / name
    if not (folder / run_folder.META).is_file():
        raise UserError(f"{name}: is not trained yet; run 'dvc repro {stage}@{name}', or a sweep")
    run_folder.check(folder, card)
    cell = Cell(name, card, folder, run_folder.read_meta(folder))
    if reason := _stale(cell, stage):
        raise UserError(
            f"{name}: is stale: {reason}; run 'dvc repro {stage}@{name}', or 'python -m stages.accept' after a change "
            "of code that alters no number"
        )
    return cell


def _known(given: str) -> tuple[str, str]:
    """Return stage and name of a cell."""
    known = {path.stem: stage for stage in STAGES for path in sorted((CARDS / stage).glob("*.yaml"))}
    if not known:
        raise UserError(
            f"{CARDS}/: holds no cards of cells; run 'dvc repro', which plans and trains those of params.yaml"
        )
    stage, at, name = given.rpartition("@")
    if name not in known or (at and known[name] != stage):
        raise UserError(
            f"{shown(given)}: is no cell of the matrix.{suggest(name, known)} The names of the {len(known)} cells are "
            f"those of the files in {CARDS}/train/ and {CARDS}/baseline/"
        )
    return known[name], name


def _stale(cell: Cell, stage: str) -> str:
    """Say why DVC would train a cell again, as far as can be told without asking it; empty where it would not."""
    card = cell.card
    now = Code(ROOT, card.get("networks", {})).training(
        card["student"], card.get("teacher"), card["method"], train=card["train"]
    )
    if changed := [key for key in now if card["code"].get(key) != now[key]]:
        return f"the code has changed since ({', '.join(changed)})"
    if changed_input := made_from.PresentInputs().changed(cell.meta):
        return changed_input
    expected = planned.cards(params.load("params.yaml"))
    if expected.get(f"{stage}/{cell.name}") != card:
        return "params.yaml says otherwise since"
    teacher = card["pair"].partition("-")[0]
    taught = made_from.TEACHERS / teacher
    if cell.teacher is None or not (taught / run_folder.META).is_file():
        return ""
    is_same = run_folder.is_of(run_folder.read_meta(taught), expected[f"teacher/{teacher}"])
    return "" if is_same else f"params.yaml says otherwise of its teacher {teacher} since"


def provenance(cell: Cell) -> Card:
    """Say what made a cell's student: the cell on its axes, data set, teacher, recipe, protocol, code and machine."""
    keys = ("pair", "method", "scale", "levels", "stand", "variant", "seed", "data", "validation", "recipe", "train")
    computed = ("code", "commit", "versions", "device", "threads", "computed_in", "accepted")
    known = {key: cell.meta[key] for key in (*keys, *computed) if key in cell.meta}
    teacher: Card | None = None
    if cell.teacher is not None:
        name = cell.card["pair"].partition("-")[0]
        sha256 = {"weights_sha256": file_sha256(cell.teacher)} if cell.teacher.is_file() else {}
        teacher = {"name": name, "network": cell.card["teacher"], **sha256}
    return {**known, "teacher": teacher, "weights_sha256": file_sha256(cell.weights)}
