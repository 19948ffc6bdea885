"""Results while cells train: histories that can be read from outside, and the report of them."""

import json
import os
import platform
import shutil
from dataclasses import asdict

import pandas as pd
import pytest

from kdcore import checkpoints, methods, networks
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix import params
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import make_cards
from kdcore.matrix.fingerprint import ROOT
from kdcore.results import partial
from kdcore.results.row import Row
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, whole, write_json
from kdcore.training import device, experiment, live, loop, made_from, pulse, run_folder, timings
from kdcore.training.live import TrainingProgress
from kdcore.training.pulse import live_file, pulse_file
from kdcore.training.run_folder import WEIGHTS
from stages import report
from tests import made_up
from tests.pipeline.test_stages import CARD
from tests.project import PARAMS, TINY, Project

PAIR = "resnet14-resnet8"
KD, DKD, VANILLA = f"{PAIR}-kd-1-False-base-0", f"{PAIR}-dkd-2-False-base-0", f"{PAIR}-vanilla-base-0"
MADE = {"commit": "abc", "device": "cpu: x", "threads": 1, "processes": 1, "computed_in": "float32",
        "versions": {"torch": "2"}}  # fmt: skip


class Killed(BaseException):
    """Ends a run in the middle."""


def plan():
    """Write the cards of params.yaml."""
    files = {"published_recipes": "data/recipes.yaml", "known_teachers": "data/teachers.yaml"}
    known = {key: yamlfile.read(ROOT / file) for key, file in files.items()}
    with whole(CARDS) as cards:
        for name, card in make_cards(params.load("params.yaml"), **known).items():
            yamlfile.write(cards / f"{name}.yaml", card)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A folder with data and cards, nothing trained."""
    folder = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yamlfile.write(folder / "data/published.yaml", {"sources": {}})
        yamlfile.write(folder / "params.yaml", {**yamlfile.read(PARAMS), **TINY})
        plan()
        with whole(folder / "data/digits") as data:
            storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=1), data)
    return folder


@pytest.fixture
def project(planned, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(planned, folder)
    monkeypatch.chdir(folder)
    return folder


def history(*top1):
    epochs = range(1, len(top1) + 1)
    return pd.DataFrame({"epoch": epochs, "lr": 0.1, "loss": 1.0, "ce": 1.0, "train_top1": 50.0, "test_top1": top1})


def card_file(name):
    kind = "teacher" if "-" not in name else "train" if "False" in name else "baseline"
    return CARDS / kind / f"{name}.yaml"


def card_of(name):
    return yamlfile.read(card_file(name))


def finish(name, *top1, **meta):
    """Make up the results of a teacher or cell, which reach that in their last epochs."""
    card = card_of(name)
    top1 = (*[0.0] * (card["train"]["epochs"] - len(top1)), *top1)
    folder = partial.TEACHERS / name if "-" not in name else partial.RUNS / PAIR / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / run_folder.META, {**card, **MADE, **meta})
    history(*top1).to_csv(folder / run_folder.HISTORY, index=False)
    (folder / run_folder.WEIGHTS).write_text(f"that reach {top1}")


def damage(path, content):
    """Put something else there; None for nothing."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def begin(name, *top1):
    """Make up the live history of one."""
    live_file(name).parent.mkdir(parents=True, exist_ok=True)
    history(*top1).to_csv(live_file(name), index=False)


def evaluate(**top1):
    """Make up the evaluation of what has a result, with other figures than the histories'."""
    found = partial.collect().results.evaluations[0]
    for cell in found["cells"]:
        cell |= {"top1": top1[cell["method"]], "agreement": 88.0, "ece": 2.0, "nll": 0.5, "top5": 99.0}
    sha256 = file_sha256(partial.TEACHERS / "resnet14" / WEIGHTS)
    found["teacher"] |= {"top1": 91.0, "agreement": 100.0, "weights_sha256": sha256}
    folder = partial.EVALUATIONS / PAIR
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", found)


