"""Carrying out a card: train the network and write its results; the same for teachers, baselines and students."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdcore import checkpoints
from kdcore.data import regimes, storage
from kdcore.data.dataset import Dataset
from kdcore.matrix import side_by_side
from kdcore.matrix.code import Code, check_code
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.train_card import measured_on
from kdcore.matrix.train_section import TrainSettings
from kdcore.networks import regions
from kdcore.networks.contract import Network
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.system.signals import Interrupted, Interruption
from kdcore.system.workspace import MANIFEST
from kdcore.training import (
    collapse,
    compiler,
    device,
    lockstep,
    loggers,
    loop,
    made_from,
    provenance,
    run_folder,
    timings,
    torchrun,
)
from kdcore.training.distributed import World
from kdcore.training.live import TrainingProgress
from kdcore.training.made_from import DATA
from kdcore.training.state import BusyError, ResumeState, capture, restore

LOADED = Code(ROOT).shared()
"""The fingerprints of the code of all cells that this process has loaded."""
IMAGES = {"val": "validation", "test": "test"}
"""What the images are called that a run is measured on."""
BESIDE_VARIABLE = "KDCORE_BESIDE"
"""Names, with spaces between them, of cells that a sweep has trained side by side with the one that it starts."""


def run(
    card_file: Path,
    out: Path,
    *,
    teacher_weights: Path | None = None,
    beside: Sequence[Path] = (),
    watch: Callable[[list[loop.Row]], None] | None = None,
) -> None:
    """Train what a card says, continuing an interrupted run, and write the results as a whole.

    Under torchrun the processes train it together and the first one writes.

    Args:
        card_file: the card of a teacher to train, a baseline or a cell.
        out: the folder of the results.
        teacher_weights: the teacher's weights, where the card names a teacher.
        beside: cards of other cells of the same `side_by_side.kind`, to train side by side with this one. Their results
            are not written here: each leaves a saved state after its last epoch, from which its own run writes them.
        watch: is called with the history after every epoch that is trained here, once its state is saved, and in one
            process only. What it raises ends the run, which leaves no results, and can be resumed like an interrupted
            one.

    Raises:
        UserError: an input file is missing or damaged, the cell cannot be shared among processes, or KDCORE_LOGGERS
            names an unknown logger.
        NotFiniteError: a loss or a weight was not finite.
        Interrupted: by a signal; in several processes it ends them at once, and they go on from the last epoch.
    """
    names = loggers.chosen()
    with ExitStack() as stack:
        world = stack.enter_context(torchrun.joined())
        inputs = _Inputs.load(card_file, teacher_weights, world)
        card, state = inputs.card, inputs.state(card_file)
        if world.leads:
            stack.enter_context(state.locked())
        epochs, images = card["train"]["epochs"], len(inputs.dataset.train.labels)
        progress = TrainingProgress(card["name"], epochs, images, shown=world.leads)
        interruption = Interruption()
        with progress, interruption.noted(unless=world.size > 1):
            student = inputs.run(card, state, progress.callbacks)
            feed = stack.enter_context(loggers.following(names if world.leads else (), card, state.key))
            others = {} if world.size > 1 else _others(student, inputs, beside, stack)
            progress.follow(student.history, student.sums.images)
            feed.follow(student.history)
            together = [student, *others]
            if world.leads:
                _say_resumed(together)
            if others and inputs.teacher is not None:
                training = lockstep.side_by_side(together, inputs.teacher, inputs.dataset)
            else:
                training = loop.steps(student, inputs.teacher, inputs.dataset)
            states = {student: state, **others}
            for _ in training:
                saved = {run: states[run] for run in together} if world.leads else {}
                save_epoch(saved, every=watch is not None)
                if not student.sums.steps:
                    feed.follow(student.history)
                if watch is not None and world.leads and not student.sums.steps:
                    watch(student.history)
                leave_if_asked(saved, interruption)
        if world.leads:
            inputs.check_unchanged()
            _finish(student, card_file, {**card, **inputs.described()}, out, progress, share=1 + len(others))
            state.remove()
            _warn_of_collapse(student, inputs.dataset)


@dataclass(frozen=True)
class _Inputs:
    """The data set, the teacher and the device of a cell, and of others that are trained side by side with it."""

    card: dict[str, Any]
    files: list[Path]
    """Data set and teacher, which determine results beside the card."""
    dataset: Dataset
    teacher: Network | None
    device: torch.device
    world: World
    compiled: str | None
    """What `compiler.chosen` returned."""
    sums: dict[Path, str]
    """The sha256 of the card and of the files when they were read."""

    @classmethod
    def load(cls, card_file: Path, teacher_weights: Path | None, world: World) -> "_Inputs":
        sums = {card_file: file_sha256(card_file)}
        card = yamlfile.read(card_file)
        check_code(card, card_file, loaded=LOADED)
        if world.size > 1:
            torchrun.check_divisible(card)
        device.use_threads(card["train"].get("threads"))
        if not measured_on(card):
            raise UserError(f"{card_file}: test: false needs validation, or nothing is measured; set validation: 0.1")
        dataset = regimes.applied(loop.seen_by(card, storage.load(DATA / card["data"])), card)
        where = device.choose()
        files, teacher = [DATA / card["data"] / MANIFEST], None
        if card.get("teacher"):
            if teacher_weights is None:
                raise UserError(f"{card_file}: names the teacher {card['teacher']}, whose weights were not given")
            files.append(teacher_weights)
            classes = len(dataset.classes)
            teacher = checkpoints.restore(
                card["teacher"],
                classes,
                teacher_weights,
                where,
                stem=dataset.stem,
                described=card.get("networks"),
            )
        settings = TrainSettings.model_validate(card["train"])
        is_foreign = any("zoo" not in described for described in card.get("networks", {}).values())
        way = compiler.chosen(settings, dataset, where, world.size, is_foreign=is_foreign)
        sums |= {file: file_sha256(file) for file in files}
        inputs = cls(card, files, dataset, teacher, where, world, way, sums)
        if teacher is not None:
            inputs.check_regions(teacher, f"teacher {card['teacher']}", card)
        return inputs

    def state(self, card_file: Path) -> ResumeState:
        """Where the state of a cell is kept.

        Raises:
            UserError: there is one of a run that was compiled, and nothing can be compiled here any more.
        """
        dtype = device.compute_dtype(self.card["train"]["precision"], self.device)
        of = partial(ResumeState.of, card_file, *self.files, device=self.device, dtype=dtype)
        state = of(processes=self.world.size, compiled=self.compiled == compiler.DONE)
        if self.compiled == compiler.UNABLE and (begun := of(compiled=True)).size:
            raise UserError(
                f"{begun.path}: the steps of {begun.name} were compiled before it was interrupted (train.compile: "
                "auto), and nothing can be compiled here, see above; mend that, or remove the file, and "
                f"{begun.path.stem}.*, to begin anew without a compiler"
            )
        return state

    def run(self, card: dict[str, Any], state: ResumeState, callbacks: loop.Callbacks | None = None) -> loop.Run:
        """A cell's run, new or resumed from its state."""
        run = loop.prepare(
            card,
            self.dataset,
            self.teacher,
            device=self.device,
            callbacks=callbacks,
            world=self.world,
            compiled=self.compiled == compiler.DONE,
        )
        self.check_regions(run.student, f"student {card['student']}", card)
        restore(run, state.load())
        return run

    def described(self) -> dict[str, Any]:
        """For meta.json: how images are normalised, what the run is made from, and, where settings ask for it, whether
        steps were compiled.
        """
        said = {} if self.compiled is None else {"compiled": self.compiled}
        made = made_from.describe(*(self.sums[file] for file in self.files))
        return {**run_folder.seen(self.dataset), **made, **said}

    def check_unchanged(self) -> None:
        """Refuse to record what was trained where the card, the data set or the teacher has changed meanwhile: DVC
        would take the new one for what it was trained from.

        Raises:
            UserError: names the file.
        """
        for file, before in self.sums.items():
            if not file.is_file() or file_sha256(file) != before:
                raise UserError(
                    f"{file}: has changed while {self.card['name']} was trained from it. Its state is kept: with the "
                    "file as it was, the same command writes the results; else it trains anew"
                )

    def check_regions(self, network: Network, name: str, card: dict[str, Any]) -> None:
        """Refuse a network without logits for the regions that a cell asks for, see `kdcore.networks.regions`."""
        size, small_maps = self.dataset.image_size, card["train"].get("small_maps")
        regions.check_regions(network, name, card.get("levels", [1]), image_size=size, small_maps=small_maps)


