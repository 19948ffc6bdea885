"""The trainer: schedules, determinism, exact resumption, and losses that are not finite."""

import math
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pytest
import torch

from kdcore.data.dataset import Dataset, Encoded, Split, first_of_each_class
from kdcore.data.feed import Feed
from kdcore.data.sources import digits
from kdcore.data.stream import stream_unaugmented
from kdcore.objective import LogitTerm, Objective
from kdcore.training import loop
from kdcore.training.finite import NotFiniteError
from kdcore.training.inference import predict
from kdcore.training.loop import Callbacks
from kdcore.training.optimizers import learning_rate
from kdcore.training.state import ResumeState
from tests.pictures import write_tree
from tests.train import as_card, carry_out, changed, train, training_settings

CPU = torch.device("cpu")
SETTINGS = training_settings(3, 16, 0.05, schedule="step", milestones=[2], lr_decay=0.1)
COMMON = {"ce_weight": 0.5, "kd_weight": 0.5, "warmup": 2}
KD = {"temperature": 4.0, **COMMON, "complementary_weight": 2.0, "decoupling": "sdd"}
CRD = {"temperature": 0.07, "momentum": 0.5, "negatives": 16, "embedding": 8, **COMMON}
CTKD = {"t_start": 1.0, "t_range": 20.0, "curriculum": 2, "variant": "global", **COMMON}
RECIPES = {
    "kd": KD,
    "mlkd": {"temperature": 4.0, "variant": "as_published", **COMMON},
    "crd+ctkd": {
        "ce_weight": 0.5,
        **{f"{name}.{key}": value for name, recipe in (("crd", CRD), ("ctkd", CTKD)) for key, value in recipe.items()},
        **{f"ctkd.{key}": KD[key] for key in ("complementary_weight", "decoupling")},
    },
}


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def distil(dataset, method="kd", *, seed=0, settings=SETTINGS, **options):
    """The trained student and its adapters, and the history."""
    teacher = loop.create("wrn_16_1", 10, 7, CPU)
    card = {
        "name": "cell",
        "student": "resnet8",
        "method": method,
        "recipe": RECIPES[method],
        "seed": seed,
        "levels": [1, 2],
    }
    card |= {"stand": True, "train": as_card(settings)}
    student, goal, history = carry_out(card, dataset, teacher, **options)
    return torch.nn.ModuleDict({"student": student, "adapters": goal}), history


def same_bits(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_step_schedule_decays_once_the_epoch_exceeds_a_milestone():
    settings = training_settings(240, 64, 0.05, schedule="step", milestones=[150, 180, 210], lr_decay=0.1)
    rates = [learning_rate(settings, epoch) for epoch in (1, 150, 151, 180, 181, 211, 240)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-5, 5e-5])


def test_cosine_schedule():
    settings = training_settings(10, 64, 0.2)
    assert learning_rate(settings, 1) == pytest.approx(0.2)
    assert learning_rate(settings, 6) == pytest.approx(0.1)
    assert learning_rate(settings, 10) == pytest.approx(0.1 * (1 + math.cos(0.9 * math.pi)))


def test_one_step_is_sgd_with_momentum_and_decay(dataset):
    """Against the update written out, on one batch and one epoch."""
    student, reference = (loop.create("resnet8", 10, 0, CPU) for _ in range(2))
    settings = training_settings(1, 1000, 0.1, weight_decay=0.01)
    train(student, None, Objective(1.0), dataset, settings, seed=5)
    feed = Feed(dataset, CPU)
    seen = next(feed.batches(1000, views=1, seed=5, epoch=1))
    torch.nn.functional.cross_entropy(reference.train()(seen.views[0]).logits, feed.labels[seen.index]).backward()
    for (key, got), start in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(got, start - 0.1 * (start.grad + 0.01 * start), msg=key)


def test_equal_seeds_give_equal_bits_and_others_do_not(dataset):
    (first, history), (second, again), (other, _) = (distil(dataset, seed=seed) for seed in (0, 0, 1))
    assert history == again
    assert same_bits(first, second)
    assert not same_bits(first, other)


