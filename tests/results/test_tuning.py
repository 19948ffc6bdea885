"""What tables and the report say of values that a search has chosen."""

from dataclasses import replace

import pytest

from kdcore.results import captions, tuning
from kdcore.results.report import page
from kdcore.results.report import tuning as drawn
from tests import made_up

SPACE = {"kd.temperature": "[1, 8]", "train.lr": "log [0.005, 0.1]", "train.nesterov": "one of [True, False]"}
STATES = ("complete", "pruned", "failed", "complete")


def record(**changes):
    trials = [
        {
            "number": number,
            "values": {"kd.temperature": number + 1.5, "train.lr": 0.01 * (number + 1), "train.nesterov": number > 1},
            "score": None if state == "failed" else 80.0 + number,
            "state": state,
        }
        for number, state in enumerate(STATES)
    ]
    protocol = {
        "pairs": ["resnet56-resnet20"], "method": "kd", "scale": 1, "stand": False, "seeds": [0], "validation": 0.1,
        "space": SPACE, "conditions": {}, "trials": {"done": 4, "pruned": 1, "failed": 1},
    }  # fmt: skip
    best = {"trial": 3, "score": 83.0, "values": trials[3]["values"]}
    return {
        "name": "kd", "protocol": {**protocol, **changes}, "best": best, "trials": trials,
        "importances": {"train.lr": 0.7, "kd.temperature": 0.25, "train.nesterov": 0.05},
    }  # fmt: skip


def results(found=None):
    made = made_up.matrix(pairs=made_up.PAIRS[:1], seeds=(0,))
    return replace(made, card={**made.card, "tuning": {"tuned_kd": found or record()}})


def test_a_note_says_how_values_were_chosen():
    (note,) = tuning.notes(results().card)
    assert note == (
        "KD, T=4.5, lr=0.04, nesterov=true: chosen by 4 trials (1 stopped early, 1 diverged) on 10% of the "
        "training images of resnet56-resnet20 (validation accuracy 83.00%); test images were not used."
    )
    assert note in captions.notes(results())
    found = results().card["tuning"]["tuned_kd"]
    (changed,) = tuning.notes({"tuning": {"tuned_kd": {**found, "differs": ["data.name", "train.epochs"]}}})
    assert changed == f"{note} The search had other values of data.name, train.epochs than the cells."
    assert not list(tuning.notes(made_up.matrix(pairs=made_up.PAIRS[:1]).card))


def test_a_note_names_regions_stand_and_seeds():
    found = record(scale=2, stand=True, seeds=[0, 1], trials={"done": 1, "pruned": 0, "failed": 0})
    (note,) = tuning.notes({"tuning": {"tuned_kd": found}})
    assert note.startswith("KD + SDD [1,2] + stand, T=4.5")
    assert "chosen by 1 trial on 10%" in note
    assert "resnet56-resnet20 and 2 seeds (" in note
    assert tuning.label(record(method="at", scale=None, stand=None)).startswith("AT, kd.T=4.5")


def test_the_page_draws_every_parameter_of_a_search():
    (search,) = drawn.searches(results().card)
    assert [chart.x.title for chart in search.charts] == [
        "kd.temperature", "train.lr", "train.nesterov (1: False, 2: True)",
    ]  # fmt: skip
    assert [chart.x.is_log for chart in search.charts] == [False, True, False]
    assert all(len(chart.marks) == 3 for chart in search.charts)  # the one that diverged has no score
    assert [mark.is_hollow for mark in search.charts[0].marks] == [False, True, False]
    assert search.importances[0] == ("train.lr", 70)


@pytest.mark.parametrize("has_search", [True, False])
def test_the_page_has_a_section_of_searches_where_there_are_some(has_search):
    made = results()
    text = page.render(made if has_search else replace(made, card={**made.card, "tuning": {}}))
    assert ('id="tuning"' in text) == ('href="#tuning"' in text) == has_search
    assert ("trial 1: train.lr 0.02, 81.00%, stopped early" in text) == has_search