def _others(first: loop.Run, inputs: _Inputs, beside: Sequence[Path], stack: ExitStack) -> dict[loop.Run, ResumeState]:
    """The runs of other cells that can go side by side with the first one; their states stay locked with the stack."""
    others = {}
    for card_file in beside:
        card, state = yamlfile.read(card_file), inputs.state(card_file)
        if side_by_side.kind(card) is None or side_by_side.kind(card) != side_by_side.kind(inputs.card):
            raise UserError(f"{card['name']}: cannot be trained side by side with {first.name}; train it by itself")
        try:
            check_code(card, card_file, loaded=LOADED)
            with ExitStack() as lock:
                lock.enter_context(state.locked(waits=False))
                run = inputs.run(card, state)
                if lockstep.can_join(run, first):
                    stack.push(lock.pop_all())
                    others[run] = state
        except BusyError:  # another process trains it, and writes its results
            continue
        except Exception as error:  # whatever it is, it is not the first cell's
            print(f"{card['name']}: is trained by itself ({error})", file=sys.stderr)
    return others


def _say_resumed(runs: Sequence[loop.Run]) -> None:
    """Say on stderr which runs go on where an earlier process left them."""
    for run in runs:
        epochs = run.settings.epochs
        if run.epoch > epochs:
            print(f"{run.name}: all of its {epochs} epochs are trained; its results are written", file=sys.stderr)
        elif run.history or run.sums.steps:
            after = f", after step {run.sums.steps}" if run.sums.steps else ""
            print(f"{run.name}: resumes at epoch {run.epoch} of {epochs}{after}", file=sys.stderr)


