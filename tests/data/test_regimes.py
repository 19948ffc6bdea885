"""Regimes of training data: how many images of each class are used, and which labels are wrong."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcore.data import regimes, storage
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.system.errors import UserError
from kdcore.training import loop, preflight

SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=8)
DRAWN = {
    "symmetric": [0, 0, 1, 0, 2, 2, 1, 1, 0, 1, 2, 2, 1, 1, 2],
    "pairflip": [0, 0, 1, 0, 1, 2, 1, 1, 2, 1, 2, 2, 0, 0, 2],
}
"""The labels of five images of each of three classes."""
SYMMETRIC, PAIRFLIP = ({"kind": kind, "rate": 0.4} for kind in ("symmetric", "pairflip"))


def dataset(*counts):
    """A data set whose image i is the number i; class 0 has the first of `counts` images, and so on."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.broadcast_to(np.arange(len(labels))[:, None, None, None], (len(labels), 2, 2, 3)).astype(np.uint8)
    return Dataset(name="x", classes=[f"class {i}" for i in range(len(counts))], train=Split(images, labels),
                   test=Split(images[:2], labels[:2]), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=2,
                   flip=False)  # fmt: skip


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


def seen(whole, train, **card):
    card = {"name": "a-b-kd-0", "train": train, **card}
    return regimes.applied(loop.seen_by(card, whole), card)


class TestNumbersOfImages:
    def test_a_share_of_every_class_is_the_nearest_number_and_at_least_one(self):
        assert regimes.used([100, 10, 3, 1], {"share": 0.25}) == [25, 2, 1, 1]
        assert regimes.used([500] * 3, {"share": 0.05}) == regimes.used([500] * 3, {"per_class": 25})

    def test_a_long_tail_has_the_published_numbers(self):
        """CIFAR-100-LT with an imbalance of 100 has 10,847 training images, from 500 to 5 of a class."""
        counts = regimes.used([500] * 100, {"long_tail": 100})
        assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10_847)
        assert counts == sorted(counts, reverse=True)
        assert regimes.used([5000] * 10, {"long_tail": 100}) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]

    @pytest.mark.parametrize(("classes", "factor", "expected"), [
        (3, 100, [400, 40, 4]), (5, 16, [400, 200, 100, 50, 25]), (2, 8, [400, 50]), (1, 8, [400]),
    ])  # fmt: skip
    def test_a_long_tail_falls_off_exponentially(self, classes, factor, expected):
        """Whole numbers of images stay whole, whatever the powers are rounded to."""
        assert regimes.used([400] * classes, {"long_tail": factor}) == expected

    def test_the_smallest_class_is_the_measure_of_a_long_tail(self):
        assert regimes.used([50, 40, 900], {"long_tail": 4}) == [40, 20, 10]

    @given(counts=SIZES, share=st.floats(0.01, 0.99))
    def test_a_smaller_share_is_a_part_of_a_larger_one(self, counts, share):
        whole = dataset(*counts)
        few, more = (numbers(seen(whole, {"share": of}).train) for of in (share / 2, share))
        assert set(few) <= set(more) <= {*numbers(whole.train)}
        assert more == sorted(more)

    @pytest.mark.parametrize("train", [{"share": 0.3}, {"long_tail": 4}])
    def test_images_are_the_first_of_each_class_beside_those_for_validation(self, train):
        whole = dataset(10, 10, 10)
        made = seen(whole, train, validation=0.2)
        kept, labels = numbers(made.validation), whole.train.labels
        left = [[i for i in range(30) if labels[i] == label and i not in kept] for label in range(3)]
        counts = regimes.used([8, 8, 8], train)
        assert counts == ([2, 2, 2] if "share" in train else [8, 4, 2])
        assert numbers(made.train) == sorted(i for of, count in zip(left, counts, strict=True) for i in of[:count])
        assert made.train.labels.tolist() == labels[numbers(made.train)].tolist()


