"""A network's weights are found however they are wrapped, and what is not sure is refused."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kdcore import checkpoints, networks, state_dicts
from kdcore.system.errors import UserError


def weights(seed=1):
    torch.manual_seed(seed)
    return networks.create("resnet8", 10).state_dict()


OURS, EMA = weights(), weights(2)
DEEPER = networks.create("resnet14", 10).state_dict()


def prefixed(prefix, content=OURS):
    return {f"{prefix}{key}": value for key, value in content.items()}


def renamed(old, new, content=OURS):
    return {key.replace(f"{old}.", f"{new}.") if key.startswith(f"{old}.") else key: v for key, v in content.items()}


def profiled(content=OURS):
    """What thop leaves beside the weights of every layer."""
    counts = {f"{key.rpartition('.')[0]}.total_{what}": torch.zeros(1) for key in content for what in ("ops", "params")}
    return {**content, **counts, "total_ops": torch.zeros(1, dtype=torch.float64)}


@pytest.fixture
def write(tmp_path):
    """Write a PyTorch checkpoint, which may nest its dictionaries."""

    def write(content):
        torch.save(content, tmp_path / "a.pth")
        return tmp_path / "a.pth"

    return write


@pytest.fixture
def flat(tmp_path):
    """Write a safetensors file, which cannot."""

    def flat(content):
        save_file({key: value.clone() for key, value in content.items()}, tmp_path / "a.safetensors")
        return tmp_path / "a.safetensors"

    return flat


def load(path, **options):
    network = networks.create("resnet8", 10)
    checkpoints.load(path, network, **options)
    return network.state_dict()


def same(loaded, wanted=OURS):
    return all(torch.equal(value, loaded[key]) for key, value in wanted.items() if "num_batches" not in key)


def refusal(path, **options):
    with pytest.raises(UserError) as raised:
        load(path, **options)
    return str(raised.value)


@pytest.mark.parametrize("content", [
    OURS, {"model": OURS}, {"net": OURS, "acc": 71.2, "epoch": 240}, {"state_dict": {"model_state_dict": OURS}},
    {"state": {"a": {"b": {"c": OURS}}}}, {"model": OURS, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    *(prefixed(prefix) for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "student.", "model.", "net.0.")),
    {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
    {**prefixed("module."), "n_averaged": torch.tensor(7)}, profiled(), {"model": profiled()},
    {key.replace(".0.conv", ".0._orig_mod.conv"): value for key, value in OURS.items()},
    {key.replace(".0.", ".0._fsdp_wrapped_module._checkpoint_wrapped_module."): v for key, v in OURS.items()},
    {**OURS, "epoch": 5}, {**prefixed("student."), **prefixed("teacher.", DEEPER)},
    {**prefixed("encoder."), "projector.weight": torch.ones(3, 3)},
    {key: value for key, value in OURS.items() if "num_batches" not in key},
    {"model": OURS, "state_dict": copy.deepcopy(OURS)}, {**OURS, **prefixed("module.")},
    [{"model": OURS}, {"epoch": 3}], (OURS, {"state": {0: {"exp_avg": torch.ones(3)}}}), {"net": {0.999: OURS}},
])  # fmt: skip
def test_found(write, content):
    assert same(load(write(content)))


@pytest.mark.parametrize(("content", "names"), [
    ({"state_dict": OURS, "state_dict_ema": EMA}, ("'state_dict'", "'state_dict_ema'")),
    ({"model": OURS, "best": {"model": EMA}}, ("'model'", "'best/model'")),
    ({"state_dict": {**prefixed("model."), **prefixed("ema_model.module.", EMA)}},
     ("'state_dict/model.'", "'state_dict/ema_model.module.'")),
    ({**OURS, **prefixed("module.", EMA)}, ("the bare file", "'module.'")),
    ({**prefixed("net1."), **prefixed("net2.", EMA)}, ("'net1.'", "'net2.'")),
    ({"a": OURS, "history": [{"loss": 0.1}] * 10_001, "b": {"net": EMA}}, ("'a'", "'b/net'")),
    ({"a": OURS, "b": {"c": {"d": {"e": {"f": {"g": {"h": EMA}}}}}}}, ("'a'", "'b/c/d/e/f/g/h'")),
    ({"state_dict": OURS, "ema": {**EMA, "momentum": torch.tensor(0.999)}}, ("'state_dict'", "'ema'")),
    ({"model": OURS, "swa": [EMA]}, ("'model'", "'swa/0'")), ({"net": OURS, "ema": {0.999: EMA}}, ("'net'", "'ema/0'")),
])  # fmt: skip
def test_several_that_fit_are_named_and_not_guessed(write, content, names):
    path = write(content)
    said = refusal(path)
    assert (
        f"holds several state dicts that fit and differ, {names[0]} and {names[1]}; choose one with weights_key" in said
    )
    for name, wanted in zip(names, (OURS, EMA), strict=True):
        if name != "the bare file" and "momentum" not in content.get("ema", {}):
            assert same(load(path, weights_key=name.strip("'")), wanted)
            assert same(load(path, weights_key=name.strip("'").removesuffix(".")), wanted)


def test_safetensors_are_searched_alike(flat):
    for content in (OURS, prefixed("module._orig_mod."), {**prefixed("student."), **prefixed("teacher.", DEEPER)}):
        assert same(load(flat(content)))
    path = flat({**prefixed("net."), **prefixed("ema.", EMA)})
    assert "'net.' and 'ema.'" in refusal(path) or "'ema.' and 'net.'" in refusal(path)
    assert same(load(path, weights_key="ema"), EMA)
    assert same(load(flat(renamed("fc", "linear")), rename={"linear": "fc"}))
    assert "under 'model', but" in refusal(flat(OURS), weights_key="model")


PARAMETERS = {key: value for key, value in EMA.items() if "running" not in key and "num_batches" not in key}


@pytest.mark.parametrize(("content", "where"), [
    ({"state_dict": OURS, "ema": PARAMETERS}, "ema"),
    ({"model": OURS, "avg_params": [EMA["conv1.weight"]]}, "avg_params"),
    ({"model": OURS, "modelEMA": PARAMETERS}, "modelEMA"),
    ({"model": OURS, "emaModel": PARAMETERS}, "emaModel"),
    ({"model": OURS, "ema-model": PARAMETERS}, "ema-model"),
    ({**prefixed("learner.model."), **prefixed("learner.model_ema.", PARAMETERS)}, "learner.model_ema."),
    ({"ema_net": OURS, "ema": {f"x{key}": value for key, value in EMA.items()}}, "ema"),
    ({"state_dict": OURS, "model_ema": {"shadow_params": list(PARAMETERS.values())}}, "model_ema/shadow_params"),
    ({"model": OURS, "mean_teacher": PARAMETERS}, "mean_teacher"), ({"model": OURS, "slow_weights": PARAMETERS},
                                                                    "slow_weights"),
    ({"model": OURS, "ModelMovingAverage": PARAMETERS}, "ModelMovingAverage"),
    ({**prefixed("student."), **prefixed("teacher.", PARAMETERS)}, "teacher."),
    ({"online": OURS, "target": PARAMETERS}, "target"), ({"online": PARAMETERS, "net": OURS}, "online"),
    ({**prefixed("model."), **{f"model_ema.{key.replace('.', '')}": v for key, v in EMA.items()}}, "model_ema."),
])  # fmt: skip
def test_an_average_that_does_not_fit_is_said(write, capsys, content, where):
    assert same(load(write(content)))
    assert f"seems to be in ['{where}'], but not under the network's names" in capsys.readouterr().err


@pytest.mark.parametrize("content", [
    {"state_dict": OURS, "ema": copy.deepcopy(OURS)}, {"ema": OURS}, {"model": OURS, "ema_decay": torch.tensor(0.9)},
    {"schema": {"a": torch.ones(3)}, "model": OURS}, {"model": OURS, "ema": {"a": 1}},
    {**prefixed("student."), **prefixed("teacher.", DEEPER)}, {"model": OURS, "target": torch.ones(3)},
    {"student": OURS, "teacher": {key: OURS[key] for key in PARAMETERS}},
])  # fmt: skip
def test_what_is_no_other_average_is_not_said(write, capsys, content):
    assert same(load(write(content)))
    assert capsys.readouterr().err == ""


def test_one_of_many_networks(write):
    ensemble = {name: value for i in range(25) for name, value in prefixed(f"models.{i}.", weights(i + 1)).items()}
    assert "'models.0.' and 'models.1.' and 'models.2.' and 'models.3.'" in refusal(write(ensemble))
    assert same(load(write(ensemble), weights_key="models.24"), weights(25))


def test_a_key_leads_to_all_that_lies_below_it(write):
    path = write({"a": {"net": OURS}, "b": {"net": EMA}})
    assert same(load(path, weights_key="a"))
    assert same(load(path, weights_key="b/net"), EMA)
    assert "under 'n', but 'a', 'b'" in refusal(path, weights_key="n")


@pytest.mark.parametrize(("content", "said"), [
    ({"backbone": OURS, "head": {"weight": torch.ones(10, 64)}}, "'backbone' is taken; .* is not used: head"),
    ({**prefixed("backbone."), "new_fc.weight": torch.ones(10, 64)}, "'backbone.' is taken; .* is not used: new_fc"),
    ({"state_dict": OURS, "masks": {"conv1": torch.ones(16, 3, 3, 3)}}, "'state_dict' is taken; .* not used: masks"),
    ({"base": OURS, "lora": {"a": torch.ones(4, 64)}, "delta": {"b": torch.ones(4)}}, "not used: delta, lora"),
    ({"state_dict": OURS, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, ""),
    ({**prefixed("student."), **prefixed("teacher.", DEEPER)}, ""), ({"model": OURS, "scale": 0.1}, ""), (OURS, ""),
])  # fmt: skip
def test_what_may_change_the_network_is_said(write, capsys, content, said):
    assert same(load(write(content)))
    warned = capsys.readouterr().err
    assert re.search(said, warned) if said else warned == ""


def test_weights_beside_an_average_under_the_named_key_are_not_passed_off_as_it(write, capsys):
    """Shadows of parameters have no statistics of batch norm, so what fits is the raw network."""
    shadow = {key: value for key, value in EMA.items() if "running" not in key and "num_batches" not in key}
    path = write({"model": OURS, "ema": {"shadow": shadow, "model": OURS}})
    assert same(load(path, weights_key="ema"))
    assert "'ema/model' is taken; an average of the weights seems to be in ['ema/shadow']" in capsys.readouterr().err
    assert same(load(path, weights_key="ema/model"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [{}, [], {"model": 3}, {"other": OURS}, {"model": {"a": 1}}])
def test_nothing_under_the_key(write, content):
    path = write(content) if isinstance(content, dict) else write({"model": content})
    assert "holds no state dict of tensors, under 'model', but" in refusal(path, weights_key="model")


@pytest.mark.parametrize("content", [
    {"a": torch.zeros(1)}, {key: value for key, value in OURS.items() if key != "fc.bias"},
    {**OURS, "extra.weight": torch.ones(2)}, {**OURS, "temperature": torch.ones(1)},
    {**OURS, "fc.weight": torch.ones(100, 64)}, {"model": DEEPER},
    {**prefixed("student."), "student.extra": torch.ones(2)}, renamed("fc", "linear"),
])  # fmt: skip
def test_what_does_not_fit_exactly_is_refused(write, content):
    assert "does not fit a ResNet of this depth, width and number of classes" in refusal(write(content))


def test_the_nearest_is_described(write):
    said = refusal(write({"ema": {"a": torch.ones(1)}, "net": {**OURS, "fc.bias": torch.ones(100)}}))
    assert "('net' comes nearest)" in said
    assert "fc.bias: (100,) in the file, (10,) in the network" in said
    foreign = {f"blocks.{number}": torch.ones(1) for number in range(9)}
    content = {"state": {0: {"exp_avg": torch.ones(3)}}, "net": foreign}
    assert "('net' comes nearest)" in refusal(write(content))


class TestRename:
    @pytest.mark.parametrize(("content", "rename"), [
        (renamed("fc", "linear"), {"linear": "fc"}),
        ({"model": prefixed("module.", renamed("fc", "head.linear"))}, {"head.linear": "fc"}),
        (renamed("layer1", "stage.0", renamed("fc", "linear")), {"linear": "fc", "stage.0": "layer1"}),
        (renamed("layer2", "layer1", renamed("layer1", "x")), {"layer1": "layer2", "x": "layer1"}),
        (renamed("layer1", "a", renamed("layer1.0", "b")), {"b": "layer1.0", "a": "layer1"}),
        (renamed("layer1", "a", renamed("layer1.0.conv1", "b")), {"a": "layer1", "b": "layer1.0.conv1"}),
    ])  # fmt: skip
    def test_parts_of_other_names(self, write, content, rename):
        assert same(load(write(content), rename=rename))

    @pytest.mark.parametrize(("rename", "message"), [
        ({"linear": "head"}, "rename: linear: head: the network has no head; it has conv1, bn1, layer1"),
        ({"a": "layer1", "b": "layer1"}, "rename: a and b: both stand for layer1"),
        ({"layer2": "layer1"}, "gives two parts of the network one name"), ({"fc": "f"}, "has no f;"),
    ])  # fmt: skip
    def test_bad_input(self, write, rename, message):
        assert message in refusal(write(OURS), rename=rename)

    def test_a_name_that_the_file_lacks(self, write):
        assert "missing ['linear.bias', 'linear.weight'], unknown ['fc.bias', 'fc.weight']" in refusal(
            write(OURS), rename={"linear": "fc"}
        )


@given(
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3), st.text("xyz_0.", max_size=6), st.booleans()
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_wrapping_is_undone(keys, prefix, is_profiled):
    content = prefixed(f"{prefix}." if prefix else "", profiled() if is_profiled else OURS)
    for key in keys:
        content = {key: content, "epoch": 3, "accuracy": torch.tensor(0.7)}
    found = state_dicts.find(content, OURS)
    assert found.fits
    assert same(found.weights)


def test_dictionaries_that_hold_themselves():
    loop = {"a": torch.ones(1)}
    loop["self"] = loop
    assert not state_dicts.find(loop, OURS).fits


def test_a_key_of_a_million_parts():
    assert state_dicts.find({**OURS, "a." * 500_000: torch.ones(1)}, OURS).unknown


def test_sparse_weights_are_refused(write):
    sparse = {**OURS, "fc.weight": OURS["fc.weight"].to_sparse()}
    assert "holds what are no weights, in ['fc.weight" in refusal(write({"model": sparse}))
    assert "fit and differ" in refusal(write({"model": sparse, "ema": sparse}))


def test_dictionaries_without_end():
    deep = {"a": torch.ones(1)}
    for _ in range(1000):
        deep = {"x": deep, "y": deep}
    with pytest.raises(UserError, match="holds no state dict of tensors, anywhere, but 'x', 'y'"):
        state_dicts.find(deep, OURS)
