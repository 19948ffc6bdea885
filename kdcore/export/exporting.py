"""Export the student of a cell: write it, check it on test images, put it in place with its model card."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdcore.data.feed import unaugmented
from kdcore.export import forms, model_card, student
from kdcore.export.about import FORMAT, About, preparation
from kdcore.export.student import Cell
from kdcore.export.tracing import Logits
from kdcore.matrix.cards import OUTPUTS
from kdcore.results.diagnostics.pair import looked_at
from kdcore.system.errors import UserError
from kdcore.system.files import sync
from kdcore.training.inference import top1

if TYPE_CHECKING:
    from kdcore.data.dataset import Dataset

FOLDER = Path("scratch/exports")
MOST = 2000
"""How many test images an export is checked on at most: the first ones of every class."""
TOLERANCE = 1e-3
"""How far a logit may lie from the network's, beside the largest logit, or beside 1 if that is less."""


@dataclass(frozen=True)
class Checked:
    """How an exported file compares with the network, on the same test images."""

    images: int
    of: int
    """How many test images there are."""
    difference: float
    """The largest difference of two logits."""
    others: int
    """How many images are given another class. Their two best logits lie closer together than twice `difference`."""
    top1: float
    """Accuracy of the file in percent."""

    def __str__(self) -> str:
        """Say it in one line."""
        some = f"{self.images}" if self.images == self.of else f"{self.images} of {self.of}"
        other = "none of another class" if not self.others else f"{self.others} ties of another class"
        return (
            f"{some} test images: top-1 {self.top1:.2f} %, {other}, largest difference of logits {self.difference:.1e}"
        )


def target(name: str, form: str, out: Path | None) -> Path:
    """Return the file that an export writes, after looking whether it can be.

    Args:
        name: of the cell.
        form: one of `kdcore.export.forms.SUFFIXES`.
        out: the file that is wanted; None takes one in `FOLDER`.

    Raises:
        UserError: its name ends otherwise than its form's, its folder is missing, or it is an output of the pipeline.
    """
    suffix = forms.SUFFIXES[form]
    if out is None:
        return FOLDER / f"{name.rpartition('@')[2]}{suffix}"
    if out.suffix != suffix:
        raise UserError(f"--out {out}: the name of a file of --to {form} ends in {suffix}; add it")
    if not os.path.isdir(out.parent):  # Path.is_dir() raises errors for names that are too long
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or name another file")
    if os.path.isdir(out):
        raise UserError(f"--out {out}: is a folder; name a file in it")
    real = Path(os.path.realpath(out))
    for output in OUTPUTS:
        if real.is_relative_to(os.path.realpath(output)):
            raise UserError(f"--out {out}: lies in {output}/, which the pipeline writes and removes; name another file")
    return out


def export(cell: Cell, form: str, out: Path) -> Checked:
    """Export a student.

    Args:
        cell: from `kdcore.export.student.find`.
        form: one of `kdcore.export.forms.SUFFIXES`.
        out: the file, from `target`; beside it the model card is written, as <file>.md. Both are whole or absent.

    Returns:
        How the file compares with the network.

    Raises:
        UserError: the data set or the weights cannot be read, the form cannot express the network, or the file computes
            something else than the network; nothing is written then.
    """
    dataset = cell.dataset()
    network = cell.network(dataset)
    about = describe(cell, dataset)
    if out.parent == FOLDER:
        out.parent.mkdir(parents=True, exist_ok=True)
    with _placed(out) as aside:
        forms.write(network, form, aside, about)
        checked = check(Logits(network), aside, dataset)
        card = model_card.text(cell, about, form, out)
        aside.with_name(f"{out.name}.md").write_text(card, encoding="utf-8")
    return checked


def describe(cell: Cell, dataset: "Dataset") -> About:
    """Make what the exported file of a cell says of itself."""
    return About(
        {
            "format": FORMAT,
            "cell": cell.name,
            "network": cell.card["student"],
            "stem": dataset.stem,
            "networks": dict(cell.described),
            "classes": list(dataset.classes),
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "image_size": dataset.image_size,
            "preparation": {**preparation(dataset).model_dump(), "text": preparation(dataset).text},
            "provenance": {**student.provenance(cell), "kdcore": version("kdcore")},
        }
    )


def check(network: Logits, file: Path, dataset: "Dataset") -> Checked:
    """Compare an exported file with the network that it was made from.

    Args:
        network: in evaluation mode, on the CPU.
        file: the exported one.
        dataset: the data set whose test images are used.

    Raises:
        UserError: a logit differs by more than `TOLERANCE`, or an image gets another class that is no tie.
    """
    everything = dataset.test.labels
    split = dataset.test.take(looked_at(everything, len(dataset.classes))[:MOST])
    labels = torch.from_numpy(split.labels)
    classify, _ = forms.read(file)
    own, exported = [], []
    with torch.no_grad():
        for batch in unaugmented(split, dataset, torch.device("cpu")):
            own.append(network(batch))
            exported.append(classify(batch))
    wanted, found = torch.cat(own), torch.cat(exported)
    difference = float((wanted - found).abs().max())
    differing = wanted.argmax(dim=1) != found.argmax(dim=1)
    ties = _margins(wanted) <= 2 * difference
    allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not difference <= allowed or bool((differing & ~ties).any()):
        raise UserError(
            f"{file.suffix[1:]}: the exported file computes something else than the network: a logit differs by "
            f"{difference:.1e} (at most {allowed:.1e} is allowed), and {int(differing.sum())} of {len(labels)} test "
            f"images get another class; export --to {forms.SAFETENSORS}, and report it"
        )
    return Checked(len(labels), len(everything), difference, int(differing.sum()), float(top1(found, labels)))


def _margins(logits: Tensor) -> Tensor:
    """By how much the best logit (N, C) of an image lies above the second best: (N,)."""
    best = logits.topk(min(2, logits.shape[1])).values
    return best[:, 0] - best[:, -1]


@contextmanager
def _placed(out: Path) -> Iterator[Path]:
    """A file to write, in a folder beside its place, where all files of that folder come when the block has ended."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / out.name
        files = sorted(folder.iterdir(), key=lambda file: file.name == out.name)  # the student last: it has a card then
        sync(*files)
        for file in files:
            file.replace(out.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def opened(given: str) -> tuple[forms.Classifier, About]:
    """Open what predicts: an exported file, or the student of a trained cell.

    Args:
        given: the path of a file, whose name ends as those of exported ones do; else the name of a cell.

    Raises:
        UserError: there is no such cell or file, or it cannot be read.
    """
    if given.endswith(tuple(forms.SUFFIXES.values())):
        return forms.read(Path(given))
    cell = student.find(given)
    dataset = cell.dataset()
    return forms.without_gradients(Logits(cell.network(dataset))), describe(cell, dataset)
