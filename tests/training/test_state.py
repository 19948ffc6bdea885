"""States of unfinished runs: two of each, checksums, locks, a limit; and leaving at a signal between two steps."""

import errno
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdcore import catalog
from kdcore.data.dataset import Split
from kdcore.data.sources import digits
from kdcore.system.errors import UserError
from kdcore.system.signals import Interrupted, Interruption
from kdcore.training import experiment, loop
from kdcore.training import state as state_module
from kdcore.training.live import TrainingProgress
from kdcore.training.loop import Callbacks
from kdcore.training.state import HEADER, SIZE_VARIABLE, STATES, ResumeState, restore
from tests.train import CPU, as_card, card, carry_on, changed, training_settings

PAIR = "wrn_16_1-resnet8"
SETTINGS = training_settings(2, 16, 0.02)
STEPS = 3
"""Of an epoch: of 40 images."""


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return state_of("cell")


def state_of(name, key="0123456789abcdef"):
    return ResumeState(STATES / f"{name}-{key}.pt")


def made(epochs):
    return {"history": [{"epoch": epoch} for epoch in range(1, epochs + 1)], "student": torch.arange(1000.0) + epochs}


def saved(state, *epochs):
    for count in epochs:
        state.save(made(count))


def epochs_of(loaded):
    assert torch.equal(loaded["student"], made(len(loaded["history"]))["student"])
    return len(loaded["history"])


def files():
    return sorted(path.suffix for path in STATES.iterdir())


