"""Networks: the output contract, and equality with the published code."""

import sys
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from kdcore import catalog, checkpoints, networks
from kdcore.methods import ofd
from kdcore.networks.contract import Output
from kdcore.system.errors import UserError
from tests.reference import DATA, FOLDER, needs_data, needs_reference

NAMES = networks.names()
PUBLISHED = [
    *(f"resnet{depth}" for depth in (8, 14, 18, 20, 32, 44, 50, 56, 110)), "resnet8x4", "resnet32x4",
    "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19",
    "mobilenetv2", "shufflenetv1", "shufflenetv2",
]  # fmt: skip
"""Those whose published code the reference material has run."""
IMAGENET = [name for name in NAMES if name.startswith("imagenet_")]
TRANSFORMERS = ["cvt_13", "pvt_ti", "t2t_vit_14", "t2t_vit_7"]
SMALL = [name for name in NAMES if name != "pvt_ti"]
"""Those that take images of 16 pixels."""
MOBILE = ["mobilenetv1", "mobilenetv2", "shufflenetv1", "shufflenetv2"]
FAMILIES = ["resnet8", "wrn_16_1", "resnet18", "resnet50", "vgg8", *MOBILE]
STEMMED = {"resnet8x4": 32, "resnet20": 16, "resnet18": 64, "wrn_16_2": 16, "shufflenetv1": 24, "shufflenetv2": 24}
"""Channels of the stems."""
FIRST_LAYER = {"mobilenetv1": "model.0.0.weight", "mobilenetv2": "conv1.0.weight"}
"""Those that are called otherwise than `conv1`."""
LARGE_STAGES = {
    "resnet8x4": [(32, 112), (64, 112), (128, 56), (256, 28)],
    "resnet50": [(64, 112), (256, 112), (512, 56), (1024, 28), (2048, 14)],
    "wrn_16_2": [(16, 112), (32, 112), (64, 56), (128, 28)],
    "shufflenetv1": [(24, 112), (240, 56), (480, 28), (960, 14)],
    "shufflenetv2": [(24, 112), (116, 56), (232, 28), (464, 14)],
    "shufflenetv2_x1_5": [(24, 112), (176, 56), (352, 28), (704, 14)],
    "mobilenetv1": [(32, 112), (128, 56), (256, 28), (512, 14)],
    "mobilenetv2": [(16, 56), (12, 56), (16, 28), (48, 14), (160, 7)],
    "vgg8": [(64, 224), (128, 112), (256, 56), (512, 28), (512, 28)],
    "imagenet_resnet18": [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)],
    "imagenet_resnet50": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "imagenet_mobilenetv1": [(32, 112), (128, 56), (256, 28), (512, 14), (1024, 7)],
    "imagenet_mobilenetv2": [(32, 112), (24, 56), (32, 28), (96, 14), (320, 7)],
}
"""Channels and sides for images of 224 pixels. The last sides are what SDD's code averages over for CUB-200, and those
of the ResNets and MobileNetV1 for ImageNet are what mdistiller's recipes of ReviewKD list.
"""


@cache
def fingerprints():
    return yaml.load((FOLDER / "networks/index.yaml").read_text(), Loader=yaml.CSafeLoader)


def fill(shapes):
    sys.path.insert(0, str(FOLDER / "networks"))
    try:
        import fill
    finally:
        sys.path.pop(0)
    return fill.fill_state_dict(shapes), fill.make_input(4, 32)


@needs_reference
def test_no_published_network_is_left_out():
    assert sorted(fingerprints()) == sorted(PUBLISHED)


@needs_reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_published_network(name):
    expected = fingerprints()[name]
    network = networks.create(name, 100).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == expected["state_dict"]
    assert list(shapes) == list(expected["state_dict"])
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]

    weights, images = fill(shapes)
    arrays = np.load(FOLDER / "networks/expected.npz")
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        network.to(dtype).load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        with torch.no_grad():
            out = network(torch.from_numpy(images).to(dtype))
        assert [list(stage.shape[1:]) for stage in out.stages] == expected["stage_shapes"]
        for field in ("logits", "pooled"):
            want = arrays[f"{name}/{field}"]
            error = np.abs(getattr(out, field).double().numpy() - want).max()
            assert error <= tolerance * np.abs(want).max()


