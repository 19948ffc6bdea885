"""What a trial tells its study, when it ends early, and how a study goes on: without training anything."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdcore.matrix.tune_section import Dimension
from kdcore.sweep.display import Waiting
from kdcore.system.errors import UserError
from kdcore.tuning import study as studies
from kdcore.tuning.search import Search
from kdcore.tuning.study import Study, differing, pruner
from kdcore.tuning.trial import PrunedError, Reports
from tests.project import ROOT

SPACE = {
    "a": Dimension(1, 8), "b": Dimension(0.001, 1, is_log=True), "c": Dimension(choices=("x", "y")),
    "n": Dimension(1, 64, is_log=True),
}  # fmt: skip
PROTOCOL = {"pairs": ["p"], "cards": {"c": {"train": {"lr": 0.1}}}}


class Told:
    """Stands for Optuna's trial; asks to end at these steps."""

    def __init__(self, ends=()):
        self.ends, self.reported = ends, {}

    def report(self, value, step):
        self.reported[step] = value

    def should_prune(self):
        return max(self.reported) in self.ends


def train(reports, *accuracies):
    history = []
    for epoch, accuracy in enumerate(accuracies, 1):
        history.append({"epoch": epoch, "val_top1": accuracy})
        reports.add(history)
    reports.end_cell(accuracies[-1])


def test_a_trial_reports_the_mean_of_its_cells_so_far():
    told = Told()
    reports = Reports(told, [2, 3])
    train(reports, 10, 20)
    train(reports, 40, 50, 60)
    assert told.reported == {1: 10, 2: 20, 3: 30, 4: 35, 5: 40}
    assert (reports.last, reports.score) == ([20, 60], 40)


def test_it_ends_where_the_study_asks_for_it_but_not_after_its_last_epoch():
    reports = Reports(Told(ends=[3]), [2, 2])
    train(reports, 10, 20)
    with pytest.raises(PrunedError):
        train(reports, 40, 50)
    assert reports.score == 30
    train(Reports(Told(ends=[2]), [2]), 10, 20)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def begin(protocol=PROTOCOL, name="s"):
        return Study(name, SPACE, integers={"n"}, protocol=protocol)

    return begin


def carry_out(study, number):
    values = study.values_of(number)
    score = 50 - (values["a"] - 3) ** 2 + (values["c"] == "x")
    state = "failed" if values["b"] > 0.5 else "complete"
    study.tell(number, {"state": state, "score": None if state == "failed" else score, "reason": ""})
    return values


def test_a_study_that_is_opened_anew_for_every_trial_draws_what_one_that_goes_through_does(begin):
    through = begin(name="through")
    one = [carry_out(through, through.ask()) for _ in range(16)]
    other = []
    for _ in range(16):
        study = begin(name="anew")
        other.append(carry_out(study, study.ask()))
    assert one == other
    assert len({values["a"] for values in one}) > 12
    assert all(1 <= values["a"] <= 8 and type(values["n"]) is int for values in one)
    assert all(values["b"] == float(f"{values['b']:.3g}") for values in one)
    assert study.best.number == through.best.number
    assert sum(through.importances().values()) == pytest.approx(1, abs=0.01)


def test_a_trial_that_was_killed_does_not_count_and_is_there_to_be_retried(begin):
    study = begin()
    carry_out(study, study.ask())
    killed = study.ask()
    values = study.values_of(killed)
    study = begin()
    assert len(study.ended) == 1
    assert [trial.number for trial in study.trials("RUNNING")] == [killed]
    assert study.values_of(killed) == values


def test_one_that_was_killed_while_it_was_drawn_is_never_counted(begin):
    study = begin()
    study.found.ask({"a": study.distributions["a"]})
    study = begin()
    study.drop_undrawn()
    assert not study.ended
    assert not study.trials("RUNNING")
    carry_out(study, study.ask())
    assert len(study.ended) == 1


def test_a_process_that_is_killed_while_it_writes_keeps_nobody_waiting(tmp_path):
    """Optuna's own lock stays behind."""
    killed = "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    for number, sabotage in enumerate((killed, "")):
        code = f"""
import os, signal
from kdcore.tuning import study
(study.FOLDER / "s").mkdir(parents=True, exist_ok=True)
found = study.opened("s")
{sabotage}
found.set_user_attr("{number}", "written")
assert found.user_attrs == {{"0": "written", "1": "written"}}
"""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=60, capture_output=True, check=False
        )
        assert done.returncode == (-signal.SIGKILL if sabotage else 0), done.stderr


@pytest.mark.parametrize("torn", [b'{"op_code":6,"wor', b'{"op_code":6', b"\0"])
def test_a_record_that_was_torn_is_no_end_of_a_search(begin, torn):
    """By a full disk, or a machine that failed: the others are there, and new ones come after them."""
    study = begin()
    carry_out(study, study.ask())
    file = studies.FOLDER / "s" / studies.FILE
    with file.open("ab") as end:
        end.write(torn)
    for number in (1, 2):
        again = begin()
        carry_out(again, again.ask())
        assert [trial.number for trial in again.ended] == list(range(number + 1))
    assert all(map(json.loads, file.read_text().splitlines()))


def test_another_search_under_the_same_name_is_refused(begin):
    begin()
    begin()
    with pytest.raises(UserError) as refused:
        begin({**PROTOCOL, "cards": {"c": {"train": {"lr": 0.2}}}})
    assert "- cards.c.train.lr: 0.1, 0.2" in str(refused.value)
    assert "tune.name" in str(refused.value)
    assert "rm -r scratch/tune/s" in str(refused.value)
    assert differing({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"d": 3}}) == ["b.c: 2, 'nothing'", "b.d: 'nothing', 3"]


def test_a_damaged_study_is_refused(begin):
    begin()
    (studies.FOLDER / "s" / studies.FILE).write_text("{]\n{]\n")
    with pytest.raises(UserError, match=r"study\.log: is damaged .* rm -r scratch/tune/s"):
        begin()


def test_the_pruner_waits_for_five_trials_and_a_third_of_the_epochs(begin):
    study = begin()
    study.found.pruner = pruner("median", 9)
    for _ in range(5):
        number = study.ask()
        trial = study.optuna.trial.Trial(study.found, number)
        for step in range(1, 10):
            trial.report(50.0, step)
            assert not trial.should_prune()
        study.tell(number, {"state": "complete", "score": 50.0, "reason": ""})
    trial = study.optuna.trial.Trial(study.found, study.ask())
    asked = []
    for step in range(1, 10):
        trial.report(40.0, step)
        asked.append(trial.should_prune())
    assert asked == [False] * 2 + [True] * 7
    study.found.pruner = pruner("none", 9)
    assert not study.optuna.trial.Trial(study.found, trial._trial_id).should_prune()


def test_workers_in_clones_are_refused(begin):
    setup = SimpleNamespace(tune=SimpleNamespace(trials=1, pruner="none"))
    crew = SimpleNamespace(capacity=lambda: 1, is_apart=True)
    with pytest.raises(UserError, match=r"a worker works in a clone of the project.* start workers where"):
        Search(setup, begin())._hand_out(crew, Waiting(print))


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"optuna, which is not installed here; run pip install -e '\.\[tune\]'"):
        studies.library()
