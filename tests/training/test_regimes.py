"""Training under a regime of training data: what methods, tables of teachers and resumed runs see of it."""

import numpy as np
import pytest

from kdcore.data import regimes, storage
from kdcore.data.feed import Feed
from kdcore.data.sources import digits
from kdcore.matrix.code import Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import experiment, loop, run_folder, teacher_cache
from kdcore.training.state import ResumeState
from tests.train import CPU, as_card, card, carry_on, changed, training_settings

PAIR = "wrn_16_1-resnet8"
SETTINGS = training_settings(2, 16, 0.02)
SYMMETRIC, PAIRFLIP = ({"kind": kind, "rate": 0.4} for kind in ("symmetric", "pairflip"))
MOSTLY = {"label_noise": {**SYMMETRIC, "rate": 0.8}}
REGIMES = [{"share": 0.5}, {"long_tail": 4}, {"label_noise": SYMMETRIC}, {"long_tail": 2, "label_noise": PAIRFLIP}]


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def cell(method, regime, **others):
    return card(PAIR, method, as_card(changed(SETTINGS, **regime))) | others


def seen_by(of, dataset):
    return regimes.applied(loop.seen_by(of, dataset), of)


def prepared(of, dataset):
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    return loop.prepare(of, dataset, teacher, device=CPU), teacher


def trained(of, dataset):
    run, teacher = prepared(of, dataset)
    loop.train(run, teacher, dataset)
    return bits(run)


def bits(run):
    parts = {**run.student.state_dict(), **run.objective.state_dict()}
    return [run.history, *(value.tolist() for value in parts.values())]


@pytest.mark.parametrize("regime", REGIMES)
def test_all_cells_of_a_comparison_see_the_same_images_and_labels(dataset, regime):
    """Whatever their method, seed and pair."""
    cells = [cell("kd", regime), cell("crd", regime, seed=3), cell("vanilla", regime, student="vgg8")]
    first, *others = (seen_by(of, dataset).train for of in cells)
    for other in others:
        assert np.array_equal(first.images, other.images)
        assert first.labels.tolist() == other.labels.tolist()


def test_batches_hold_the_wrong_labels_and_the_places_of_their_images(dataset):
    seen = seen_by(cell("kd", {"label_noise": PAIRFLIP}), dataset)
    batches = list(Feed(seen, CPU).batches(16, views=1, seed=0, epoch=1))
    wrong = 0
    for batch in batches:
        assert batch.target.tolist() == seen.train.labels[batch.index.numpy()].tolist()
        wrong += (batch.target.numpy() != dataset.train.labels[batch.index.numpy()]).sum()
    assert wrong == 10 * round(0.4 * 4)


def test_crd_draws_negatives_by_the_labels_that_are_learnt(dataset):
    of = cell("crd", {"label_noise": PAIRFLIP, "share": 0.5})
    seen = seen_by(of, dataset)
    run, _ = prepared(of, seen)
    (adapter,) = [part for part in run.objective.modules() if hasattr(part, "memory_student")]
    assert len(adapter.memory_student) == len(seen.train.labels) == 20
    expected = np.argsort(seen.train.labels, kind="stable")
    assert adapter.others.by_class.tolist() == expected.tolist()
    assert not np.array_equal(expected, np.argsort(dataset.train.labels[:20], kind="stable"))


class TestTables:
    @pytest.fixture
    def tables(self, tmp_path, monkeypatch):
        monkeypatch.setenv(teacher_cache.FOLDER_VARIABLE, str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize(("regime", "count"), [({"share": 0.5}, 2), ({"label_noise": SYMMETRIC}, 1)])
    def test_with_a_table_and_without_the_bits_are_the_same(self, dataset, tables, monkeypatch, regime, count):
        """Also where one of all images was filled before, which noisy labels share and fewer images do not."""
        of, made = cell("kd", regime), []
        for size in ("0", "1"):
            monkeypatch.setenv(teacher_cache.SIZE_VARIABLE, size)
            trained(cell("kd", {}), dataset)
            made.append(trained(of, seen_by(of, dataset)))
        assert made[0] == made[1]
        assert len(list(tables.glob("*/logits"))) == count


@pytest.mark.parametrize("regime", [REGIMES[0], REGIMES[-1]])
def test_a_resumed_run_ends_with_the_same_bits(dataset, tmp_path, regime):
    of = cell("crd", regime)
    expected = trained(of, seen_by(of, dataset))
    state = ResumeState(tmp_path / "state-0.pt")
    run, teacher = prepared(of, seen_by(of, dataset))
    for _ in loop.steps(run, teacher, seen_by(of, dataset)):
        experiment.save_epoch({run: state})
        if run.epoch == 2:
            break
    run, teacher = prepared(of, seen_by(of, dataset))
    carry_on(run, teacher, seen_by(of, dataset), state)
    assert bits(run) == expected


class TestExperiment:
    """The call that trains a card, as stages train and teacher do."""

    @pytest.fixture
    def run(self, dataset, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data/digits").mkdir(parents=True)
        storage.save(dataset, tmp_path / "data/digits")

        def run(regime, out="out", **changes):
            of = cell("vanilla", regime, data="digits", **changes)
            yamlfile.write(tmp_path / "card.yaml", of)
            experiment.run(tmp_path / "card.yaml", tmp_path / out)
            return run_folder.read_history(tmp_path / out / run_folder.HISTORY, of)

        return run

    def test_it_trains_on_the_regime_and_measures_on_true_labels(self, run, dataset):
        clean = run({}, "clean")
        for number, regime in enumerate((MOSTLY, {"share": 0.5})):
            of, history = cell("vanilla", regime), run(regime, str(number))
            assert seen_by(of, dataset).test is dataset.test
            student = loop.prepare(of, seen_by(of, dataset), None, device=CPU)
            loop.train(student, None, seen_by(of, dataset))
            for key in ("loss", "train_top1", "test_top1"):
                assert history[key].tolist() == pytest.approx([row[key] for row in student.history], abs=1e-3)
            assert history["loss"].tolist() != clean["loss"].tolist()

    def test_validation_images_have_their_own_labels(self, run, dataset):
        of = cell("vanilla", MOSTLY, validation=0.25)
        clean = loop.seen_by(of, dataset)
        assert seen_by(of, dataset).validation.labels.tolist() == clean.validation.labels.tolist()
        assert "val_top1" in run(MOSTLY, validation=0.25)

    def test_a_card_without_the_fingerprint_of_the_regimes_is_of_other_code(self, run):
        code = Code(ROOT).training("resnet8")
        with pytest.raises(UserError, match=r"the code has changed since the plan \(images\); run the same command"):
            run({"share": 0.5}, code=code)
        run({}, code=code)

    def test_refused_before_training(self, run, tmp_path):
        with pytest.raises(UserError, match=r"train.long_tail: 9: the last class gets 9 times fewer images"):
            run({"long_tail": 9})
        assert not (tmp_path / "scratch").exists()
        assert not (tmp_path / "out").exists()