def test_seed_determines_the_initial_weights_whatever_was_drawn_before():
    first = loop.create("resnet8", 10, 3, CPU)
    torch.rand(100)
    assert same_bits(first, loop.create("resnet8", 10, 3, CPU))


def test_teacher_stays_as_it_is(dataset):
    teacher = loop.create("wrn_16_1", 10, 7, CPU).train()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = loop.create("resnet8", 10, 0, CPU)
    goal = Objective(0.5, [LogitTerm("kd", KD)])
    train(student, teacher, goal, dataset, SETTINGS, seed=0)
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_history(dataset):
    rows = []
    _, history = distil(dataset, callbacks=Callbacks(on_epoch=rows.append))
    assert rows == history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["lr"] for row in history] == pytest.approx([0.05, 0.05, 0.005])
    for row in history:
        weight = 0.5 * min(row["epoch"] / 2, 1)
        assert list(row) == ["epoch", "lr", "loss", "ce", "kd", "train_top1", "test_top1"]
        assert row["loss"] == pytest.approx(0.5 * row["ce"] + weight * row["kd"], rel=1e-5)
    assert history[-1]["loss"] < history[0]["loss"] * 2


CELL = {"name": "cell", "student": "resnet8", "method": "vanilla", "recipe": {"ce_weight": 1.0}, "seed": 0,
        "train": as_card(SETTINGS)}  # fmt: skip


def carried_out(dataset, **changes):
    card = {**CELL, **changes}
    student, _, history = carry_out(card, loop.seen_by(card, dataset), None)
    return student, history


def test_validation_images_are_measured_and_not_learnt(dataset):
    student, history = carried_out(dataset, validation=0.25)
    seen = loop.seen_by({**CELL, "validation": 0.25}, dataset)
    alone, without = carried_out(replace(dataset, train=seen.train))
    assert same_bits(student, alone)
    assert [list(row)[-3:] for row in history] == [["train_top1", "val_top1", "test_top1"]] * 3
    assert [{key: value for key, value in row.items() if key != "val_top1"} for row in history] == without
    right = predict(student, seen.validation, seen, CPU).argmax(dim=1) == torch.from_numpy(seen.validation.labels)
    assert history[-1]["val_top1"] == 100 * (int(right.sum()) / 10)


def test_tuning_never_looks_at_test_images(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(
        loop, "predict", lambda network, split, *more: asked.append(split) or predict(network, split, *more)
    )
    _, both = carried_out(dataset, validation=0.25)
    asked.clear()
    _, history = carried_out(dataset, validation=0.25, test=False)
    assert {id(split) for split in asked} & {id(dataset.test)} == set()
    assert len(asked) == SETTINGS.epochs
    assert [{key: value for key, value in row.items() if key != "test_top1"} for row in both] == history


def test_settings_of_training_images(dataset):
    few, _ = carried_out(dataset, train={**CELL["train"], "per_class": 2})
    alone, _ = carried_out(replace(dataset, train=first_of_each_class(dataset.train, 2)))
    assert same_bits(few, alone)
    plain, _ = carried_out(dataset, train={**CELL["train"], "augmentation": "none"})
    same, _ = carried_out(replace(dataset, padding=0))  # digits are not mirrored
    assert same_bits(plain, same)
    assert not same_bits(plain, carried_out(dataset)[0])


def test_streamed_images_are_chosen_like_decoded_ones(tmp_path, monkeypatch):
    """Unaugmented, both are the same pictures, and so the same bits come of them."""
    monkeypatch.setenv("KDCORE_WORKERS", "0")
    write_tree(tmp_path, ["a", "b"], 6)
    paths = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
    streamed = Encoded(pa.table({"path": paths, "label": [0] * 6 + [1] * 6}), tmp_path)
    (pictures,) = stream_unaugmented(streamed, [torch.arange(12)], size=32, device=CPU)
    decoded = Split(pictures.permute(0, 2, 3, 1).contiguous().numpy(), streamed.labels)
    changes = {"validation": 0.34, "train": {**CELL["train"], "per_class": 3, "augmentation": "none", "batch_size": 4}}
    made = []
    for split in (streamed, decoded):
        look = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 32, "flip": True}
        made.append(carried_out(Dataset(name="x", classes=["a", "b"], train=split, test=split, **look), **changes))
    (one, history), (two, again) = made
    assert history == again
    assert same_bits(one, two)
    assert "val_top1" in history[0]


