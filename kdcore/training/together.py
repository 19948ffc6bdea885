"""The cells of a pair and seed, trained in one process: they share batches and what the teacher says of them.

Their states are left as if each had been killed after its last epoch, so that DVC, which decides what is stale and
records what was made, finds nothing left to train.
"""

from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import nn

from kdcore import catalog, checkpoints
from kdcore.data import storage
from kdcore.matrix.cards import CARDS
from kdcore.matrix.cell import RUNS
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, named
from kdcore.system.files import read_json
from kdcore.system.signals import Interruption
from kdcore.training import device, experiment, loop, run_folder
from kdcore.training.device import compute_dtype
from kdcore.training.live import TrainingProgress
from kdcore.training.state import ResumeState

Card = dict[str, Any]


def train(pair: str, seed: int) -> list[str]:
    """Train the cells of a pair and seed that have no results of their present card.

    Args:
        pair: teacher-student; stages plan, data and pairs have run.
        seed: of the cells.

    Returns:
        Their names.

    Raises:
        UserError: the matrix holds no such cells, or an input is missing.
    """
    cards = {path: yamlfile.read(path) for path in sorted(CARDS.glob("[bt][ar]*/*.yaml"))}
    chosen = {path: card for path, card in cards.items() if (card.get("pair"), card["seed"]) == (pair, seed)}
    if not chosen:
        raise UserError(
            f"the matrix of params.yaml holds no cells of pair {named(pair)} with seed {seed}; see 'dvc repro plan'"
        )
    stale = {path: card for path, card in chosen.items() if not _is_done(card)}
    for _, group in groupby(sorted(stale, key=lambda path: _kind(stale[path])), key=lambda path: _kind(stale[path])):
        _train(pair, {path: stale[path] for path in group})
    return [card["name"] for card in stale.values()]


def _is_done(card: Card) -> bool:
    meta = RUNS / card["pair"] / card["name"] / run_folder.META
    return meta.is_file() and read_json(meta).items() >= card.items()


def _kind(card: Card) -> str:
    """Cells of one kind can be trained together, each as it would be alone."""
    terms = catalog.terms(card["method"])
    logits_alone = all(entry.kind == "logit" and len(entry.views) == 1 for entry in terms)
    changes_teacher = any(entry.name == "ofd" for entry in terms)
    settings = [card["train"].get(key) for key in ("epochs", "batch_size", "precision", "threads")]
    return str([logits_alone, changes_teacher, *settings])


def _train(pair: str, cards: dict[Path, Card]) -> None:
    first = next(iter(cards.values()))
    folder, weights = experiment.DATA / first["data"], Path("pairs") / f"{pair}.safetensors"
    device.use_threads(first["train"].get("threads"))
    dataset, where = storage.load(folder), device.choose()
    dtype = compute_dtype(first["train"]["precision"], where)
    name = pair.partition("-")[0]
    teacher = checkpoints.restore(name, len(dataset.classes), weights, where, stem=dataset.stem)
    interruption = Interruption()
    with ExitStack() as stack:
        progress = TrainingProgress(
            f"{len(cards)} cells of {pair}", first["train"]["epochs"], len(dataset.train.labels)
        )
        made: list[loop.Run] = []
        for path, card in cards.items():
            inputs = [path, folder / storage.MANIFEST, *([weights] if "teacher" in card else [])]
            state = ResumeState.of(*inputs, device=where, dtype=dtype)
            stack.enter_context(state.locked())
            watcher = None if made else progress.watcher
            taught = teacher if "teacher" in card else None
            made.append(loop.prepare(card, dataset, taught, device=where, checkpoint=state, watcher=watcher))
        stack.enter_context(progress)
        stack.enter_context(interruption.noted())
        for _, group in groupby(sorted(made, key=_behind), key=_behind):
            loop.train(list(group), teacher, dataset, interruption=interruption)


def _behind(run: loop.Run) -> tuple[int, int, int]:
    """Runs of one step go together; one with dropout goes alone, since it draws from torch's own generator."""
    draws = any(isinstance(module, nn.Dropout) for module in run.student.modules())
    return run.epoch, run.sums.steps, id(run) if draws else 0