class TestCollect:
    def test_no_plan(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"cards/tables.yaml: there is no plan yet; run 'dvc repro plan'"):
            partial.collect()

    def test_nothing_trained(self, project):
        found = partial.collect()
        assert (found.done, found.cells, found.unfinished) == (0, 5, [])
        assert all(entry.missing for entry in found.results.entries)

    def test_variants_and_exclusions(self, project):
        variants = {"base": {}, "t2": {"kd": {"temperature": 2}}}
        changes = {"variants": variants, "exclude": [{"methods": ["dkd"], "scales": [2]}]}
        yamlfile.write(project / "params.yaml", {**yamlfile.read("params.yaml"), **changes})
        plan()
        finish("resnet14", 92.5)
        finish(f"{PAIR}-kd-1-False-t2-0", 85.0)
        found = partial.collect()
        assert (found.done, found.cells) == (1, 6)
        shown = {entry.row.label: entry.lacks or entry.mean for entry in found.results.entries}
        assert (shown["KD"], shown["KD, T=2"], shown["DKD + SDD [1,2]"]) == ("missing", 85.0, "excluded")

    def test_without_data(self, project):
        finish("resnet14", 90.0)
        shutil.rmtree("data/digits")
        assert partial.collect().results.evaluations == []

    def test_from_histories(self, project):
        finish("resnet14", 88.0, 92.5)
        finish(KD, 80.0, 85.12345678, 84.98765432)
        found = partial.collect()
        (evaluation,) = found.results.evaluations
        assert (evaluation["train_images"], evaluation["classes"]) == (10, 10)
        assert evaluation["teacher"]["top1"] == 92.5
        assert 0 < evaluation["student"]["parameters"] < evaluation["teacher"]["parameters"]
        (cell,) = evaluation["cells"]
        assert (cell["name"], cell["top1"], cell["top1_best"]) == (KD, 84.9877, 85.1235)
        assert "agreement" not in cell
        assert (cell["recipe"]["temperature"], cell["commit"]) == (4.0, "abc")
        assert list(found.results.histories[PAIR]["cell"]) == [KD] * 18

    def test_averaged_weights(self, project):
        finish("resnet14", 88.0)
        finish(KD, 80.0)
        kept = history(*[0.0] * 17, 80.0).assign(ema_test_top1=81.23456)
        kept.to_csv(partial.RUNS / PAIR / KD / run_folder.HISTORY, index=False)
        assert [(cell["top1"], cell["top1_ema"]) for cell in self.cells()] == [(80.0, 81.2346)]

    def test_costs_are_those_of_evaluation(self, project):
        finish("resnet14", 88.0)
        found = partial.collect().results.evaluations[0]["student"]
        network = loop.create("resnet8", 10, 0, device.choose())
        assert found == partial.evaluation.cost(network, 16)

    def test_a_student_with_another_end_has_its_own_cost(self, project, capsys):
        """Before it is evaluated; only the end in the file of its weights tells it."""
        yamlfile.write(project / "params.yaml", {**yamlfile.read("params.yaml"), "baselines": ["vanilla", "simkd"]})
        plan()
        finish("resnet14", 88.0)
        finish(VANILLA, 70.0)
        name = f"{PAIR}-simkd-base-0"
        finish(name, 80.0)
        assert [cell.get("cost") for cell in self.cells()] == [None, None]
        assert f"{name}/weights.safetensors: " in capsys.readouterr().err
        student = methods.get("simkd").other_end(
            networks.create("resnet8", 10), outputs=64, factor=2, size=[4, 4], bias=True
        )
        checkpoints.save(student, partial.RUNS / PAIR / name / run_folder.WEIGHTS)
        found = partial.collect().results
        of_simkd = next(cell for cell in found.evaluations[0]["cells"] if cell["name"] == name)
        assert of_simkd["cost"] == partial.evaluation.cost(student, 16)
        assert found.own_costs(PAIR) == [([Row("simkd")], of_simkd["cost"], 1)]

    def test_evaluation_where_it_is_current(self, project):
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        finish(VANILLA, 70.0)
        evaluate(kd=81.0, vanilla=71.0)
        finish(DKD, 79.0)
        finish(VANILLA, 72.0)
        found = {cell["name"]: (cell["top1"], cell.get("agreement")) for cell in self.cells()}
        assert found == {KD: (81.0, 88.0), DKD: (79.0, None), VANILLA: (72.0, None)}
        assert partial.collect().results.evaluations[0]["teacher"]["top1"] == 91.0

    def test_evaluation_of_another_training_at_the_same_commit(self, project):
        """Its accuracies may even be the same."""
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        evaluate(kd=81.0)
        assert self.cells()[0]["top1"] == 81.0
        (partial.RUNS / PAIR / KD / run_folder.WEIGHTS).write_text("others")
        assert self.cells()[0]["top1"] == 80.0

    @pytest.mark.parametrize(("file", "said"), [
        ("teachers/resnet14/weights.safetensors", "the weights of its teacher resnet14 are others since"),
        ("data/digits/manifest.json", "the data set digits is another one since"),
    ])  # fmt: skip
    def test_what_another_teacher_taught_or_other_images_does_not_count(self, project, capsys, file, said):
        finish("resnet14", 92.5)
        files = project / "data/digits/manifest.json", project / "teachers/resnet14" / WEIGHTS
        finish(KD, 80.0, **made_from.describe(*map(file_sha256, files)))
        assert [cell["top1"] for cell in self.cells()] == [80.0]
        with (project / file).open("a") as there:
            there.write(" ")
        assert self.cells() == []
        assert capsys.readouterr().err == f"warning: {KD}: {said}; it counts as not there\n"

    def test_the_evaluation_of_a_teacher_that_is_gone(self, project, capsys):
        """Cells that no teacher taught stay as they are."""
        finish("resnet14", 92.5)
        finish(VANILLA, 70.0)
        evaluate(vanilla=71.0)
        assert partial.collect().results.evaluations[0]["teacher"]["top1"] == 91.0
        finish("resnet14", 95.5)
        (found,) = partial.collect().results.evaluations
        assert found["teacher"]["top1"] == 95.5
        assert [cell["top1"] for cell in found["cells"]] == [71.0]
        finish("resnet14", 95.5, made_from={"data": "0" * 64})
        assert partial.collect().results.evaluations == []
        assert "resnet14: the data set digits is another one since" in capsys.readouterr().err

    def test_changes_accepted_since_the_evaluation(self, project, capsys):
        finish("resnet14", 92.5, accepted=[{"reason": "renamed"}])
        finish(KD, 80.0)
        evaluate(kd=81.0)
        finish(KD, 80.0, accepted=[{"reason": "a field more"}])
        (cell,) = self.cells()
        assert (cell["top1"], cell["accepted"]) == (81.0, [{"reason": "a field more"}])
        assert partial.collect().results.card["accepted"] == {"resnet14": ["renamed"]}
        finish(KD, 80.0, accepted=[{}])
        assert self.cells() == []
        assert "meta.json: is damaged (accepted.0.reason: Field required)" in capsys.readouterr().err

    def test_times(self, project):
        """The latest of those that were trained here from this card, from the first epoch on, and not beside others."""
        finish("resnet14", 92.5)
        for name in (KD, DKD, VANILLA):
            finish(name, 80.0)
        cards = {name: file_sha256(card_file(name)) for name in (KD, DKD, VANILLA)}
        log = [
            made_up.timing(KD, card=cards[KD], epochs=18, seconds=1.0),
            made_up.timing(KD, card=cards[KD], epochs=18, seconds=2.0),
            made_up.timing(KD, card=cards[KD], epochs=3, seconds=3.0),
            made_up.timing(KD, card=cards[DKD], epochs=18, seconds=4.0),
            made_up.timing(DKD, card=cards[DKD], epochs=17, seconds=5.0),
            made_up.timing(VANILLA, card=cards[VANILLA], epochs=18, seconds=6.0, beside=1),
        ]
        timings.FILE.parent.mkdir(exist_ok=True)
        timings.FILE.write_text("".join(f"{json.dumps(asdict(timing))}\n" for timing in log))
        assert partial.collect().results.timings == {KD: log[1]}
        assert all(key not in cell for cell in self.cells() for key in ("seconds", "images_per_second"))

    def test_results_of_another_card(self, project):
        finish("resnet14", 92.5)
        finish(KD, 80.0, recipe={"temperature": 2.0})
        assert self.cells() == []

    def test_published_teacher(self, project):
        card = {**card_of("resnet14"), "source": "published"}
        yamlfile.write(CARDS / "teacher/resnet14.yaml", card)
        finish("resnet14", adopted={"source": "x.pth", "sha256": "0" * 64}, top1=93.21)
        (partial.TEACHERS / "resnet14" / run_folder.HISTORY).unlink()
        assert partial.collect().results.evaluations[0]["teacher"]["top1"] == 93.21

    def test_unfinished_cells(self, project):
        begin("resnet14", 60.0)
        assert [str(one) for one in partial.collect().unfinished] == ["resnet14: 1 of 6 epochs, 60.00%"]
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        begin(KD, 79.0)
        begin(DKD, 50.0, 61.0)
        found = partial.collect()
        assert [str(one) for one in found.unfinished] == [f"{DKD}: 2 of 18 epochs, 61.00%"]
        assert list(found.results.histories[PAIR]["cell"]) == [KD] * 18 + [DKD] * 2

    def test_histories_of_another_plan(self, project):
        begin("resnet14", 60.0)
        os.utime(live_file("resnet14"), (1, 1))
        assert partial.collect().unfinished == []

    def test_with_validation(self, project):
        """Before the evaluation: the counts are those of the split, and its history chooses the epoch."""
        section = {**yamlfile.read("params.yaml")["data"], "validation": 0.25}
        with whole(partial.DATA / "digits") as data:
            storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=4), data)
        known = {key: yamlfile.read(ROOT / f"data/{key}.yaml") for key in ("recipes", "teachers")}
        matrix = params.load("params.yaml", data=section)
        for name, card in make_cards(
            matrix, published_recipes=known["recipes"], known_teachers=known["teachers"]
        ).items():
            yamlfile.write(CARDS / f"{name}.yaml", card)
        finish("resnet14", 92.5)
        finish(KD, 80.0, 79.0)
        assert partial.collect().results.evaluations == []  # histories without accuracies on validation images
        for name in ("resnet14", KD):
            folder = partial.TEACHERS / name if name == "resnet14" else partial.RUNS / PAIR / name
            rows = pd.read_csv(folder / run_folder.HISTORY)
            rows["val_top1"] = [*[0.0] * (len(rows) - 2), 70.0, 60.0]
            rows.to_csv(folder / run_folder.HISTORY, index=False)
        (cell,) = self.cells()
        assert (cell["top1"], cell["top1_best"], cell["val_top1"]) == (79.0, 80.0, 60.0)
        (found,) = partial.collect().results.evaluations
        assert found["train_images"] == 30

    @pytest.mark.parametrize(("name", "content"), [
        (run_folder.HISTORY, ""),
        (run_folder.HISTORY, "epoch,train_top1,test_top1\n1,50.0,50.0\n"),
        (run_folder.HISTORY, "epoch,train_top1,test_top1\n1,50.0"),
        (run_folder.HISTORY, b"\xff\x00"),
        (run_folder.HISTORY, None),
        (run_folder.WEIGHTS, None),
        (run_folder.META, "{"),
    ])  # fmt: skip
    def test_damaged_run(self, project, capsys, name, content):
        """Also a history that ends at the end of a line."""
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        finish(DKD, 79.0)
        damage(partial.RUNS / PAIR / KD / name, content)
        assert [cell["name"] for cell in self.cells()] == [DKD]
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {partial.RUNS / PAIR / KD / name}: ")
        assert said.endswith("; it counts as not there\n")

    def test_damaged_live_history_of_an_emptied_run(self, project, capsys):
        finish("resnet14", 92.5)
        (partial.RUNS / PAIR / KD).mkdir(parents=True)
        for content in ("", "epoch,train_top1,test_top1\n1,50", "of another card\n", b"\xff\x00"):
            begin(KD, 50.0)
            damage(live_file(KD), content)
            assert partial.collect().unfinished == []
            assert capsys.readouterr().err.startswith(f"warning: scratch/live/{KD}.csv: is damaged (")

    @pytest.mark.parametrize("content", ["{}", "[]", "{", '{"cells": [{}]}', '{"cells": 3}'])
    def test_damaged_evaluation(self, project, capsys, content):
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        evaluate(kd=81.0)
        damage(partial.EVALUATIONS / PAIR / "metrics.json", content)
        assert self.cells()[0]["top1"] == 80.0
        assert capsys.readouterr().err.startswith(f"warning: evaluations/{PAIR}/metrics.json: is damaged (")

    def test_damaged_teacher(self, project, capsys):
        finish("resnet14", 92.5)
        damage(partial.TEACHERS / "resnet14" / run_folder.HISTORY, "")
        assert partial.collect().results.evaluations == []
        assert capsys.readouterr().err.startswith("warning: teachers/resnet14/history.csv: ")

    def cells(self):
        return partial.collect().results.evaluations[0]["cells"]