def test_learning(dataset):
    settings = training_settings(20, 8, 0.05)
    student = loop.create("resnet8", 10, 0, CPU)
    history = train(student, None, Objective(1.0), dataset, settings, seed=0)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["test_top1"] > 30  # chance is 10


class KilledError(Exception):
    """Stands for the end of the process."""


DOT = changed(SETTINGS, optimizer="dot", dot_delta=0.075)


@pytest.mark.parametrize(
    ("method", "settings", "killed_in_epoch"),
    [
        ("kd", SETTINGS, 1),
        ("kd", SETTINGS, 2),
        ("kd", SETTINGS, 3),
        ("kd", DOT, 2),
        ("mlkd", SETTINGS, 2),
        ("crd+ctkd", SETTINGS, 1),
        ("crd+ctkd", DOT, 2),
    ],
)
def test_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(
    dataset, tmp_path, method, settings, killed_in_epoch
):
    run = partial(distil, dataset, method, settings=settings)
    expected, expected_history = run()
    state = ResumeState(tmp_path / "state.pt")
    steps_per_epoch = math.ceil(40 / SETTINGS.batch_size)
    steps = iter(range(killed_in_epoch * steps_per_epoch))

    def die(_images):
        if next(steps, None) is None:
            raise KilledError

    if killed_in_epoch < SETTINGS.epochs:
        with pytest.raises(KilledError):
            run(state=state, callbacks=Callbacks(on_step=die))
        assert len(state.load()["history"]) == killed_in_epoch
    else:
        run(state=state)  # killed after its last epoch, before its results were written
    student, history = run(state=state)
    assert history == expected_history
    assert same_bits(student, expected)


def test_dropout_is_drawn_from_seed_and_epoch(dataset, tmp_path):
    """So that an interrupted run of a network with dropout goes on with the draws of an uninterrupted one."""

    def run(settings, seed=0, state=None):
        torch.rand(torch.randint(9, ()))  # whatever was drawn before
        student = loop.create("imagenet_mobilenetv2", 10, 0, CPU)
        train(student, None, Objective(1.0), dataset, settings, seed=seed, state=state)
        return student

    settings = training_settings(2, 20, 0.05, schedule="step", milestones=[1], lr_decay=0.1)
    expected = run(settings)
    assert same_bits(run(settings), expected)
    assert not same_bits(run(settings, seed=1), expected)
    state = ResumeState(tmp_path / "state.pt")
    run(changed(settings, epochs=1, schedule="cosine", milestones=[]), state=state)
    assert same_bits(run(settings, state=state), expected)


def test_long_gradients_are_scaled_down(dataset):
    """One step of plain gradient descent is as long as the gradient, or as the longest allowed."""

    def length_of_step(clip):
        student, start = (loop.create("resnet8", 10, 0, CPU) for _ in range(2))
        settings = training_settings(1, 40, 1.0, momentum=0.0, weight_decay=0.0, grad_clip_norm=clip)
        train(student, None, Objective(1.0), dataset, settings, seed=0)
        moved = zip(student.parameters(), start.parameters(), strict=True)
        return torch.stack([(a - b).norm() for a, b in moved]).norm().item()

    free = length_of_step(None)
    assert length_of_step(2 * free) == pytest.approx(free)
    assert length_of_step(0.5 * free) == pytest.approx(0.5 * free, rel=1e-3)


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


def test_loss_that_is_not_finite_names_epoch_and_step(dataset):
    settings = training_settings(3, 16, 1e30, weight_decay=0.0)
    student = loop.create("resnet8", 10, 0, CPU)
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 2 of 3: loss nan, ce nan; the last finite ones: loss 2"):
        train(student, None, Objective(1.0), dataset, settings, seed=0)