class TestLabelNoise:
    @given(counts=SIZES, rate=st.floats(0.01, 0.49), kind=st.sampled_from(["symmetric", "pairflip"]))
    def test_the_rate_is_exact_in_every_class(self, counts, rate, kind):
        labels = dataset(*counts).train.labels
        given = regimes.noisy(labels, len(counts), {"kind": kind, "rate": rate})
        wrong = np.bincount(labels[given != labels], minlength=len(counts)).tolist()
        assert wrong == [round(rate * count) for count in counts]

    def test_pairflip_goes_to_the_next_class_alone(self):
        labels = np.repeat(np.arange(5), 20)
        given = regimes.noisy(labels, 5, PAIRFLIP)
        assert set(((given - labels) % 5)[given != labels].tolist()) == {1}
        assert set(given[(labels == 4) & (given != 4)].tolist()) == {0}

    def test_symmetric_is_even_over_the_other_classes(self):
        """Never the true class; each other one within five standard deviations of its share."""
        labels = np.zeros(40_000, dtype=np.int64)
        given = regimes.noisy(labels, 5, {"kind": "symmetric", "rate": 0.5})
        found = np.bincount(given, minlength=5)
        assert found[0] == 20_000
        assert (abs(found[1:] - 5000) < 5 * np.sqrt(20_000 * 0.25 * 0.75)).all()

    def test_the_wrong_labels_of_a_lower_rate_are_those_of_a_higher_one(self):
        labels = np.repeat(np.arange(4), 50)
        low, high = (regimes.noisy(labels, 4, {**SYMMETRIC, "rate": rate}) for rate in (0.2, 0.6))
        changed = low != labels
        assert (low[changed] == high[changed]).all()
        assert (high != labels).sum() > changed.sum()

    def test_it_depends_on_its_own_seed_alone(self):
        """Not on the seed of training, the method, the pair, nor on what was drawn before."""
        whole = dataset(20, 20)
        first = seen(whole, {"label_noise": SYMMETRIC}, seed=0, method="kd").train.labels
        np.random.default_rng(1).random(7)
        again = seen(whole, {"label_noise": {**SYMMETRIC, "seed": 0}}, seed=5, method="crd").train.labels
        assert first.tolist() == again.tolist()
        other = seen(whole, {"label_noise": {**SYMMETRIC, "seed": 1}}).train.labels
        assert first.tolist() != other.tolist()

    def test_the_same_labels_in_every_version(self):
        """What was drawn once stays drawn: results compare over versions of this project."""
        labels = np.repeat([0, 1, 2], 5)
        assert regimes.noisy(labels, 3, SYMMETRIC).tolist() == DRAWN["symmetric"]
        assert regimes.noisy(labels, 3, PAIRFLIP).tolist() == DRAWN["pairflip"]

    def test_images_and_all_other_labels_stay_as_they_are(self):
        whole = dataset(20, 20)
        made = seen(whole, {"label_noise": PAIRFLIP}, validation=0.2)
        clean = seen(whole, {}, validation=0.2)
        assert numbers(made.train) == numbers(clean.train)
        assert (made.train.labels != clean.train.labels).sum() == 2 * round(0.4 * 16)
        assert made.test is whole.test
        assert made.validation.labels.tolist() == whole.train.labels[numbers(made.validation)].tolist()

    def test_it_is_of_the_images_that_are_used(self):
        made = seen(dataset(20, 20), {"label_noise": PAIRFLIP, "share": 0.5})
        true = dataset(20, 20).train.labels[numbers(made.train)]
        assert np.bincount(true[true != made.train.labels]).tolist() == [4, 4]

    @given(counts=SIZES, kind=st.sampled_from(["symmetric", "pairflip"]), share=st.sampled_from([None, 0.5]))
    def test_learnt_labels_are_counted_without_the_images(self, counts, kind, share):
        train = {"label_noise": {"kind": kind, "rate": 0.3}, **({"share": share} if share else {})}
        whole = dataset(*counts)
        used = whole.train.take(np.flatnonzero(regimes._rank(whole.train.labels) < np.array(
            regimes.used(counts, train))[whole.train.labels]))  # fmt: skip
        given = regimes.noisy(used.labels, len(counts), train["label_noise"])
        assert sorted(regimes.learnt(counts, train).tolist()) == sorted(given.tolist())


@pytest.mark.parametrize("kind", ["paths", "stored"])
def test_encoded_images_get_other_labels_without_a_copy(tmp_path, kind):
    labels = np.array([0, 1] * 10)
    split = Encoded(pa.table({"path": [f"{i}.png" for i in range(20)], "label": labels}), tmp_path)
    whole = Dataset(name="x", classes=["a", "b"], train=split, test=split, mean=(0.5,) * 3, std=(0.5,) * 3,
                    image_size=8, flip=True)  # fmt: skip
    if kind == "stored":
        storage.save(whole, tmp_path)
        whole = storage.load(tmp_path)
    train = {"share": 0.5, "label_noise": {"kind": "pairflip", "rate": 0.4}}
    made = seen(whole, train).train
    assert made.table is whole.train.table
    expected = regimes.noisy(labels[:10], 2, train["label_noise"])
    assert made.labels.tolist() == expected.tolist()
    assert [made.row(i) for i in range(10)] == list(range(10))
    decoded = pickle.loads(pickle.dumps(made))  # as decoding processes get it, which ask for no label
    assert [decoded.row(i) for i in range(10)] == list(range(10))
    some = made.take(np.array([7, 2]))
    assert some.labels.tolist() == expected[[7, 2]].tolist()
    assert [some.row(0), some.row(1)] == [7, 2]


