"""Which training images are kept for validation, and which of the others are used."""

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcore.data import storage, subsets
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.sources import digits
from kdcore.system.errors import UserError

SHARES = st.floats(0.01, 0.6)


def dataset(*counts, test=(0, 1)):
    """A data set whose image i is the number i; class 0 has the first of `counts` images, and so on."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.broadcast_to(np.arange(len(labels))[:, None, None, None], (len(labels), 2, 2, 3)).astype(np.uint8)
    return Dataset(name="x", classes=[f"class {i}" for i in range(len(counts))], train=Split(images, labels),
                   test=Split(images[:2], np.array(test)), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=2,
                   flip=False)  # fmt: skip


def test_classes_whose_names_begin_alike_are_counted_each():
    """Messages cut long names short."""
    names = [f"Animalia_Chordata_Aves_Passeriformes_Tyrannidae_Empidonax_{name}" for name in ("alnorum", "minimus")]
    found = replace(dataset(1, 9), classes=names)
    assert sorted(subsets.counts(found).values()) == [1, 9]
    with pytest.raises(UserError, match="alnorum' has 1 training images, and 1 of them for validation"):
        subsets.chosen(found, validation=0.1)


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


@given(counts=st.lists(st.integers(3, 40), min_size=1, max_size=6), share=SHARES)
def test_the_draw_is_stratified_and_covers_all(counts, share):
    """Of every class round(share * n), at least one; each image is in one of both parts, in the order of before."""
    whole = dataset(*counts)
    made = subsets.chosen(whole, validation=share)
    kept = [max(1, round(share * count)) for count in counts]
    assert np.bincount(made.validation.labels).tolist() == kept
    assert np.bincount(made.train.labels).tolist() == [count - k for count, k in zip(counts, kept, strict=True)]
    assert sorted(numbers(made.train) + numbers(made.validation)) == numbers(whole.train)
    for part in (made.train, made.validation):
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == whole.train.labels[numbers(part)].tolist()


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), share=SHARES)
def test_the_draw_depends_on_labels_and_share_alone(labels, share):
    first = subsets.validation_positions(np.array(labels), share)
    np.random.default_rng(1).random(7)
    assert first.tolist() == subsets.validation_positions(np.array(labels), share).tolist()


def test_a_class_does_not_decide_what_is_drawn_of_others():
    one, two = (subsets.validation_positions(np.array(labels), 0.5) for labels in ([0] * 9, [0] * 9 + [1] * 5))
    assert two[two < 9].tolist() == one.tolist()
    assert one.tolist() != [0, 1, 2, 3]  # drawn, not the first ones


def test_labels_of_the_test_change_nothing():
    one, two = (subsets.chosen(dataset(5, 7, test=test), validation=0.2) for test in ((0, 1), (1, 1)))
    assert numbers(one.validation) == numbers(two.validation)


def test_the_same_images_in_every_version():
    """What was drawn once stays drawn: results compare over versions of this project."""
    assert subsets.validation_positions(np.repeat([0, 1], 10), 0.3).tolist() == [0, 3, 8, 11, 15, 16]


def test_first_of_each_class_beside_those_for_validation():
    whole = dataset(8, 8)
    made = subsets.chosen(whole, validation=0.25, per_class=3)
    others = [i for i in range(16) if i not in numbers(made.validation)]
    expected = [[i for i in others if whole.train.labels[i] == label][:3] for label in (0, 1)]
    assert numbers(made.train) == sorted(expected[0] + expected[1])
    assert len(made.validation.labels) == 4


def test_nothing_is_chosen_by_default():
    whole = dataset(3, 3)
    made = subsets.chosen(whole)
    assert (made.train, made.validation, made.augmented) == (whole.train, None, True)
    assert not subsets.chosen(whole, augmented=False).augmented


@pytest.mark.parametrize("kind", ["paths", "stored"])
def test_encoded_images_are_chosen_without_a_copy(tmp_path, kind):
    labels = np.array([0, 1] * 5)
    split = Encoded(pa.table({"path": [f"{i}.png" for i in range(10)], "label": labels}), tmp_path)
    whole = Dataset(name="x", classes=["a", "b"], train=split, test=split, mean=(0.5,) * 3, std=(0.5,) * 3,
                    image_size=8, flip=True)  # fmt: skip
    if kind == "stored":
        storage.save(whole, tmp_path)
        whole = storage.load(tmp_path)
    made = subsets.chosen(whole, validation=0.2, per_class=2)
    assert made.train.table is whole.train.table
    kept = subsets.validation_positions(labels, 0.2).tolist()
    left = [i for i in range(10) if i not in kept]
    expected = sorted([i for i in left if i % 2 == 0][:2] + [i for i in left if i % 2][:2])
    for part in (made.train, pickle.loads(pickle.dumps(made.train))):  # as decoding processes get it
        assert [part.row(i) for i in range(4)] == expected
        assert part.labels.tolist() == [i % 2 for i in expected]
    assert made.validation.labels.tolist() == [i % 2 for i in kept]
    assert made.train.take(np.array([3, 0])).labels.tolist() == [expected[3] % 2, expected[0] % 2]


@pytest.mark.parametrize(("counts", "options", "message"), [
    ((9, 1), {"validation": 0.1}, "data.validation: 0.1: class 'class 1' has 1 training images, and 1 of them for "
                                  "validation would leave none to train on; lower the share, add images of that "),
    ((9, 3), {"validation": 0.9}, "data.validation: 0.9: class 'class 1' has 3 training images, and 3 of them"),
    ((9, 0), {"validation": 0.1}, "data.validation: 0.1: class 'class 1' has 0 training images"),
    ((9, 4), {"per_class": 5}, r"train.per_class: 5: class 'class 1' has 4 training images; lower it to 4 or fewer"),
    ((10, 9), {"per_class": 9, "validation": 0.1}, "train.per_class: 9: class 'class 1' has 8 training images beside "
                                                   "those for validation; lower it to 8 or fewer"),
    ((9, 4), {"per_class": 5, "key": "teachers.a.train.per_class"}, "teachers.a.train.per_class: 5: class 'class 1'"),
])  # fmt: skip
def test_classes_that_are_too_small(counts, options, message):
    with pytest.raises(UserError, match=message):
        subsets.chosen(dataset(*counts), **options)


def test_all_images_of_a_class_may_be_used():
    whole = digits.fetch(source="embedded", image_size=16, train_per_class=4)
    assert len(subsets.chosen(whole, per_class=4).train.labels) == 40
    assert len(subsets.chosen(whole, per_class=3, validation=0.25).train.labels) == 30


def test_cards_of_teachers_name_their_own_key():
    train = {"per_class": 3}
    assert subsets.part_of({"name": "a", "source": "train", "train": train})["key"] == "teachers.a.train.per_class"
    assert subsets.part_of({"name": "a-b-kd-0", "train": train}) == {
        "validation": None, "per_class": 3, "key": "train.per_class",
    }  # fmt: skip
