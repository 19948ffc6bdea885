"""The weight of a method's loss over the epochs."""

import math

import pytest
import torch

from kdcore.methods._schedule import factor
from kdcore.objective import BatchContext, Term

WEIGHTS = {"temperature": 4.0, "kd_weight": 2.0, "warmup": 0}


def test_steps_are_norms_in_240_epochs():
    wanted = [0.1] * 9 + [0.5] * 10 + [1.0] * 160 + [0.5] * 30 + [0.1] * 31
    assert [factor("steps", epoch, 240) for epoch in range(1, 241)] == wanted


def test_cosine_is_wkds_in_240_epochs():
    found = [factor("cosine", epoch, 240, decay_from=0.625) for epoch in range(1, 241)]
    assert found[:150] == [1.0] * 150
    assert found[150:] == pytest.approx([(1 + math.cos(math.pi * (e - 150) / 90)) / 2 for e in range(151, 241)])
    assert found[194] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("epochs", [1, 2, 18, 100])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps"])
def test_any_length_has_a_factor_from_0_to_1(schedule, epochs):
    assert all(0 <= factor(schedule, epoch, epochs, decay_from=0.3) <= 1 for epoch in range(1, epochs + 1))


def weight(recipe, epoch):
    return Term("kd", {**WEIGHTS, **recipe}, epochs=240).weight(BatchContext(torch.arange(1), epoch, torch.Generator()))


def test_weight_is_multiplied_by_the_schedule_and_by_the_warmup():
    assert weight({}, 5) == 2.0
    assert weight({"schedule": "steps"}, 5) == pytest.approx(0.2)
    assert weight({"schedule": "steps", "warmup": 10}, 5) == pytest.approx(0.1)
    assert weight({"schedule": "cosine", "decay_from": 0.5}, 180) == pytest.approx(1.0)


def test_a_schedule_needs_the_number_of_epochs():
    with pytest.raises(ValueError, match="kd needs the number of epochs for its schedule steps"):
        Term("kd", {**WEIGHTS, "schedule": "steps"})