def test_without_a_regime_a_data_set_is_itself():
    whole = dataset(3, 3)
    assert regimes.applied(whole, {"name": "x", "train": {"per_class": None, "lr": 0.1}}) is whole


class TestRefused:
    @pytest.mark.parametrize(("counts", "train", "message"), [
        ((40, 30), {"long_tail": 31}, r"train.long_tail: 31: the last class gets 31 times fewer images than the "
                                      r"smallest \(class 'class 1'\) has, 30, and so none; lower it to 30 or less"),
        ((2, 2), {"label_noise": {**PAIRFLIP, "rate": 0.2}}, "train.label_noise: rate 0.2: changes no label, for no "
                                                             "class has more than 2 images that are used"),
        ((4, 4), {"share": 0.25, "label_noise": PAIRFLIP}, "no class has more than 1 images"),
        ((40,), {"label_noise": PAIRFLIP}, "train.label_noise: x has one class"),
    ])  # fmt: skip
    def test_by_the_data_set(self, counts, train, message):
        with pytest.raises(UserError, match=message):
            seen(dataset(*counts), train)

    def test_a_class_without_a_label(self):
        """Of the eight ways in which three images of three classes change labels, two leave every class an image."""
        of = {"label_noise": {"kind": "symmetric", "rate": 0.6}}
        whole, is_left_out = dataset(1, 1, 1), set()
        for seed in range(20):
            train = {"label_noise": {**of["label_noise"], "seed": seed}}
            held = np.bincount(regimes.learnt([1, 1, 1], train), minlength=3)
            is_left_out.add(not held.all())
            if held.all():
                assert sorted(seen(whole, train).train.labels.tolist()) == [0, 1, 2]
            else:
                with pytest.raises(UserError, match=r"rate 0.6: leaves no image with the label of class 'class \d'"):
                    seen(whole, train)
        assert is_left_out == {True, False}

    def test_symmetric_noise_leaves_the_true_label_the_most_frequent(self):
        noise = {"kind": "symmetric", "rate": 0.75}
        card = {"name": "x", "train": {"label_noise": noise}}
        counts = dict.fromkeys("abcd", 100)
        with pytest.raises(UserError, match=r"rate 0.75: kind symmetric must stay below 0.75 with 4 classes"):
            regimes.check(counts, card)
        regimes.check(counts, {"name": "x", "train": {"label_noise": {**noise, "rate": 0.74}}})

    def test_validation_images_do_not_count(self):
        card = {"name": "x", "train": {"long_tail": 9.0}, "validation": 0.2}
        with pytest.raises(UserError, match=r"train.long_tail of variant lt: 9: .* has, 8, and so none"):
            regimes.check({"every class": 10}, card, of=" of variant lt")
        regimes.check({"every class": 10}, {**card, "validation": None})

    def test_teachers_name_their_own_key(self):
        card = {"name": "mine", "source": "train", "train": {"long_tail": 9.0}}
        with pytest.raises(UserError, match=r"teachers.mine.train.long_tail: 9: the last class"):
            regimes.applied(dataset(5, 5), card)


def test_the_plan_checks_each_regime_once_however_many_cells_have_it(monkeypatch):
    checked = []
    monkeypatch.setattr(regimes, "check", lambda counts, card, of: checked.append((card["train"], of)))
    wanted = [
        ({"share": 0.5}, "a"),
        ({"share": 0.5}, "b"),
        ({"share": 0.5, "label_noise": {"kind": "symmetric", "rate": 0.4}}, "b"),
    ]
    cells = {
        f"train/{number}-{seed}": {"train": {**train, "lr": seed}, "variant": variant}
        for number, (train, variant) in enumerate(wanted)
        for seed in (1, 2)
    }
    section = {"name": "cifar100", "source": "download"}
    preflight.check_images({"data": section, **cells})
    assert checked == [({**train, "lr": 1}, f" of variant {variant}") for train, variant in wanted]
