"""The trainer: schedules, determinism, exact resumption, and losses that are not finite."""

import math

import pytest
import torch

from kdcore import training
from kdcore.data import digits
from kdcore.errors import UserError
from kdcore.objective import Objective
from kdcore.resume import ResumeState
from kdcore.training import NotFiniteError, Settings, Watcher

CPU = torch.device("cpu")
SETTINGS = Settings(3, 16, 0.05, 0.9, False, 5e-4, "step", (2,), 0.1)
KD = {"temperature": 4.0, "ce_weight": 0.5, "kd_weight": 0.5, "warmup": 2, "complementary_weight": 2.0}


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def distil(dataset, *, seed=0, settings=SETTINGS, **options):
    student = training.create("resnet8", 10, seed, CPU)
    teacher = training.create("wrn_16_1", 10, 7, CPU)
    objective = Objective("kd", KD, levels=(1, 2), stand=True, heads=(student.classifier, teacher.classifier))
    history = training.train(student, teacher, objective, dataset, settings, seed=seed, device=CPU, **options)
    return student, history


def same_bits(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_step_schedule_decays_once_the_epoch_exceeds_a_milestone():
    settings = Settings(240, 64, 0.05, 0.9, False, 5e-4, "step", (150, 180, 210), 0.1)
    rates = [settings.lr_at(epoch) for epoch in (1, 150, 151, 180, 181, 211, 240)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-5, 5e-5])


def test_cosine_schedule():
    settings = Settings(10, 64, 0.2, 0.9, False, 5e-4, "cosine")
    assert settings.lr_at(1) == pytest.approx(0.2)
    assert settings.lr_at(6) == pytest.approx(0.1)
    assert settings.lr_at(10) == pytest.approx(0.1 * (1 + math.cos(0.9 * math.pi)))


def test_one_step_is_sgd_with_momentum_and_decay(dataset):
    """Against the update written out, on one batch and one epoch."""
    student, reference = (training.create("resnet8", 10, 0, CPU) for _ in range(2))
    settings = Settings(1, 1000, 0.1, 0.9, False, 0.01, "cosine")
    training.train(student, None, Objective(None, {"ce_weight": 1.0}), dataset, settings, seed=5, device=CPU)
    images, target = next(
        training._batches(
            torch.from_numpy(dataset.train.images),
            torch.from_numpy(dataset.train.labels),
            dataset,
            1000,
            seed=5,
            epoch=1,
        )
    )
    torch.nn.functional.cross_entropy(reference.train()(images).logits, target).backward()
    for (key, got), start in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(got, start - 0.1 * (start.grad + 0.01 * start), msg=key)


def test_equal_seeds_give_equal_bits_and_others_do_not(dataset):
    (first, history), (second, again), (other, _) = (distil(dataset, seed=seed) for seed in (0, 0, 1))
    assert history == again
    assert same_bits(first, second)
    assert not same_bits(first, other)


def test_seed_determines_the_initial_weights_whatever_was_drawn_before():
    first = training.create("resnet8", 10, 3, CPU)
    torch.rand(100)
    assert same_bits(first, training.create("resnet8", 10, 3, CPU))


def test_teacher_stays_as_it_is(dataset):
    teacher = training.create("wrn_16_1", 10, 7, CPU).train()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = training.create("resnet8", 10, 0, CPU)
    objective = Objective("kd", KD)
    training.train(student, teacher, objective, dataset, SETTINGS, seed=0, device=CPU)
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_history(dataset):
    rows = []
    _, history = distil(dataset, watcher=Watcher(on_epoch=rows.append))
    assert rows == history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["lr"] for row in history] == pytest.approx([0.05, 0.05, 0.005])
    for row in history:
        weight = 0.5 * min(row["epoch"] / 2, 1)
        assert row["loss"] == pytest.approx(0.5 * row["ce"] + weight * row["kd"], rel=1e-5)
    assert history[-1]["loss"] < history[0]["loss"] * 2


def test_learning(dataset):
    settings = Settings(20, 8, 0.05, 0.9, False, 5e-4, "cosine")
    student = training.create("resnet8", 10, 0, CPU)
    history = training.train(student, None, Objective(None, {"ce_weight": 1.0}), dataset, settings, seed=0, device=CPU)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["test_top1"] > 30  # chance is 10


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("killed_in_epoch", [1, 2, 3])
def test_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(dataset, tmp_path, killed_in_epoch):
    expected, expected_history = distil(dataset)
    state = ResumeState(tmp_path / "state.pt")
    steps_per_epoch = math.ceil(40 / SETTINGS.batch_size)
    steps = iter(range(killed_in_epoch * steps_per_epoch))

    def die(_images):
        if next(steps, None) is None:
            raise KilledError

    if killed_in_epoch < SETTINGS.epochs:
        with pytest.raises(KilledError):
            distil(dataset, checkpoint=state, watcher=Watcher(on_step=die))
        assert len(state.load()["history"]) == killed_in_epoch
    else:
        distil(dataset, checkpoint=state)  # killed after its last epoch, before its results were written
    student, history = distil(dataset, checkpoint=state)
    assert history == expected_history
    assert same_bits(student, expected)


def test_state_belongs_to_its_inputs(tmp_path):
    card, weights = tmp_path / "card.yaml", tmp_path / "weights"
    card.write_text("a: 1")
    weights.write_text("w")
    paths = [ResumeState.of(card, weights, device=CPU).path]
    card.write_text("a: 2")
    paths.append(ResumeState.of(card, weights, device=CPU).path)
    weights.write_text("x")
    paths.append(ResumeState.of(card, weights, device=CPU).path)
    assert len(set(paths)) == 3


def test_damaged_state_is_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK half a file")
    with pytest.raises(UserError, match=r"is damaged .* delete it to start anew"):
        ResumeState(tmp_path / "state.pt").load()
    torch.save({"history": []}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="is no state of a run"):
        ResumeState(tmp_path / "state.pt").load()


def test_one_process_at_a_time(tmp_path):
    state, other = (ResumeState(tmp_path / "state.pt") for _ in range(2))
    with state.locked(), pytest.raises(UserError, match="another process trains this"), other.locked():
        pytest.fail("two processes at once")
    with other.locked():
        assert list(tmp_path.iterdir()) == [tmp_path / "state.lock"]
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_not_finite_names_epoch_and_step(dataset):
    settings = Settings(3, 16, 1e30, 0.9, False, 0.0, "cosine")
    student = training.create("resnet8", 10, 0, CPU)
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 2 of 3: .* the last finite ones: \[2"):
        training.train(student, None, Objective(None, {"ce_weight": 1.0}), dataset, settings, seed=0, device=CPU)