FIRST_LOGITS = {
    # StreamLined:CIFAR-100/Models/mobilenetv1.py, commit 7458628
    "mobilenetv1": [0.14594718547322505, 0.14579897808733436, 0.14575966176541527, 0.1458045984348065],
    # SimKD:models/ShuffleNetv2.py, commit 2b389c3
    "shufflenetv2_x1_5": [-0.12727037802086139, -0.12929389825578638, -0.1324024018877675, -0.13111988912841765],
}
"""What published code, which the reference material has not run, gives the first class for four images in float64, with
the weights that the reference material fills the keys of that code with.
"""


@needs_reference
@pytest.mark.parametrize("name", FIRST_LOGITS)
def test_first_logits_are_those_of_published_code(name):
    network = networks.create(name, 100).eval().double()
    weights, images = fill({key: list(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    with torch.no_grad():
        found = network(torch.from_numpy(images)).logits[:, 0]
    torch.testing.assert_close(found, torch.tensor(FIRST_LOGITS[name], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "size", "stem"), [
    *((name, 16, "small") for name in SMALL),
    *((name, 32, "small") for name in NAMES),
    *((name, 64, "large") for name in NAMES),
    *((name, 64, "small") for name in (*FAMILIES, *IMAGENET)),
    *((name, 16, "large") for name in FAMILIES),
    *((name, 224, "large") for name in LARGE_STAGES),
])  # fmt: skip
def test_output_contract(name, size, stem):
    network = networks.create(name, 7, stem=stem).eval()
    with torch.no_grad():
        out = network(torch.randn(1 if size == 224 else 2, 3, size, size))
    assert isinstance(out, Output)
    assert out.logits.shape == (len(out.pooled), 7)
    torch.testing.assert_close(network.classifier(out.pooled), out.logits)
    assert len(out.stages) > 2
    if name in TRANSFORMERS:
        assert (out.preacts, network.norms, out.final_map) == ((), (), None)
        return
    assert all((preact < 0).any() for preact in out.preacts)  # no ReLU has gone over them, as one in place would
    assert [s.shape for s in out.stages] == [p.shape for p in out.preacts]
    torch.testing.assert_close(out.final_map.mean(dim=(2, 3)), out.pooled)
    assert [norm.num_features for norm in network.norms] == [preact.shape[1] for preact in out.preacts[1:]]


@pytest.mark.parametrize(("name", "rectified"), [
    *((name, range(9)) for name in ("resnet8", "resnet18", "resnet50", "vgg8", *MOBILE) if name != "mobilenetv2"),
    *((name, range(9)) for name in IMAGENET if name != "imagenet_mobilenetv2"),
    ("mobilenetv2", [0]),
    ("imagenet_mobilenetv2", [0]),
])  # fmt: skip
@pytest.mark.parametrize("stem", networks.STEMS)
def test_stages_are_their_preacts_rectified(name, rectified, stem):
    """Or, behind the linear bottlenecks of MobileNetV2, as they are."""
    with torch.no_grad():
        out = networks.create(name, 7, stem=stem).eval()(torch.randn(2, 3, 16, 16))
    highest = 6 if name == "imagenet_mobilenetv2" else float("inf")
    for i, (stage, preact) in enumerate(zip(out.stages, out.preacts, strict=True)):
        assert torch.equal(stage, preact.clamp(0, highest) if i in rectified else preact)


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *IMAGENET) if name != "shufflenetv2"])
def test_norms_are_the_last_that_the_preacts_passed(name):
    """Shifting a norm by one shifts its preact, before any later nonlinearity, by one."""
    network = networks.create(name, 7).eval()
    images = torch.randn(2, 3, 16, 16)
    for i, norm in enumerate(network.norms):
        with torch.no_grad():
            before = network(images).preacts[i + 1]
            norm.bias += 1
            after = network(images).preacts[i + 1]
            norm.bias -= 1
        torch.testing.assert_close(after, before + 1)


def test_norms_of_blocks_that_keep_half_of_their_channels():
    """The last block of a ShuffleNetV2's stage normalises every other channel; the others get norms of 0, whose margin
    in OFD changes nothing where no value is negative.
    """
    network = networks.create("shufflenetv2", 7).eval()
    images = torch.randn(2, 3, 16, 16)
    for i, stage in enumerate((network.layer1, network.layer2, network.layer3)):
        own = stage[-1].bn3
        with torch.no_grad():
            own.weight.uniform_(0.5, 1.5)
            before, norm = network(images).preacts[i + 1], network.norms[i]
            own.bias += 1
            after, shifted = network(images).preacts[i + 1], network.norms[i]
        assert torch.equal(norm.weight[1::2], own.weight)
        torch.testing.assert_close(after - before, (shifted.bias - norm.bias)[:, None, None].expand_as(after))
        assert before[:, 0::2].min() >= 0
        assert (ofd.margin(norm.weight, norm.bias)[0::2] == 0).all()


