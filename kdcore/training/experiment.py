"""One card, carried out: the network trained and its results written. Teachers, baselines and students alike."""

import sys
from contextlib import nullcontext
from pathlib import Path

from kdcore import checkpoints
from kdcore.data import storage
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.system.signals import Interruption
from kdcore.training import collapse, device, distributed, loop, provenance, run_folder, timings
from kdcore.training.device import compute_dtype
from kdcore.training.distributed import World
from kdcore.training.live import TrainingProgress
from kdcore.training.state import ResumeState

DATA = Path("data")


def run(card_file: Path, out: Path, *, teacher_weights: Path | None = None) -> None:
    """Train what a card says, continuing an interrupted run, and write the results as a whole.

    Under torchrun the processes train it together and the first one writes.

    Args:
        card_file: of a teacher to train, a baseline or a cell.
        out: the run's folder.
        teacher_weights: where the card names a teacher.

    Raises:
        UserError: an input file is missing or damaged, or the cell cannot be shared among processes.
        NotFiniteError: a loss or a weight was not finite.
        Interrupted: by a signal; in several processes it ends them at once, and they go on from the last epoch.
    """
    with distributed.joined() as world:
        _run(card_file, out, teacher_weights, world)


def _run(card_file: Path, out: Path, teacher_weights: Path | None, world: World) -> None:
    card = yamlfile.read(card_file)
    device.use_threads(card["train"].get("threads"))
    dataset = storage.load(DATA / card["data"])
    where = device.choose()
    inputs = [card_file, DATA / card["data"] / storage.MANIFEST]
    teacher: Network | None = None
    if teacher_weights is not None and card.get("teacher"):
        inputs.append(teacher_weights)
        classes = len(dataset.classes)
        teacher = checkpoints.restore(card["teacher"], classes, teacher_weights, where, stem=dataset.stem)
    dtype = compute_dtype(card["train"]["precision"], where)
    state, interruption = ResumeState.of(*inputs, device=where, dtype=dtype, processes=world.size), Interruption()
    with state.locked() if world.leads else nullcontext():
        with (
            TrainingProgress(
                card["name"], card["train"]["epochs"], len(dataset.train.labels), shown=world.leads
            ) as progress,
            interruption.noted() if world.size == 1 else nullcontext(),
        ):
            run = loop.prepare(
                card, dataset, teacher, device=where, checkpoint=state, watcher=progress.watcher, world=world
            )
            progress.follow(run.history, run.sums.images)
            loop.train([run], teacher, dataset, interruption=interruption)
        if world.leads:
            made = {"computed_in": str(dtype).removeprefix("torch."), "processes": world.size}
            meta = {**card, **provenance.describe(where), **made}
            run_folder.write(out, run.student, run.history, meta, adapters=run.goal)
            if progress.trained:
                timings.record(
                    card_file,
                    out,
                    meta,
                    epochs=progress.trained,
                    seconds=progress.seconds,
                    images_per_second=progress.images_per_second,
                )
            progress.forget()
            state.remove()
            reason = collapse.reason(run.predicted, [row["train_top1"] for row in run.history], dataset.train.labels)
            if reason:
                print(f"warning: {card['name']}: collapsed: {reason}; {collapse.ADVICE}", file=sys.stderr)