class TestReport:
    def test_parts(self, project, capsys):
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        finish(VANILLA, 70.0)
        begin(DKD, 50.0, 61.0)
        before = set(project.rglob("*"))
        report.main()
        assert capsys.readouterr().out.splitlines() == [
            "2 of 5 cells have a result",
            f"unfinished: {DKD}: 2 of 18 epochs, 61.00%",
            "see scratch/report/report.html",
        ]
        made = {path.relative_to(project).parts[:2] for path in set(project.rglob("*")) - before}
        assert made == {("scratch", "report")}
        assert "missing" in (partial.OUT / "digits.md").read_text()
        assert "Training time" not in (partial.OUT / "report.html").read_text()

    def test_training_time_is_shown(self, project):
        finish("resnet14", 92.5)
        finish(KD, 80.0)
        meta = {**card_of(KD), **MADE}
        run = partial.RUNS / PAIR / KD
        timings.record(card_file(KD), run, meta, epochs=18, seconds=7200, images_per_second=12345.6)
        report.main()
        page = (partial.OUT / "report.html").read_text()
        assert "Training time of rows" in page
        assert ">120.00<" in page
        assert ">12,346<" in page

    def test_nothing_trained(self, project):
        report.main()
        assert pd.read_csv(partial.OUT / "digits.csv")["missing"].sum() == 6


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """A card of two epochs and its data."""
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "data/digits") as folder:
        storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=1), folder)
    yamlfile.write(tmp_path / "card.yaml", CARD)
    return tmp_path / "card.yaml"