@pytest.mark.parametrize(("name", "size", "stem"), [
    *((name, 16, "small") for name in FAMILIES),
    *((name, 64, "large") for name in (*FAMILIES, *IMAGENET)),
])  # fmt: skip
def test_every_parameter_learns(name, size, stem):
    network = networks.create(name, 5, stem=stem)
    if name == "vgg8":  # while it trains, its biases before norms get rounding errors alone
        network.eval()
    network(torch.randn(4, 3, size, size)).logits.logsumexp(dim=1).sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", *MOBILE, *IMAGENET])
def test_statistics_are_updated_once_per_step(name):
    network = networks.create(name, 5)
    network(torch.randn(4, 3, 32, 32))
    counts = {int(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {1}


def test_transformers_are_the_networks_that_lack_something():
    assert {name for name in NAMES if catalog.networks()[name].lacks} == {*TRANSFORMERS}


def test_unknown_network_is_refused():
    with pytest.raises(KeyError, match="resnet20"):
        networks.create("resnet21", 10)


@pytest.mark.parametrize("name", [*FAMILIES, *IMAGENET, *TRANSFORMERS])
@pytest.mark.parametrize("stem", networks.STEMS)
def test_initial_weights_are_those_of_the_seed(name, stem):
    def weights(seed):
        torch.manual_seed(seed)
        return networks.create(name, 5, stem=stem).state_dict()

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(next(iter(first.values())), next(iter(other.values())))


class TestStems:
    @pytest.mark.parametrize("name", NAMES)
    def test_state_dicts_differ_in_the_first_layer_alone(self, name):
        """So that what is published for either stem fits, and in its initial weights: as SDD replaces a layer of a
        network that exists already.
        """
        torch.manual_seed(0)
        small = networks.create(name, 5).state_dict()
        torch.manual_seed(0)
        large = networks.create(name, 5, stem="large").state_dict()
        assert list(small) == list(large)
        changed = [key for key in small if not torch.equal(small[key], large[key])]
        if name.startswith(("imagenet_", "vgg")) or name in TRANSFORMERS:
            assert changed == []
        else:
            assert changed == [FIRST_LAYER.get(name, "conv1.weight")]
            assert large[changed[0]].shape == (small[changed[0]].shape[0], 3, 7, 7)
            assert 0.99 < large[changed[0]].abs().max() * (3 * 7 * 7) ** 0.5 <= 1  # of PyTorch's uniform distribution

    @pytest.mark.parametrize("name", STEMMED)
    def test_large_is_sdds_change_of_the_small_one(self, name):
        """The first layer replaced in place."""
        large, changed = (networks.create(name, 5, stem=stem).eval() for stem in ("large", "small"))
        changed.conv1 = nn.Conv2d(3, STEMMED[name], kernel_size=7, stride=2, padding=3, bias=False)
        changed.load_state_dict(large.state_dict())
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(large(images).stages, changed(images).stages, strict=True))
            assert torch.equal(large(images).logits, changed(images).logits)

    def test_large_is_sdds_change_of_mobilenetv2(self):
        """Its first module replaced, which has a batch norm, a ReLU and a max pool."""
        large, changed = (networks.create("mobilenetv2", 5, stem=stem).eval() for stem in ("large", "small"))
        convolution = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
        changed.conv1 = nn.Sequential(convolution, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)).eval()
        changed.load_state_dict(large.state_dict())
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(large(images).stages[0], changed.conv1(images))
            assert torch.equal(large(images).logits, changed(images).logits)

    @pytest.mark.parametrize("name", LARGE_STAGES)
    def test_stages_of_large_images(self, name):
        with torch.device("meta"):
            out = networks.create(name, 200, stem="large").eval()(torch.empty(1, 3, 224, 224))
        assert [stage.shape[1:] for stage in out.stages] == [(width, side, side) for width, side in LARGE_STAGES[name]]
        assert out.final_map.shape[2:] == out.stages[-1].shape[2:]

    @pytest.mark.parametrize(("size", "sides"), [(32, [32, 16, 8, 4, 4]), (64, [64, 32, 16, 8, 4]),
                                                 (96, [96, 48, 24, 12, 12])])  # fmt: skip
    def test_vgg_halves_once_more_at_64(self, size, sides):
        with torch.no_grad():
            out = networks.create("vgg8", 5).eval()(torch.randn(1, 3, size, size))
        assert [stage.shape[2] for stage in out.stages] == sides

    @pytest.mark.parametrize("name", ["resnet8", "vgg8", "imagenet_resnet18"])
    def test_unknown(self, name):
        with pytest.raises(ValueError, match=r"unknown stem 'larg'\. Did you mean large\? Allowed: small, large"):
            networks.create(name, 5, stem="larg")


