"""Cells trained side by side: each ends with the bits of its own, separate run."""

import signal

import pytest
import torch.nn.functional as F

from kdcore.data import subsets
from kdcore.data.sources import digits
from kdcore.matrix import side_by_side
from kdcore.system.signals import Interrupted, Interruption
from kdcore.training import experiment, lockstep, loop, teacher_outputs
from kdcore.training.state import ResumeState, restore
from tests.train import CPU, as_card, card, changed, training_settings

PAIR = "wrn_16_1-resnet8"
SETTINGS = training_settings(2, 16, 0.02)
METHODS = ("at", "crd", "fitnet")


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


@pytest.fixture(scope="module")
def alone(dataset):
    """The bits of each method's cell when it is trained by itself."""
    return {method: bits(trained(dataset, [method])[0]) for method in METHODS}


def cell(method, settings=SETTINGS):
    return card(PAIR, method, as_card(settings)) | {"pair": PAIR, "data": "digits"}


def bits(run):
    parts = {**run.student.state_dict(), **run.objective.state_dict()}
    return [run.history, *(value.tolist() for value in parts.values())]


def prepared(dataset, teacher, method, settings=SETTINGS, **options):
    return loop.prepare(cell(method, settings), dataset, teacher, device=CPU, **options)


def trained(dataset, methods):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    first, *others = (prepared(dataset, teacher, method) for method in methods)
    for _ in lockstep.side_by_side([first, *others], teacher, dataset):
        pass
    return [first, *others]


def test_each_ends_as_it_would_alone(dataset, alone):
    assert [bits(run) for run in trained(dataset, METHODS)] == [alone[method] for method in METHODS]


def test_the_teacher_is_asked_once_per_batch(dataset, monkeypatch):
    asked, compute = [], teacher_outputs.Live.__call__
    monkeypatch.setattr(teacher_outputs.Live, "__call__", lambda live, batch: asked.append(1) or compute(live, batch))
    trained(dataset, METHODS)
    assert len(asked) == SETTINGS.epochs * 3


def stop_after(count, saved, teacher, dataset):
    """Train side by side until a signal comes after so many steps and ends of epochs."""
    interruption = Interruption()
    for number, _ in enumerate(lockstep.side_by_side(list(saved), teacher, dataset), start=1):
        interruption.signal = signal.SIGINT if number == count else None
        experiment.save_epoch(saved)
        experiment.leave_if_asked(saved, interruption)


def test_stopped_between_two_steps_each_goes_on_by_itself(dataset, alone, tmp_path):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    states = {method: ResumeState(tmp_path / f"{method}-0.pt") for method in METHODS}
    saved = {prepared(dataset, teacher, method): state for method, state in states.items()}
    with pytest.raises(Interrupted, match=r"and 2 more: interrupted \(SIGINT\), saved at epoch 2, step 1 of 3"):
        stop_after(5, saved, teacher, dataset)  # three steps, the end of the epoch, one step
    for method, state in states.items():
        run = prepared(dataset, teacher, method)
        restore(run, state.load())
        assert (run.epoch, run.sums.steps) == (2, 1)
        loop.train(run, teacher, dataset)
        assert bits(run) == alone[method]


def test_one_that_fails_leaves_the_others(dataset, alone):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    first, good = (prepared(dataset, teacher, method) for method in ("at", "fitnet"))
    runs = [first, prepared(dataset, teacher, "crd", changed(SETTINGS, lr=1e30)), good]
    for _ in lockstep.side_by_side(runs, teacher, dataset):
        pass
    assert runs == [first, good]
    assert (bits(first), bits(good)) == (alone["at"], alone["fitnet"])


@pytest.mark.parametrize(("method", "together"), [("at", True), ("crd+kd", True), ("kd", False), ("vanilla", False),
                                                  ("mlkd", False), ("ofd", False)])  # fmt: skip