class TestLive:
    LIVE = live_file(CARD["name"])

    def test_from_the_first_epoch_until_the_results(self, cell, monkeypatch):
        """Also of a run that was killed, whatever has become of the file meanwhile."""
        with monkeypatch.context() as patch:
            advance = TrainingProgress._on_step

            def killed(self, images):
                advance(self, images)
                if self.last:
                    raise Killed

            patch.setattr(TrainingProgress, "_on_step", killed)
            with pytest.raises(Killed):
                experiment.run(cell, cell.parent / "run")
        assert len(pd.read_csv(self.LIVE)) == 1
        assert pulse.pulses()[CARD["name"]].epoch == 1
        self.LIVE.write_text("of another card\n")
        epochs, written = [], []
        steps, write = loop.steps, run_folder.write

        def on_steps(*arguments, **options):
            epochs.append(len(pd.read_csv(self.LIVE)))
            yield from steps(*arguments, **options)

        def on_write(out, *arguments, **options):
            write(out, *arguments, **options)
            written.append(self.LIVE.read_bytes())

        monkeypatch.setattr(loop, "steps", on_steps)
        monkeypatch.setattr(run_folder, "write", on_write)
        experiment.run(cell, cell.parent / "run")
        assert epochs == [1]
        assert written == [(cell.parent / "run" / run_folder.HISTORY).read_bytes()]
        assert list(pulse.LIVE.iterdir()) == []
        assert [timing.epochs for timing in timings.load()] == [1]

    def test_one_process_of_several_writes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        row = {"epoch": 1, "loss": 1.0, "test_top1": 50.0}
        for shown in (False, True):
            with TrainingProgress("x", 2, 10, shown=shown) as watched:
                watched.follow([row])
                watched.callbacks.on_epoch(row)
            assert live_file("x").exists() == pulse_file("x").exists() == shown
        TrainingProgress("x", 2, 10, shown=False).forget()
        assert live_file("x").exists()
        assert pulse_file("x").exists()


