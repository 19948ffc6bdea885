"""One card, carried out: the network trained and its results written. Teachers, baselines and students alike."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kdcore import checkpoints
from kdcore.data import storage
from kdcore.data.dataset import Dataset
from kdcore.matrix.train_section import TrainSettings
from kdcore.system import yamlfile
from kdcore.system.signals import Interrupted, Interruption
from kdcore.training import collapse, device, loop, provenance, run_folder, timings, torchrun
from kdcore.training.device import compute_dtype
from kdcore.training.live import TrainingProgress
from kdcore.training.state import ResumeState

DATA = Path("data")


def run(card_file: Path, out: Path, *, teacher_weights: Path | None = None) -> None:
    """Train what a card says, continuing an interrupted run, and write the results as a whole.

    Under torchrun the processes train it together and the first one writes.

    Args:
        card_file: the card of a teacher to train, a baseline or a cell.
        out: the folder of the results.
        teacher_weights: the teacher's weights, where the card names a teacher.

    Raises:
        UserError: an input file is missing or damaged, or the cell cannot be shared among processes.
        NotFiniteError: a loss or a weight was not finite.
        Interrupted: by a signal; in several processes it ends them at once, and they go on from the last epoch.
    """
    with ExitStack() as stack:
        world = stack.enter_context(torchrun.joined())
        card = yamlfile.read(card_file)
        if world.size > 1:
            torchrun.check_divisible(card)
        settings = TrainSettings.model_validate(card["train"])
        device.use_threads(settings.threads)
        dataset, where = storage.load(DATA / card["data"]), device.choose()
        inputs, teacher = [card_file, DATA / card["data"] / storage.MANIFEST], None
        if teacher_weights is not None and card.get("teacher"):
            inputs.append(teacher_weights)
            classes = len(dataset.classes)
            teacher = checkpoints.restore(card["teacher"], classes, teacher_weights, where, stem=dataset.stem)
        dtype = compute_dtype(settings.precision, where)
        state = ResumeState.of(*inputs, device=where, dtype=dtype, processes=world.size)
        if world.leads:
            stack.enter_context(state.locked())
        progress = TrainingProgress(card["name"], settings.epochs, len(dataset.train.labels), shown=world.leads)
        interruption = Interruption()
        with progress, interruption.noted(unless=world.size > 1):
            student = loop.prepare(
                card,
                dataset,
                teacher,
                device=where,
                checkpoint=state,
                callbacks=progress.callbacks,
                world=world,
            )
            progress.follow(student.history, student.sums.images)
            for _ in loop.steps(student, teacher, dataset):
                leave_if_asked(student, interruption)
        if world.leads:
            _finish(student, card_file, card, out, progress)
            state.remove()
            _warn_of_collapse(student, dataset)


def leave_if_asked(run: loop.Run, interruption: Interruption) -> None:
    """Where a signal asks for it: save what the last epoch's end has not saved, and end the run.

    Raises:
        Interrupted: a signal has come; the message says where the run goes on.
    """
    if interruption.signal is None:
        return
    where = f"the end of epoch {run.epoch - 1}"
    if run.sums.steps:
        where = f"epoch {run.epoch}, step {run.sums.steps} of {run.steps_per_epoch}"
        run.save()
    said = f"interrupted ({interruption.signal.name}), saved at {where}; run it again to go on from there"
    raise Interrupted(interruption.signal, f"{run.name}: {said}")


def _finish(run: loop.Run, card_file: Path, card: dict[str, Any], out: Path, progress: TrainingProgress) -> None:
    """Write the results and the log of timings, and remove the live files."""
    made = {"computed_in": str(run.dtype).removeprefix("torch."), "processes": run.world.size}
    meta = {**card, **provenance.describe(run.device), **made}
    run_folder.write(out, run.student, run.history, meta, adapters=run.objective)
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


def _warn_of_collapse(run: loop.Run, dataset: Dataset) -> None:
    reason = collapse.reason(run.predicted, [row["train_top1"] for row in run.history], dataset.train.labels)
    if reason:
        print(f"warning: {run.name}: collapsed: {reason}; {collapse.ADVICE}", file=sys.stderr)