class TestFiles:
    def test_last_two_are_kept(self, state):
        assert state.load() is None
        saved(state, 1)
        assert (epochs_of(state.load()), files()) == (1, [".pt"])
        saved(state, 2, 3)
        assert (epochs_of(state.load()), files()) == (3, [".before", ".pt"])
        assert epochs_of(ResumeState(state.before).load()) == 2
        state.remove()
        assert files() == []

    @pytest.mark.parametrize(("damage", "reason"), [
        (lambda content: content[:-1], "is damaged (its content has another checksum)"),
        (lambda content: content[: len(content) // 2], "is damaged (its content has another checksum)"),
        (lambda content: content[:20], "is damaged (its content has another checksum)"),
        (lambda content: content + b"x", "is damaged (its content has another checksum)"),
        (lambda content: flipped(content, -1), "is damaged (its content has another checksum)"),
        (lambda content: flipped(content, len(content) // 2), "is damaged (its content has another checksum)"),
        (lambda content: flipped(content, len(HEADER) + 3), "is damaged (its content has another checksum)"),
        (lambda content: flipped(content, 0), "is no state of a run"),
        (lambda content: b"PK" + content, "is no state of a run"),
        (lambda content: b"", "is empty"),
        (lambda content: content.replace(b"state 2", b"state 1", 1), "is of another version of this program"),
    ])  # fmt: skip
    def test_one_before_a_damaged_one_is_used(self, state, capsys, damage, reason):
        saved(state, 1, 2)
        state.path.write_bytes(damage(state.path.read_bytes()))
        assert epochs_of(state.load()) == 1
        said = capsys.readouterr().err
        instead = "cell goes on from the state before it, with 1 epochs behind it"
        assert said == f"warning: {state.path}: {reason}; {instead}\n"
        saved(state, 2)
        assert epochs_of(ResumeState(state.before).load()) == 1  # and not the damaged one
        assert epochs_of(state.load()) == 2
        assert capsys.readouterr().err == ""

    def test_both_damaged(self, state, capsys):
        saved(state, 1, 2)
        for path in (state.path, state.before):
            path.write_bytes(path.read_bytes()[:-1])
        assert state.load() is None
        said = capsys.readouterr().err
        assert said.count("is damaged") == 2
        assert said.endswith("; cell starts anew\n")
        assert files() == []

    def test_killed_between_two_files(self, state, capsys):
        saved(state, 1, 2)
        state.path.unlink()
        assert epochs_of(state.load()) == 1
        assert capsys.readouterr().err == ""

    def test_full_disk(self, state, monkeypatch):
        """Leaves what is there, and no part of what is not."""

        def full(_handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        saved(state, 1, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                saved(state, 3)
        assert (epochs_of(state.load()), files()) == (2, [".before", ".pt"])

    def test_file_and_folder_are_on_the_disk(self, state, monkeypatch):
        """The file before it gets its name, the name before anything else happens."""
        order = []
        fsync, replace_file = os.fsync, Path.replace

        def synced(handle):
            order.append(os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        def replaced(path, target):
            order.append(target.suffix)
            return replace_file(path, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", replaced)
        saved(state, 1)
        assert order == [str(state.aside.resolve()), ".pt", str(STATES.resolve())]

    def test_unreadable(self, state):
        state.path.mkdir(parents=True)
        with pytest.raises(UserError, match=r"cell-0123456789abcdef\.pt: cannot be read \(Is a directory\)"):
            state.load()

    @pytest.mark.parametrize("waits", [True, False])
    def test_one_process_at_a_time(self, state, monkeypatch, waits):
        monkeypatch.setattr(state_module, "ENDING", 0.1)
        other = ResumeState(state.path)
        with state.locked(), pytest.raises(UserError, match="another process trains this"), other.locked(waits=waits):
            pytest.fail("two processes at once")
        with other.locked():
            assert files() == [".lock"]
        assert files() == []

    def test_one_that_is_about_to_end_is_waited_for(self, state, capsys):
        """Its sweep, or its machine's worker, was killed, and another worker goes on with the cell at once."""
        other, is_held = ResumeState(state.path), threading.Event()

        def hold():
            with other.locked():
                is_held.set()
                time.sleep(1)

        with ThreadPoolExecutor() as pool:
            held = pool.submit(hold)
            is_held.wait()
            with state.locked():
                assert held.done() or held.result(timeout=1) is None
        assert "another process trains this; waiting 40 s for its end" in capsys.readouterr().err

    def test_folder_is_removed_meanwhile(self, state):
        with state.locked():
            shutil.rmtree(STATES)
            saved(state, 1)
        assert files() == [".pt"]


class Epochs:
    """What saving asks of a run."""

    name, settings, sums = "cell", SimpleNamespace(epochs=5), SimpleNamespace(steps=0)

    def __init__(self, state):
        self.state, self.history, self.now = state, [], 0.0

    @property
    def epoch(self):
        return len(self.history) + 1

    def finish(self, second, **options):
        """Finish an epoch at this second; returns whether its state was saved."""
        self.now = second
        self.history.append({"epoch": self.epoch})
        experiment.save_epoch({self: self.state}, **options)
        return self.state.epochs == len(self.history)


class TestRarely:
    """Large states are saved so rarely that it takes a twentieth of the time."""

    @pytest.fixture
    def run(self, state, monkeypatch):
        """A run of 5 epochs whose state takes 2 seconds to save."""
        run, fsync = Epochs(state), os.fsync

        def slow(handle):
            run.now += 1  # for the file, and for its folder
            fsync(handle)

        monkeypatch.setattr(os, "fsync", slow)
        monkeypatch.setattr(state_module.time, "monotonic", lambda: run.now)
        monkeypatch.setattr(experiment, "capture", lambda run: made(len(run.history)))
        monkeypatch.setattr(state_module, "LARGE", 1000)
        return run

    def test_when_it_has_not_been_done_for_twenty_times_as_long(self, run, state):
        assert [run.finish(second) for second in (10, 30, 51.9, 52.1)] == [True, False, False, True]
        assert epochs_of(state.load()) == 4

    def test_after_the_last_epoch_and_where_somebody_watches(self, run, state):
        assert [run.finish(10), run.finish(11, every=True), run.finish(12), run.finish(13)] == [
            True,
            True,
            False,
            False,
        ]
        assert run.finish(14)
        assert epochs_of(state.load()) == 5

    def test_small_ones_after_every_epoch(self, run, monkeypatch):
        monkeypatch.setattr(state_module, "LARGE", 1e9)
        assert [run.finish(second) for second in (10, 13, 16)] == [True] * 3

    def test_at_a_signal(self, run, state):
        """What the last epoch's end has left out."""
        run.finish(10)
        run.finish(13)
        assert epochs_of(state.load()) == 1
        interruption = Interruption()
        interruption.signal = signal.SIGTERM
        with pytest.raises(Interrupted, match="saved at the end of epoch 2"):
            experiment.leave_if_asked({run: state}, interruption)
        assert epochs_of(state.load()) == 2


def flipped(content, position):
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


class TestLimit:
    """`KDCORE_STATES_GB`."""

    @pytest.fixture
    def states(self, state):
        """The oldest first, of two files each."""
        states = [state_of(name) for name in ("c", "a", "d", "b")]
        for age, one in enumerate(states):
            saved(one, 1, 2)
            for path in (one.path, one.before):
                os.utime(path, (1000 + age, 1000 + age))
        return states

    def left(self, states):
        return "".join(one.name for one in states if one.path.is_file())

    @pytest.mark.parametrize("left", ["cadb", "adb", "db", ""])
    def test_oldest_go_first(self, states, state, monkeypatch, capsys, left):
        monkeypatch.setenv(SIZE_VARIABLE, str((len(left) + 0.5) * states[0].size / 1e9))
        with state.locked():
            assert self.left(states) == left
        assert files() == sorted([".before", ".pt"] * len(left))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == len(states) - len(left)
        assert all("the state of an interrupted run is removed (0.0 MB)" in line for line in said)

    def test_never_of_a_run_that_goes_on(self, states, monkeypatch):
        monkeypatch.setenv(SIZE_VARIABLE, "0")
        with states[1].locked():
            assert self.left(states) == "a"
            with states[2].locked():
                assert self.left(states) == "a"
                saved(states[2], 1)
            assert self.left(states) == "ad"

    def test_never_the_last_one_of_a_run_of_the_matrix(self, states, state, monkeypatch):
        """A cell that was trained beside another one has all its epochs there, and no results yet."""
        monkeypatch.setenv(SIZE_VARIABLE, "0")
        card_of_a = Path("cards/baseline/a.yaml")
        card_of_a.parent.mkdir(parents=True)
        card_of_a.touch()
        older = state_of("a", "fedcba9876543210")
        saved(older, 1)
        os.utime(older.path, (999, 999))
        with state.locked():
            assert self.left(states) == "a"
        assert not older.path.exists()

    def test_default_leaves_them(self, states, state):
        with state.locked():
            assert self.left(states) == "cadb"

    @pytest.mark.parametrize("value", ["much", "-1", "nan", ""])
    def test_wrong_limit(self, state, monkeypatch, value):
        monkeypatch.setenv(SIZE_VARIABLE, value)
        with pytest.raises(UserError, match=f"KDCORE_STATES_GB={value}: must be a number of gigabytes"), state.locked():
            pytest.fail("went on")
        assert files() == []


@pytest.fixture(scope="module")
def dataset():
    made = digits.fetch(source="embedded", image_size=16, train_per_class=4)
    return replace(made, test=Split(made.test.images[:50], made.test.labels[:50]))


def carry_out(dataset, cell, state=None, *, stop_at=None):
    """A run, told to stop in one of its steps, or, at half a step, after the measurement that follows it."""
    interruption, taken = Interruption(), 0

    def on_step(_images):
        nonlocal taken
        taken += 1
        if taken == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(_row):
        if taken + 0.5 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    teacher = None if cell["method"] == "vanilla" else loop.create("wrn_16_1", 10, 7, CPU)
    torch.rand(torch.randint(9, ()))  # whatever was drawn before
    dataset = loop.seen_by(cell, dataset)
    watcher = Callbacks(on_step, on_epoch)
    run = loop.prepare(cell, dataset, teacher, device=CPU, callbacks=watcher)
    with interruption.noted():
        carry_on(run, teacher, dataset, state or ResumeState(Path("scratch/none-0.pt")), interruption)
    return run, taken


def same(run, other):
    mine, others = ({**one.student.state_dict(), **one.objective.state_dict()} for one in (run, other))
    bits = all(torch.equal(value, others[key]) for key, value in mine.items())
    averages = [one.average.network.state_dict() for one in (run, other) if one.average is not None]
    if averages:
        bits = bits and all(torch.equal(value, averages[1][key]) for key, value in averages[0].items())
    return bits and (run.history, run.predicted) == (other.history, other.predicted)


def cell_of(method, settings=SETTINGS, **changes):
    return card(PAIR, method, as_card(settings)) | changes


KD = cell_of("kd")
DOT = changed(SETTINGS, optimizer="dot", dot_delta=0.075)
ADAMW = changed(SETTINGS, optimizer="adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=1, warmup_lr=1e-5, min_lr=1e-5,
                label_smoothing=0.1, mixup=0.8, cutmix=1.0, ema=0.9)  # fmt: skip
AUGMENTED = changed(SETTINGS, augmentation={"crop": "resized", "randaugment": {}, "colour_jitter": 0.4, "erasing": 0.5})
JOINED = changed(SETTINGS, augmentation={"joined": True, "erasing": 0.5})
LAMB = changed(SETTINGS, optimizer="lamb", mixup=0.8, ema=0.9, precision="bfloat16")
DROPOUT = cell_of("vanilla", student="imagenet_mobilenetv2")


@pytest.mark.parametrize(("cell", "stop_at", "where"), [
    (DROPOUT, 2, "epoch 1, step 2 of 3"),
    (DROPOUT, 4, "epoch 2, step 1 of 3"),
    (KD, 1, "epoch 1, step 1 of 3"),
    (KD, 3, "epoch 1, step 3 of 3"),
    (KD, 3.5, "the end of epoch 1"),
    (KD, 6, "epoch 2, step 3 of 3"),
    (KD, 6.5, "the end of epoch 2"),
    (cell_of("kd", changed(SETTINGS, precision="bfloat16")), 4, "epoch 2, step 1 of 3"),
    (cell_of("kd", DOT), 2, "epoch 1, step 2 of 3"),
    (cell_of("mlkd"), 5, "epoch 2, step 2 of 3"),
    (cell_of("crd+ctkd"), 2, "epoch 1, step 2 of 3"),
    (cell_of("crd+ctkd", DOT), 4, "epoch 2, step 1 of 3"),
    (cell_of("ofd"), 2, "epoch 1, step 2 of 3"),
    (cell_of("kd", ADAMW), 1, "epoch 1, step 1 of 3"),
    (cell_of("kd", ADAMW), 3.5, "the end of epoch 1"),
    (cell_of("mlkd", AUGMENTED), 4, "epoch 2, step 1 of 3"),
    (cell_of("kd", JOINED), 7, "epoch 2, step 2 of 5"),
    (cell_of("mlkd", ADAMW), 5, "epoch 2, step 2 of 3"),
    (cell_of("crd+ctkd", ADAMW), 4, "epoch 2, step 1 of 3"),
    (cell_of("at", LAMB), 5, "epoch 2, step 2 of 3"),
    (cell_of("kd", validation=0.1), 3, "epoch 2, step 1 of 2"),
    (cell_of("at", validation=0.25, test=False), 2.5, "the end of epoch 1"),
    (cell_of("kd", changed(SETTINGS, per_class=3, augmentation="none")), 3, "epoch 2, step 1 of 2"),
])  # fmt: skip
def test_told_to_stop(dataset, state, cell, stop_at, where):
    """After any step, the last one of an epoch included, the run goes on from there and ends with the same bits."""
    expected, _ = carry_out(dataset, cell)
    with pytest.raises(Interrupted) as stopped:
        carry_out(dataset, cell, state, stop_at=stop_at)
    saved_at = f"interrupted (SIGTERM), saved at {where}; run it again to go on from there"
    assert stopped.value.args == (signal.SIGTERM, f"{cell['name']}: {saved_at}")
    run, taken = carry_out(dataset, cell, state)
    assert same(run, expected)
    assert taken == 2 * run.steps_per_epoch - int(stop_at)


@pytest.mark.parametrize("method", list(catalog.methods()))
def test_every_method_goes_on_with_its_bits(dataset, state, method):
    """Stopped in the second epoch, when what the method remembers, draws and schedules is under way."""
    expected, _ = carry_out(dataset, cell_of(method))
    with pytest.raises(Interrupted):
        carry_out(dataset, cell_of(method), state, stop_at=4)
    run, taken = carry_out(dataset, cell_of(method), state)
    assert same(run, expected)
    assert taken == 2


@pytest.mark.parametrize(("stop_at", "said"), [
    (4, "resumes at epoch 2 of 2, after step 1"),
    (3.5, "resumes at epoch 2 of 2"),
    (1, "resumes at epoch 1 of 2, after step 1"),
    (6.5, "all of its 2 epochs are trained; its results are written"),
])  # fmt: skip
def test_a_run_that_goes_on_says_where(dataset, state, capsys, stop_at, said):
    with pytest.raises(Interrupted):
        carry_out(dataset, KD, state, stop_at=stop_at)
    run = loop.prepare(KD, dataset, loop.create("wrn_16_1", 10, 7, CPU), device=CPU)
    experiment._say_resumed([run])
    assert capsys.readouterr().err == ""
    restore(run, state.load())
    experiment._say_resumed([run])
    assert capsys.readouterr().err == f"{KD['name']}: {said}\n"


def test_dropout_goes_on_with_its_draws(dataset, state):
    """Other draws would end with other bits, so that the test above can fail."""
    expected, _ = carry_out(dataset, DROPOUT)
    with pytest.raises(Interrupted):
        carry_out(dataset, DROPOUT, state, stop_at=2)
    loaded = state.load()
    loaded["epoch"]["drawn"]["dropout"] = torch.Generator().manual_seed(5).get_state()
    state.save(loaded)
    run, _ = carry_out(dataset, DROPOUT, state)
    assert not same(run, expected)


def test_time_is_that_of_whole_epochs():
    """An epoch of which others took the first steps is none for whoever asks how long one takes."""
    progress, history = TrainingProgress("x", 3, 10, shown=False), [{"epoch": 1}]
    progress.follow(history, 5)
    history.append({"epoch": 2})
    assert progress.trained == 0
    history.append({"epoch": 3})
    assert progress.trained == 1


class TestInterruption:
    """Without training."""

    def told(self, *signals):
        """What becomes of a block in which they come."""
        interruption, after = Interruption(), []
        with interruption.noted():
            for number in signals:
                os.kill(os.getpid(), number)
                after.append(interruption.signal)
        return after

    @pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM] * 3])
    def test_they_wait_until_somebody_looks(self, signals):
        before = [signal.getsignal(number) for number in signals]
        with pytest.raises(KeyboardInterrupt) as unseen:
            self.told(*signals)
        assert unseen.value.args == (signals[-1],)
        assert unseen.traceback[-1].name == "noted"  # at the end
        assert [signal.getsignal(number) for number in signals] == before

    def test_a_second_ctrl_c_does_not(self):
        with pytest.raises(KeyboardInterrupt) as second:
            self.told(signal.SIGINT, signal.SIGINT)
        assert second.traceback[-1].name == "note"  # at once

    def test_ignored_ones_stay_ignored(self):
        """As in a shell's background jobs."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            assert self.told(signal.SIGINT) == [None]
        finally:
            signal.signal(signal.SIGINT, before)

    def test_errors_come_first(self):
        with pytest.raises(TypeError):
            self.told(signal.SIGTERM, "no number")