def test_names_do_not_import_torch(python):
    python("import sys, kdcore.networks, kdcore.methods; kdcore.networks.names(); kdcore.methods.names(); "
           "assert 'torch' not in sys.modules")  # fmt: skip


class TestCheckpoints:
    def test_round_trip(self, tmp_path):
        source, copy = networks.create("resnet8", 10), networks.create("resnet8", 10)
        checkpoints.save(source, tmp_path / "weights.safetensors")
        checkpoints.load(tmp_path / "weights.safetensors", copy)
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(source.eval()(images).logits, copy.eval()(images).logits)

    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 240, "accuracy": 0.7},
                                      lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])  # fmt: skip
    def test_published_layouts(self, tmp_path, wrap):
        source, copy = networks.create("resnet8", 10), networks.create("resnet8", 10)
        torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")
        checkpoints.load(tmp_path / "weights.pth", copy)
        assert all(torch.equal(v, copy.state_dict()[k]) for k, v in source.state_dict().items())

    @pytest.mark.parametrize(("content", "message"), [
        (b"<html>not found</html>", "not a checkpoint of tensors"),
        (b"", "not a checkpoint of tensors"),
    ])  # fmt: skip
    def test_no_checkpoint(self, tmp_path, content, message):
        (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(UserError, match=message):
            checkpoints.load(tmp_path / "weights.pth", networks.create("resnet8", 10))

    def test_truncated_at_any_length(self, tmp_path):
        torch.save(networks.create("resnet8", 10).state_dict(), tmp_path / "whole.pth")
        content = (tmp_path / "whole.pth").read_bytes()
        for length in range(0, len(content), len(content) // 40):
            (tmp_path / "weights.pth").write_bytes(content[:length])
            with pytest.raises(UserError, match="not a checkpoint of tensors"):
                checkpoints.load(tmp_path / "weights.pth", networks.create("resnet8", 10))

    @pytest.mark.parametrize("content", [
        {}, [], {"model": 3}, {1: torch.zeros(1)},
    ])  # fmt: skip
    def test_no_state_dict(self, tmp_path, content):
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(UserError, match="holds no state dict of tensors"):
            checkpoints.load(tmp_path / "weights.pth", networks.create("resnet8", 10))

    def test_code_is_never_executed(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

        torch.save({"model": Payload()}, tmp_path / "weights.pth")
        with pytest.raises(UserError, match="tensors alone"):
            checkpoints.load(tmp_path / "weights.pth", networks.create("resnet8", 10))
        assert not (tmp_path / "ran").exists()

    def test_wrong_number_of_classes(self, tmp_path):
        checkpoints.save(networks.create("resnet8", 100), tmp_path / "weights.safetensors")
        with pytest.raises(UserError, match=r"fc.weight: \(100, 64\) in the file, \(10, 64\) in the network"):
            checkpoints.load(tmp_path / "weights.safetensors", networks.create("resnet8", 10))

    def test_wrong_depth(self, tmp_path):
        checkpoints.save(networks.create("resnet14", 10), tmp_path / "weights.safetensors")
        with pytest.raises(UserError, match=r"unknown \['layer1.1"):
            checkpoints.load(tmp_path / "weights.safetensors", networks.create("resnet8", 10))

    def test_weights_that_are_not_finite(self, tmp_path):
        network = networks.create("resnet8", 10)
        with torch.no_grad():
            network.classifier.bias[0] = float("nan")
        checkpoints.save(network, tmp_path / "weights.safetensors")
        with pytest.raises(UserError, match=r"not finite, in \['fc.bias'\]"):
            checkpoints.load(tmp_path / "weights.safetensors", network)

    @needs_data
    @pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56", "wrn_40_1", "mobilenetv2"])
    def test_published_checkpoints_load(self, name):
        network = networks.create(name, 100)
        before = network.classifier.weight.clone()
        checkpoints.load(DATA / "checkpoints" / f"{name}.pth", network)
        assert not torch.equal(before, network.classifier.weight)