def test_only_cells_that_need_the_teachers_maps_go_together(method, together):
    assert (side_by_side.kind(cell(method)) is not None) == together


@pytest.mark.parametrize("settings", [{"batch_size": 8}, {"epochs": 3}, {"precision": "bfloat16"},
                                      {"per_class": 3}, {"augmentation": "none"}, {"share": 0.5}, {"long_tail": 2},
                                      {"label_noise": {"kind": "symmetric", "rate": 0.5}}])  # fmt: skip
def test_cells_of_other_settings_go_apart(settings):
    assert side_by_side.kind(cell("at")) == side_by_side.kind(cell("crd"))
    assert side_by_side.kind(cell("at")) != side_by_side.kind(cell("crd", changed(SETTINGS, **settings)))


@pytest.mark.parametrize("changes", [{"validation": 0.25}, {"validation": 0.25, "test": False}])
def test_cells_with_other_images_go_apart(changes):
    assert side_by_side.kind(cell("at")) != side_by_side.kind(cell("crd") | changes)
    assert side_by_side.kind(cell("at") | changes) == side_by_side.kind(cell("crd") | changes)


def test_with_validation_each_ends_as_it_would_alone(dataset):
    seen = subsets.chosen(dataset, validation=0.25)
    teacher, ends = loop.create("wrn_16_1", 10, 7, CPU), []
    for methods in (("at",), ("fitnet",), ("at", "fitnet")):
        runs = [loop.prepare(cell(m) | {"validation": 0.25}, seen, teacher, device=CPU) for m in methods]
        for _ in lockstep.side_by_side(list(runs), teacher, seen):
            pass
        ends.append([bits(run) for run in runs])
    assert ends[2] == ends[0] + ends[1]
    assert "val_top1" in ends[0][0][0][0]


def test_runs_of_other_steps_and_teachers_that_train_go_apart(dataset):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    old, new, other = (prepared(dataset, teacher, method) for method in METHODS)
    assert lockstep.can_join(new, other)
    next(loop.steps(old, teacher, dataset))
    assert not lockstep.can_join(new, old)
    new.objective.terms["crd"].adapter.teacher_in_training_mode = True
    assert not lockstep.can_join(new, other)


def with_dropout(dataset, teacher, method):
    """A run whose adapter draws from torch's own generator."""
    run = prepared(dataset, teacher, method)
    run.objective.terms[method].register_forward_hook(lambda _module, _inputs, loss: F.dropout(loss, 0.5))
    return run


def test_draws_from_torchs_own_generator_are_kept_apart(dataset, alone, tmp_path):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    expected = with_dropout(dataset, teacher, "at")
    loop.train(expected, teacher, dataset)
    first, second = with_dropout(dataset, teacher, "at"), with_dropout(dataset, teacher, "fitnet")
    for _ in lockstep.side_by_side([second, first, prepared(dataset, teacher, "crd")], teacher, dataset):
        pass
    assert bits(first) == bits(expected) != alone["at"]
    states = {method: ResumeState(tmp_path / f"{method}-0.pt") for method in ("fitnet", "at")}
    saved = {with_dropout(dataset, teacher, method): state for method, state in states.items()}
    with pytest.raises(Interrupted):
        stop_after(5, saved, teacher, dataset)
    again = with_dropout(dataset, teacher, "at")
    restore(again, states["at"].load())
    loop.train(again, teacher, dataset)
    assert bits(again) == bits(expected)


def test_a_method_that_changes_the_teachers_maps_is_noticed(dataset, capsys):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    first, second = (prepared(dataset, teacher, method) for method in ("at", "fitnet"))

    def double(_module, inputs, _loss):
        inputs[1].teacher[0].pooled.mul_(2)

    first.objective.terms["at"].register_forward_hook(double)
    runs = [first, second]
    for _ in lockstep.side_by_side(runs, teacher, dataset):
        pass
    assert runs == [first]
    assert "a method has changed the teacher's outputs in place" in capsys.readouterr().err