def save_epoch(saved: Mapping[loop.Run, ResumeState], *, every: bool = False) -> None:
    """Save the state of every run that has just finished an epoch, if it is due, or the run's last one.

    Args:
        saved: the runs, and where each is saved.
        every: whether to save one that is not due too.
    """
    for run, state in saved.items():
        if not run.sums.steps and (every or state.is_due or run.epoch > run.settings.epochs):
            state.save(capture(run))


def leave_if_asked(saved: Mapping[loop.Run, ResumeState], interruption: Interruption) -> None:
    """Where a signal asks for it: save what the last epoch's end has not saved, and end the runs.

    Raises:
        Interrupted: a signal has come; the message says where the first run goes on.
    """
    if interruption.signal is None:
        return
    first = next(iter(saved))
    where = f"the end of epoch {first.epoch - 1}"
    if first.sums.steps:
        where = f"epoch {first.epoch}, step {first.sums.steps} of {first.steps_per_epoch}"
    for run, state in saved.items():
        if run.sums.steps or state.epochs != len(run.history):
            state.save(capture(run))
    others = f" and {len(saved) - 1} more" if len(saved) > 1 else ""
    said = f"interrupted ({interruption.signal.name}), saved at {where}; run it again to go on from there"
    raise Interrupted(interruption.signal, f"{first.name}{others}: {said}")


def _finish(
    run: loop.Run, card_file: Path, card: dict[str, Any], out: Path, progress: TrainingProgress, *, share: int
) -> None:
    """Write the results and the log of timings, and remove the live files; `share` cells shared the time."""
    made = {"computed_in": str(run.dtype).removeprefix("torch."), "processes": run.world.size}
    meta = {**card, **provenance.describe(run.device), **made}
    average = None if run.average is None else run.average.network
    run_folder.write(out, run.student, run.history, meta, adapters=run.objective, average=average)
    if progress.trained:
        timings.record(
            card_file,
            out,
            meta,
            epochs=progress.trained,
            seconds=progress.seconds / share,
            images_per_second=progress.images_per_second * share,
            beside=share - 1,
        )
    progress.forget()


def _warn_of_collapse(run: loop.Run, dataset: Dataset) -> None:
    train_top1, images = [row["train_top1"] for row in run.history], IMAGES[run.measured[-1]]
    reason = collapse.reason(run.predicted, train_top1, dataset.train.labels, images=images)
    if reason:
        print(f"warning: {run.name}: collapsed: {reason}; {collapse.ADVICE}", file=sys.stderr)
