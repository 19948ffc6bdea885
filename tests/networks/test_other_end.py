"""Students that end as their method wants: trained, saved, read again and counted with that end."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcore import checkpoints, networks, objective
from kdcore.data.sources import digits
from kdcore.methods import norm
from kdcore.networks.cost import multiply_adds, parameters
from kdcore.system.errors import UserError
from kdcore.training import loop
from kdcore.training.device import choose
from tests.train import as_card, card, carry_out, training_settings

CPU = torch.device("cpu")
PAIR = "resnet14-resnet8"


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=2)


def student_of(method, dataset, pair=PAIR, epochs=1):
    """The trained student of a method, and its teacher."""
    teacher = loop.create(pair.split("-")[0], 10, 1, CPU)
    student, goal, _ = carry_out(card(pair, method, as_card(training_settings(epochs, 10, 0.02))), dataset, teacher)
    return student.eval(), teacher, goal


IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["simkd", "catkd", "norm", "simkd+kd", "at+norm"])
@pytest.mark.parametrize("pair", [PAIR, "vgg8-mobilenetv2", "resnet18-wrn_16_1"])
def test_a_file_holds_the_end(method, pair, dataset, tmp_path):
    """The logits after reading are those before; the file alone says how the student ends."""
    student, _, _ = student_of(method, dataset, pair)
    checkpoints.save(student, tmp_path / "weights.safetensors")
    read = checkpoints.restore(pair.split("-")[1], 10, tmp_path / "weights.safetensors", CPU)
    assert torch.equal(read(IMAGES).logits, student(IMAGES).logits)
    assert read.made_by == student.made_by
    assert parameters(read) == parameters(student)


@pytest.mark.parametrize("method", ["simkd", "catkd", "norm"])
def test_logits_are_linear_in_the_average_of_the_last_map(method, dataset):
    """So that such a student has regions like any other."""
    student, _, _ = student_of(method, dataset)
    output = student(IMAGES)
    torch.testing.assert_close(student.classifier(output.final_map.mean(dim=(2, 3))), output.logits)


def test_simkd_has_the_teachers_classifier_and_none_of_its_own(dataset):
    student, teacher, goal = student_of("simkd", dataset, epochs=2)
    assert torch.equal(student.classifier.weight, teacher.fc.weight)
    assert torch.equal(student.classifier.bias, teacher.fc.bias)
    plain = networks.create("resnet8", 10)
    projector = (64 * 32 + 32 * 32 * 9 + 32 * 64) + 2 * (32 + 32 + 64)
    assert parameters(student) == parameters(plain) + projector  # both classifiers are 64 -> 10
    map_of_16 = 4 * 4
    assert multiply_adds(student, 16) == multiply_adds(plain, 16) + map_of_16 * (64 * 32 + 32 * 32 * 9 + 32 * 64)
    assert not list(goal.parameters())


def test_simkd_pools_a_larger_map_to_the_teachers(dataset):
    student, teacher, _ = student_of("simkd", dataset, "vgg8-resnet8")
    assert student(IMAGES).final_map.shape[2:] == teacher(IMAGES).final_map.shape[2:]
    assert student.network(IMAGES).final_map.shape[2] > teacher(IMAGES).final_map.shape[2]


def test_catkd_loses_the_bias_alone(dataset):
    student, _, _ = student_of("catkd", dataset)
    assert parameters(student) == parameters(networks.create("resnet8", 10)) - 10
    assert student.classifier.bias is None


def test_norm_evaluates_the_logits_as_they_are_and_trains_on_normalised_ones(dataset):
    student, _, goal = student_of("norm", dataset)
    logits = student(IMAGES).logits
    seen = goal._task_logits(logits)
    torch.testing.assert_close(seen.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(dim=1, unbiased=False), torch.full((3,), 2.5))
    assert not torch.allclose(seen, logits)
    widths = parameters(student) - parameters(networks.create("resnet8", 10))
    assert widths == 2 * 64 * (8 * 64) + 2 * (8 * 64) + 2 * 64


def test_logit_terms_beside_see_the_student_with_its_end(dataset):
    """KD of the sum is that of the evaluated logits, over the regions too."""
    teacher, plain = (loop.create(name, 10, 1, CPU) for name in ("resnet14", "resnet8"))
    of_kd = {"kd.temperature": 4.0, "kd.kd_weight": 1.0, "kd.warmup": 0}
    of_kd |= {"kd.complementary_weight": 2.0, "kd.decoupling": "sdd"}
    recipe = {"ce_weight": 0.0, "simkd.factor": 2, "simkd.kd_weight": 1.0, "simkd.warmup": 0, **of_kd}
    labels = torch.from_numpy(dataset.train.labels)
    goal, student = objective.build(
        "simkd+kd", recipe, student=plain, teacher=teacher, labels=labels, image_size=16, batch_size=3, epochs=1,
        levels=(1, 2),
    )  # fmt: skip
    assert goal.terms["kd"].heads[0] is student.classifier
    taught = teacher.eval()(IMAGES)
    same = taught._replace(extra=None)  # a student whose map is the teacher's has nothing to learn
    context = objective.BatchContext(torch.arange(3), 1, torch.Generator())
    parts = goal([same], [taught], labels[:3], context)
    torch.testing.assert_close(parts.losses["kd"], torch.zeros(()), atol=1e-6, rtol=0)
    torch.testing.assert_close(parts.losses["simkd"], torch.zeros(()), atol=1e-6, rtol=0)


def test_a_plain_network_is_saved_as_before(tmp_path):
    """Nothing is written beside its weights: results of earlier versions keep their bytes."""
    network = networks.create("resnet8", 10)
    checkpoints.save(network, tmp_path / "ours.safetensors")
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


@pytest.mark.parametrize("described", [
    "no JSON", '{"method": "unheard"}', json.dumps({"method": "kd", "arguments": {}}),
    json.dumps({"method": "simkd", "arguments": {"outputs": -1, "factor": 2, "size": [4, 4], "bias": True}}),
])  # fmt: skip
def test_a_file_with_an_end_that_nobody_can_make_is_refused(described, dataset, tmp_path):
    student, _, _ = student_of("simkd", dataset)
    path = tmp_path / "weights.safetensors"
    checkpoints.save(student, path)
    save_file(load_file(path), path, {checkpoints.OTHER_END: described})
    with pytest.raises(UserError, match=r"weights\.safetensors: says of its student's end what makes none"):
        checkpoints.restore("resnet8", 10, path, choose())


def test_simkd_learns_from_a_teacher_without_bias(dataset, tmp_path):
    """A student of CAT-KD is one."""
    teacher, _, _ = student_of("catkd", dataset, "resnet8-resnet14")
    student, _, _ = carry_out(card(PAIR, "simkd", as_card(training_settings(1, 10, 0.02))), dataset, teacher)
    assert student.classifier.bias is None
    checkpoints.save(student, tmp_path / "weights.safetensors")
    read = checkpoints.restore("resnet8", 10, tmp_path / "weights.safetensors", CPU)
    assert torch.equal(read(IMAGES).logits, student.eval()(IMAGES).logits)


def test_the_networks_dropout_stays():
    network = norm.other_end(networks.create("imagenet_mobilenetv2", 10), expanded=4)
    assert network.dropout.p == 0.2
    assert norm.other_end(networks.create("resnet8", 10), expanded=4).dropout.p == 0
    assert not [key for key in network.state_dict() if "dropout" in key]


def test_a_file_of_another_network_is_called_so(dataset, tmp_path):
    student, _, _ = student_of("simkd", dataset)
    checkpoints.save(student, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="does not fit a WideResNet with the end of simkd of this depth"):
        checkpoints.restore("wrn_16_1", 10, tmp_path / "weights.safetensors", CPU)