class TestPulse:
    """The pulse of a run of three epochs of ten images that is resumed after its first epoch."""

    @pytest.fixture
    def clock(self, monkeypatch):
        class Clock:
            now = 100.0

        monkeypatch.setattr(live.time, "monotonic", lambda: Clock.now)
        monkeypatch.setattr(live.time, "perf_counter", lambda: Clock.now)
        monkeypatch.setattr(live.time, "time", lambda: 1e9 + Clock.now)
        return Clock

    def test_from_its_start_to_its_end(self, tmp_path, monkeypatch, clock):
        monkeypatch.chdir(tmp_path)
        rows = [{"epoch": epoch, "loss": 1 / epoch, "test_top1": 50.0 + epoch} for epoch in (1, 2, 3)]
        seen = {"name": "x", "epochs": 3, "pid": os.getpid(), "host": platform.node()}

        def said(**values):
            return {"x": pulse.Pulse(**seen, updated=1e9 + clock.now, **values)}

        watched = TrainingProgress("x", 3, 10)
        made = rows[:1]
        clock.now += 1
        watched.follow(made)
        first = {"epoch": 1, "loss": 1.0, "test_top1": 51.0}
        assert pulse.pulses() == said(**first, images_per_second=0.0, seconds_left=None)
        before = pulse.pulses()
        clock.now += 4.9
        watched.callbacks.on_step(5)
        assert pulse.pulses() == before
        clock.now += 4.1
        watched.callbacks.on_step(0)
        assert pulse.pulses() == said(**first, images_per_second=0.5, seconds_left=30.0)
        watched.callbacks.on_step(5)
        made.append(rows[1])
        watched.callbacks.on_epoch(rows[1])
        assert pulse.pulses() == said(epoch=2, loss=0.5, test_top1=52.0, images_per_second=1.0, seconds_left=10.0)
        watched.callbacks.on_step(10)
        made.append(rows[2])
        watched.callbacks.on_epoch(rows[2])
        assert pulse.pulses()["x"].seconds_left == 0
        assert watched.trained == 2
        watched.forget()
        assert pulse.pulses() == {}

    def test_before_the_first_epoch(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        TrainingProgress("x", 3, 10).follow([])
        found = pulse.pulses()["x"]
        assert (found.epoch, found.loss, found.test_top1, found.seconds_left) == (0, None, None, None)
        assert not live_file("x").exists()

    def test_of_nobody(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert pulse.pulses() == {}

    def test_that_vanishes_or_is_damaged(self, tmp_path, monkeypatch, capsys):
        """Between listing and reading, or in a loss of power."""
        monkeypatch.chdir(tmp_path)
        for name in ("a", "b", "c"):
            TrainingProgress(name, 3, 10).follow([])
        pulse_file("a").unlink()
        pulse_file("a").symlink_to("nowhere")
        pulse_file("b").write_text('{"name": "b"')
        assert set(pulse.pulses()) == {"c"}
        assert capsys.readouterr().err.startswith("scratch/live/b.json: is damaged and skipped (")

    def test_readers_do_not_import_torch(self, python):
        python("import sys; from kdcore.training import pulse, timings; assert 'torch' not in sys.modules")


@pytest.mark.slow
@pytest.mark.pipeline
def test_of_a_finished_matrix(finished, tmp_path):
    """The same tables as the pipeline's, beside which it writes nothing; and the comparison of revisions."""
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder, symlinks=True)
    assert "5 of 5 cells have a result" in project.run("python", "-m", "stages.report")
    for name in ("digits.csv", "cells.csv", "curves.csv", "metrics.json"):
        assert (project.folder / partial.OUT / name).read_bytes() == (project.folder / "tables" / name).read_bytes()
    assert project.run("git", "status", "--porcelain") == ""
    assert "up to date" in project.dvc("status")
    assert "5 lines: 0 better, 0 worse, 5 equal, 0 not told from noise, 0 unknown" in project.run(
        "python", "-m", "stages.compare", "HEAD"
    )
    unfinished = project.folder / live_file(KD)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(project.folder / "runs" / PAIR / KD / run_folder.HISTORY, unfinished)
    project.dvc("plots", "show", f"scratch/live/{KD}.csv", "-x", "epoch", "-y", "test_top1", "-o", "plots")
    assert "test_top1" in (project.folder / "plots/index.html").read_text()
