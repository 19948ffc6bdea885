"""Networks of timm, torchvision and a user's own function: their outputs, weights, sizes and what is refused."""

import copy
import math
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdcore import checkpoints, methods, networks, objective
from kdcore.networks import cost, describing, foreign, input_affine, making
from kdcore.networks.input_affine import Normalisation
from kdcore.networks.own_files import own_files
from kdcore.networks.regions import check_regions
from kdcore.system.errors import UserError
from kdcore.training import loop
from kdcore.training.distributed import World
from kdcore.training.folding import folded

CPU = torch.device("cpu")
SMALL_DEIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
SPECS = {
    "resnet": {"torchvision": "resnet18"},
    "small": {"torchvision": "resnet18", "stem": "small"},
    "deit": {"timm": "deit_tiny_patch16_224", "arguments": SMALL_DEIT},
    "distilled": {"timm": "deit_tiny_distilled_patch16_224", "arguments": SMALL_DEIT},
    "swin": {
        "timm": "swin_tiny_patch4_window7_224",
        "arguments": {"img_size": 32, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 2, 2], "window_size": 4},
    },
    "former": {"timm": "efficientformerv2_s0", "arguments": {"img_size": 32}},
    "convnext": {"timm": "convnext_tiny", "arguments": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}},
    "mobilenet": {"torchvision": "mobilenet_v2"},
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FACTORY = """
from functools import partial
import numpy as np
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.out = nn.Linear(2 * width, classes)

    def forward(self, x):
        return self.out(self.deep(self.body(x)).relu().mean(dim=(2, 3)))

def small(num_classes, width=8):
    return Odd(num_classes, width)

def no_module(num_classes):
    return num_classes

thin = partial(small, width=4)

class Cosine(nn.Linear):
    def forward(self, x):
        return 10 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))

def cosine(num_classes):
    network = small(num_classes)
    network.out = Cosine(16, num_classes, bias=False)
    return network

class Scaled(Odd):
    def forward(self, x):
        logits = super().forward(x)
        logits *= 0.5
        return logits

class Capped(Odd):
    def forward(self, x):
        return super().forward(x).div_(30).tanh_().mul_(30)

def capped(num_classes):
    network = Capped(num_classes, 8)
    nn.init.normal_(network.out.weight, std=0.01)
    return network

def normed(num_classes, by):
    network = small(num_classes)
    network.body[0] = by(network.body[0])
    return network

def weight_normed(num_classes):
    return normed(num_classes, nn.utils.weight_norm)

def spectral_normed(num_classes):
    return normed(num_classes, nn.utils.spectral_norm)

def parametrized(num_classes):
    return normed(num_classes, nn.utils.parametrizations.weight_norm)

def scaled(num_classes):
    return Scaled(num_classes, 8)

def bound(num_classes):
    network = small(num_classes)
    network.body[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return network

class Awake(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)

class Squeezed(Odd):
    def forward(self, x):
        return super().forward(x).squeeze()

class Ended(Odd):
    def forward(self, x):
        return self.end(super().forward(x))

def ended(num_classes, end):
    network = Ended(num_classes, 8)
    network.end = end
    return network

def softmax(num_classes):
    return ended(num_classes, nn.Softmax(dim=1))

def log_softmax(num_classes):
    return ended(num_classes, nn.LogSoftmax(dim=1))

def by_numpy(num_classes):
    network = Odd(num_classes, 8)
    network.deep.weight.data += float(np.random.default_rng().normal())
    return network

def seeded(num_classes):
    torch.manual_seed(42)
    return Odd(num_classes, 8)

class Headed(Odd):
    def __init__(self, classes, averaged):
        super().__init__(classes, 8)
        self.averaged, self.other = averaged, nn.Linear(16, classes)

    def forward(self, x):
        features = self.deep(self.body(x)).relu().mean(dim=(2, 3))
        logits, other = self.out(features), self.other(features)
        if self.training:
            return logits, other
        return (logits + other) / 2 if self.averaged else logits

def with_token(num_classes):
    return Headed(num_classes, averaged=True)

def with_auxiliary_head(num_classes):
    return Headed(num_classes, averaged=False)

class Described(Odd):
    def forward(self, x):
        features = self.deep(self.body(x)).relu().mean(dim=(2, 3))
        return (self.out(features), features) if self.training else self.out(features)

def with_features(num_classes):
    network = Described(num_classes, 8)
    network.deep, network.out = nn.Conv2d(8, num_classes, 3), nn.Linear(num_classes, num_classes)
    return network

def apart(num_classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Odd(num_classes, 8)
    torch.rand(1)
    return network

def by_seeded_numpy(num_classes):
    network, draws = Odd(num_classes, 8), np.random.RandomState(0)
    for value in network.parameters():
        value.data = torch.from_numpy(draws.normal(size=tuple(value.shape))).float()
    return network

def taught(num_classes):
    network = apart(num_classes)
    network.out.reset_parameters()
    return network

def taught_with_zeros(num_classes):
    network = apart(num_classes)
    nn.init.zeros_(network.out.weight)
    nn.init.zeros_(network.out.bias)
    return network

def squeezed(num_classes):
    return Squeezed(num_classes, 8)

def awake(num_classes):
    network = small(num_classes)
    network.body[2] = Awake()
    return network
"""


@pytest.fixture(scope="module")
def described():
    return {name: describing.described(spec, 32) for name, spec in SPECS.items()}


@pytest.fixture
def odd(tmp_path, monkeypatch, request):
    """The name of a module of the user's own."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def created(described, name, classes=10):
    torch.manual_seed(0)
    return networks.create(name, classes, described=described).eval()


def theirs(name):
    spec = SPECS[name]
    torch.manual_seed(0)
    if "timm" in spec:
        return timm.create_model(spec["timm"], num_classes=10, **spec.get("arguments", {})).eval()
    return torchvision.models.get_model(spec["torchvision"], num_classes=10).eval()


@pytest.mark.parametrize("name", [name for name in SPECS if name != "small"])
def test_logits_and_weights_are_those_of_the_package_bit_for_bit(described, name):
    ours, other = created(described, name), theirs(name)
    with torch.no_grad():
        assert torch.equal(ours(IMAGES).logits, other(IMAGES))
    assert list(ours.state_dict()) == list(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "stages", "final"),
    [
        ("resnet", [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)], None),  # one cell is no map
        ("small", [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], (512, 4)),
        ("deit", [(48, 4)] * 5, None),
        ("distilled", [(48, 4)] * 5, None),
        ("swin", [(24, 8), (24, 8), (48, 4), (96, 2)], (96, 2)),
        ("convnext", [(8, 8), (8, 8), (16, 4), (24, 2), (32, 1)], None),
        ("mobilenet", [(32, 16), (16, 16), (24, 8), (32, 4), (96, 2), (1280, 1)], None),
    ],
)
def test_maps(described, name, stages, final):
    network = created(described, name)
    with torch.no_grad():
        out = network(IMAGES)
    assert [tuple(stage.shape[1:3]) for stage in out.stages] == stages
    assert all(stage.shape[2] == stage.shape[3] for stage in out.stages)
    assert out.preacts == network.norms == ()
    assert (None if out.final_map is None else tuple(out.final_map.shape[1:3])) == final
    if final:
        assert torch.allclose(out.final_map.mean(dim=(2, 3)), out.pooled, atol=1e-5)
    if network.classifier is not None:
        assert torch.equal(network.classifier(out.pooled), out.logits)


def test_a_map_is_one_of_an_image_wherever_its_channels_stand(described):
    """A bright corner of the image is the same corner of the map: tokens and channels are not mixed up."""
    for name in ("deit", "swin", "small"):
        network = created(described, name)
        other = IMAGES.clone()
        other[:, :, :4, -4:] += 10
        with torch.no_grad():
            changes = (network(other).stages[0] - network(IMAGES).stages[0]).abs().sum(dim=(0, 1))
        assert changes.argmax() % changes.shape[1] >= 3 * changes.shape[1] // 4 - 1
        assert changes.argmax() < changes.numel() / 4


@pytest.mark.parametrize("name", ["small", "swin"])
def test_regions_of_a_linear_head(described, name):
    check_regions(created(described, name), name, (1, 2), image_size=32)


@pytest.mark.parametrize("name", ["deit", "convnext"])
def test_others_have_none(described, name):
    with pytest.raises(UserError, match="it has no final map"):
        check_regions(created(described, name), name, (1, 2), image_size=32)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2"])
def test_the_pooled_vector_is_that_before_a_dropout(name):
    """Also before one that writes into its input."""
    described = {"x": describing.described({"torchvision": name, "image_size": 64}, 32)}
    out = created(described, "x").train()(IMAGES)
    torch.testing.assert_close(out.pooled, out.final_map.mean(dim=(2, 3)))


def test_a_norm_behind_the_pool_is_no_linear_head():
    """timm's ConvNeXt may normalise before it pools, as Swin does; then its map has regions."""
    spec = SPECS["convnext"]
    before = describing.described({**spec, "arguments": {**spec["arguments"], "head_norm_first": True}}, 64)
    assert before["final_map"] == "norm_pre"
    assert "final_map" not in describing.described(spec, 64)


def test_distillation_token(described):
    network = created(described, "distilled")
    with torch.no_grad():
        both = network(IMAGES)
        taught = network.train()(IMAGES)
    assert both.distilled is None
    assert network.classifier is None
    assert not torch.equal(taught.logits, taught.distilled)
    assert torch.allclose(both.logits, (taught.logits + taught.distilled) / 2, atol=1e-6)


def test_methods_compare_the_distillation_token(described):
    """Cross-entropy is that of the class head, and KD that of the other one."""
    network = created(described, "distilled").train()
    teacher = networks.create("resnet8", 10).eval()
    recipe = {"kd_weight": 1.0, "ce_weight": 1.0, "warmup": 0, "temperature": 4.0}
    labels = torch.tensor([0, 1, 2, 3])
    goal, student = objective.build(
        "kd", recipe, student=network, teacher=teacher, labels=labels, image_size=32, batch_size=4, epochs=1
    )
    with torch.no_grad():
        out, of_teacher = student.train()(IMAGES), teacher(IMAGES)
        parts = goal([out], [of_teacher], labels)
    assert torch.allclose(parts.ce, F.cross_entropy(out.logits, labels))
    own = methods.get("kd").loss(out.distilled, of_teacher.logits, temperature=4.0).mean()
    assert torch.allclose(parts.losses["kd"], own)
    assert not torch.allclose(own, methods.get("kd").loss(out.logits, of_teacher.logits, temperature=4.0).mean())


class TestWeights:
    def test_published_ones_fit_by_their_own_keys(self, described, tmp_path):
        other = theirs("resnet")
        torch.save({"model": {f"module.{key}": value for key, value in other.state_dict().items()}}, tmp_path / "a.pth")
        restored = checkpoints.restore("resnet", 10, tmp_path / "a.pth", CPU, described=described)
        with torch.no_grad():
            assert torch.allclose(restored(IMAGES).logits, other(IMAGES), atol=1e-5)

    def test_ours_are_read_again(self, described, tmp_path):
        for name in ("deit", "swin"):
            checkpoints.save(created(described, name), tmp_path / "a.safetensors")
            torch.manual_seed(5)
            restored = checkpoints.restore(name, 10, tmp_path / "a.safetensors", CPU, described=described)
            with torch.no_grad():
                assert torch.allclose(restored(IMAGES).logits, created(described, name)(IMAGES).logits, atol=1e-5)

    @pytest.mark.slow
    def test_with_whole_numbers_beside_them(self, tmp_path):
        described = {"x": describing.described({"torchvision": "swin_t"}, 32)}
        network = created(described, "x")
        assert not network.state_dict()["features.1.0.attn.relative_position_index"].is_floating_point()
        checkpoints.save(network, tmp_path / "a.safetensors")
        again = checkpoints.restore("x", 10, tmp_path / "a.safetensors", CPU, described=described)
        with torch.no_grad():
            assert torch.allclose(again(IMAGES).logits, network(IMAGES).logits, atol=1e-5)

    def test_with_another_normalisation(self, described, tmp_path):
        checkpoints.save(theirs("resnet"), tmp_path / "a.safetensors")
        images, own = Normalisation((0.5,) * 3, (0.5,) * 3), Normalisation((0.1,) * 3, (0.2,) * 3)
        first = checkpoints.restore(
            "resnet", 10, tmp_path / "a.safetensors", CPU, described=described, images=images, own=own
        )
        checkpoints.save(first, tmp_path / "b.safetensors")
        again = checkpoints.restore("resnet", 10, tmp_path / "b.safetensors", CPU, described=described)
        assert input_affine.is_attached(again, mean=images.mean, std=images.std, own_mean=own.mean, own_std=own.std)

    def test_within_another_end(self, described, tmp_path):
        arguments = {"outputs": 64, "factor": 2, "size": [4, 4], "bias": True}
        student = methods.get("simkd").other_end(created(described, "small"), **arguments).eval()
        checkpoints.save(student, tmp_path / "a.safetensors")
        again = checkpoints.restore("small", 10, tmp_path / "a.safetensors", CPU, described=described)
        assert [key for key in again.state_dict() if key.startswith("network.layer1")]
        with torch.no_grad():
            assert torch.allclose(again(IMAGES).logits, student(IMAGES).logits, atol=1e-5)

    def test_depend_on_the_seed_alone(self, described):
        first, torch_state = loop.create("deit", 10, 3, CPU, described=described), torch.get_rng_state()
        describing.described(SPECS["deit"], 32)
        assert torch.equal(torch.get_rng_state(), torch_state)
        again = loop.create("deit", 10, 3, CPU, described=described)
        assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))

    def test_that_cannot_be_had(self, described, monkeypatch):
        def offline(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
        with pytest.raises(
            UserError, match=r"pretrained: the weights of torchvision: resnet18 cannot be had \(no route"
        ):
            loop.create("x", 10, 0, CPU, described={"x": {**described["resnet"], "pretrained": True}})
        assert networks.create(
            "x", 10, described={"x": {**described["resnet"], "pretrained": True}}
        )  # are not asked for

    def test_published_ones_begin_a_training_with_a_new_head(self, described, monkeypatch):
        ready = torchvision.models.resnet18().state_dict()
        monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *_, **__: ready)
        network = loop.create("x", 10, 0, CPU, described={"x": {**described["resnet"], "pretrained": True}})
        assert torch.equal(network.module.conv1.weight, ready["conv1.weight"])
        assert network.classifier.out_features == 10


@pytest.mark.parametrize("name", ["small", "swin", "mobilenet"])
def test_a_folded_copy_is_the_same(described, name):
    network = created(described, name)
    copied = folded(network, 32)
    with torch.no_grad():
        ours, other = copied(IMAGES), network(IMAGES)
    assert torch.allclose(ours.logits, other.logits, atol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(ours.stages, other.stages, strict=True))
    norms = [sum(isinstance(part, nn.BatchNorm2d) for part in one.modules()) for one in (copied, network)]
    assert norms[0] == 0 or name == "swin"
    assert norms[1] > 0 or name == "swin"


def test_norms_with_an_activation_are_not_shared_among_processes():
    network = created({"x": describing.described({"timm": "mobilenetv3_small_050"}, 32)}, "x")
    with pytest.raises(UserError, match=r"BatchNormAct2d: .* train this network in one process"):
        World(rank=0, size=2).synchronised(network, CPU)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)])
def test_norms_that_the_processes_cannot_share_on_the_cpu_are_refused(norm):
    with pytest.raises(UserError, match=f"^{type(norm).__name__}: .* cannot be shared among processes"):
        World(rank=0, size=2).synchronised(nn.Sequential(norm), CPU)


def test_norms_with_an_activation_of_their_own_are_not_folded():
    spec = {"timm": "efficientnet_b0"}
    network = created({"x": describing.described(spec, 32)}, "x")
    with torch.no_grad():
        assert torch.allclose(folded(network, 32)(IMAGES).logits, network(IMAGES).logits, atol=1e-4)


def test_copies_are_networks_of_their_own(described):
    network = created(described, "small")
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.module.conv1.weight.zero_()
        assert not torch.equal(copied(IMAGES).stages[0], network(IMAGES).stages[0])


class TestSizes:
    def test_images_are_resized_bilinearly(self, described):
        other = describing.described({**SPECS["small"], "image_size": 24}, 32)
        network, plain = created({"x": other}, "x"), created(described, "small")
        smaller = F.interpolate(IMAGES, size=(24, 24), mode="bilinear", align_corners=False, antialias=False)
        with torch.no_grad():
            assert torch.equal(network(IMAGES).logits, plain(smaller).logits)

    def test_a_network_of_the_zoo(self, tmp_path):
        described = {"x": describing.described({"zoo": "resnet8", "image_size": 32}, 64)}
        network = created(described, "x")
        plain = created(None, "resnet8")
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            got = network(images)
            assert torch.equal(got.logits, plain(F.interpolate(images, size=(32, 32), mode="bilinear")).logits)
        assert got.preacts
        assert network.norms
        checkpoints.save(plain, tmp_path / "a.safetensors")
        checkpoints.load(tmp_path / "a.safetensors", network)

    def test_equal_weights_at_other_sizes_are_other_networks(self):
        same = [{"x": describing.described({"zoo": "resnet8", "image_size": size}, 64)} for size in (16, 32)]
        same += [{"x": describing.described({**SPECS["small"], "image_size": size}, 64)} for size in (16, 32)]
        identities = {networks.create("x", 10, described=one).identity for one in same}
        assert len(identities) == 4
        assert networks.create("resnet8", 10).identity == "ResNet"  # as tables of teachers have it so far


@pytest.mark.slow
def test_published_costs():
    """Counted by LSKD's code (DeiT-Ti; with a distillation token), and by torchvision's documentation (ResNet-18)."""
    wanted = [
        ({"timm": "deit_tiny_patch16_224"}, 100, 5_543_716, 1253.5),
        ({"timm": "deit_tiny_distilled_patch16_224"}, 100, 5_563_400, 1260.7),
        ({"timm": "pit_ti_224"}, 100, 4_615_972, 698.8),
        ({"torchvision": "resnet18"}, 1000, 11_689_512, 1814.0),
    ]
    for spec, classes, parameters, millions in wanted:
        network = networks.create("x", classes, described={"x": describing.described(spec, 224)})
        assert cost.parameters(network) == parameters
        assert cost.multiply_adds(network, 224) / 1e6 == pytest.approx(millions, abs=0.15)
        assert all(value.requires_grad for value in network.parameters())


class TestFactory:
    def test_a_users_own_network(self, odd):
        spec = {"factory": f"{odd}.small", "arguments": {"width": 4}, "stages": ["body", "deep"]}
        described = describing.described(spec, 32)
        assert described["package"].startswith("sha256 ")
        assert described["classifier"] == described["pooled"] == "out"
        assert "final_map" not in described  # its ReLU is no part whose output could be read
        out = created({"x": described}, "x")(IMAGES)
        assert [tuple(stage.shape[1:]) for stage in out.stages] == [(4, 16, 16), (8, 8, 8)]

    def test_another_source_than_planned(self, odd, tmp_path):
        described = describing.described({"factory": f"{odd}.small"}, 32)
        assert "stages" not in described
        (tmp_path / f"{odd}.py").write_text(FACTORY + "\n# changed\n")
        with pytest.raises(
            UserError, match=r"the plan was made with sha256 .*, and here is sha256 .*; run 'dvc repro -f"
        ):
            networks.create("x", 10, described={"x": described})

    def test_other_files_than_planned(self, odd, tmp_path):
        """Those that the function's file imports count too, and what they import, wherever the imports stand."""
        first, second, package = f"{odd}_a", f"{odd}_b", f"{odd}_p"
        head = (
            f"import json, torch, kdcore.networks\nfrom {first} import width\n"
            f"try:\n    from .{first} import width\nexcept ImportError:\n    from {first} import width\n"
        )
        late = f"\ndef made(num_classes):\n    import {package}.parts\n    return Odd(num_classes, width())\n"
        (tmp_path / f"{odd}.py").write_text(f"{head}{FACTORY}{late}\ndef never():\n    import nowhere.at.all\n")
        with (tmp_path / f"{odd}.py").open("a") as file:
            file.write(f"    from {package}.runs import X\n    import {package}.runs.later\n")
            file.write(f"    import {package}.newer, {package}.ns.deep\n")
        width = "def width():\n    return WIDTH\n"
        (tmp_path / f"{first}.py").write_text(f"from {second} import WIDTH\nimport {odd}\n\n{width}")
        (tmp_path / f"{second}.py").write_text("WIDTH = 4\n")
        (tmp_path / package).mkdir()
        imports = "from . import deeper\nfrom .deeper import X\n"
        for name, text in (("__init__", ""), ("parts", imports), ("deeper", "X = 1\n")):
            (tmp_path / package / f"{name}.py").write_text(text)
        spec = {"factory": f"{odd}.made"}
        (tmp_path / package / "runs").mkdir()
        (tmp_path / package / "runs/__init__.py").write_text("raise RuntimeError('is never to be run')\n")
        (tmp_path / package / "runs/later.py").write_text("Y = 1\n")
        (tmp_path / package / "newer.py").write_text("a syntax of later\n")
        (tmp_path / package / "ns").mkdir()
        (tmp_path / package / "ns/deep.py").write_text("Z = 1\n")
        parts = [
            package,
            *(f"{package}.{name}" for name in ("deeper", "parts", "runs", "runs.later", "newer", "ns.deep")),
        ]
        assert set(own_files(odd)) == {odd, first, second, *parts}
        assert making.files_of(f"{odd}.made")[0] == tmp_path / f"{odd}.py"
        described = describing.described(spec, 32)
        for file in (f"{second}.py", f"{package}/__init__.py", f"{package}/deeper.py"):
            before = (tmp_path / file).read_text()
            (tmp_path / file).write_text(f"{before}# changed\n")
            with pytest.raises(UserError, match=r"the plan was made with sha256 .*, and here is sha256 "):
                networks.create("x", 10, described={"x": described})
            (tmp_path / file).write_text(before)
            networks.create("x", 10, described={"x": described})

    def test_no_module(self, odd):
        with pytest.raises(
            UserError, match=r"factory: own_\d+.no_module: returns 'int'; it must return a torch.nn.Mod"
        ):
            describing.described({"factory": f"{odd}.no_module"}, 32)

    def test_what_has_no_file(self, odd):
        with pytest.raises(UserError, match=rf"factory: '{odd}.thin': is no function or class of a file"):
            describing.described({"factory": f"{odd}.thin"}, 32)

    @pytest.mark.parametrize("name", ["cosine", "scaled", "capped"])
    def test_a_head_whose_weights_do_not_make_the_logits(self, odd, name):
        """SimKD, SRRL and CAT-KD take the weights of a linear classifier."""
        described = describing.described({"factory": f"{odd}.{name}"}, 32)
        assert "classifier" not in described
        assert created({"x": described}, "x").classifier is None

    @pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
    @pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
    def test_weights_that_cannot_be_copied(self, odd, name):
        message = rf"the weight of body\.0 comes from torch\.nn\.utils\.{name}, .*parametrizations\.{name} instead"
        with pytest.raises(UserError, match=rf"factory: {odd}\.{name}ed: {message}"):
            describing.described({"factory": f"{odd}.{name}ed"}, 32)

    def test_the_newer_form_of_such_weights(self, odd):
        """A teacher with it is folded as far as that goes, and keeps its logits."""
        network = created({"x": describing.described({"factory": f"{odd}.parametrized"}, 32)}, "x").eval()
        torch.testing.assert_close(folded(network, 32)(IMAGES).logits, network(IMAGES).logits)

    def test_a_batch_of_one_image(self, odd):
        with pytest.raises(UserError, match=r"squeezed: (fails|gives \(7,\)) for a batch of one image"):
            describing.described({"factory": f"{odd}.squeezed"}, 32)

    @pytest.mark.parametrize(("name", "message"), [
        ("bound", "depend on the other images of its batch, as those of a batch norm without running statistics"),
        ("awake", "differ from time to time, as those of a dropout that is never off"),
    ])  # fmt: skip
    def test_an_image_has_one_prediction(self, odd, name, message):
        with pytest.raises(UserError, match=rf"factory: {odd}.{name}: its logits of an image {message}"):
            describing.described({"factory": f"{odd}.{name}"}, 32)

    def test_probabilities_are_no_logits(self, odd):
        with pytest.raises(UserError, match=rf"factory: {odd}.softmax: gives probabilities, whose sum is 1; it must"):
            describing.described({"factory": f"{odd}.softmax"}, 32)
        assert describing.described({"factory": f"{odd}.log_softmax", "classifier": "out"}, 32)

    @pytest.mark.parametrize(("name", "message"), [
        ("by_numpy", "makes other initial weights each time, though torch's seed is the same; draw them by torch's"),
        ("seeded", "sets torch's seed, or draws by another generator, so cells of all seeds would begin with the same"),
        ("apart", "sets torch's seed, or draws by another generator, so cells of all seeds would begin with the same"),
        ("by_seeded_numpy", "sets torch's seed, or draws by another generator, so cells of all seeds would begin"),
    ])  # fmt: skip
    def test_seeds_decide_initial_weights(self, odd, name, message):
        with pytest.raises(UserError, match=rf"factory: {odd}.{name}: {message}"):
            describing.described({"factory": f"{odd}.{name}"}, 32)

    def test_weights_of_the_same_values_for_every_seed_are_said(self, odd, capsys):
        """A backbone that was trained before has them, and so has one that is drawn under a seed of its own."""
        describing.described({"factory": f"{odd}.taught"}, 32)
        message = f"note: factory: {odd}.taught: 4 of its 6 initial weights are the same for every seed, such as body.0"
        assert message in capsys.readouterr().err
        describing.described({"factory": f"{odd}.small"}, 32)
        assert not capsys.readouterr().err

    def test_a_new_head_of_zeros_behind_trained_weights(self, odd, capsys):
        described = describing.described({"factory": f"{odd}.taught_with_zeros"}, 32)
        assert described["classifier"] == "out"
        assert "4 of its 4 initial weights are the same for every seed" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["with_auxiliary_head", "with_features"])
    def test_auxiliary_outputs_are_no_distillation_token(self, odd, name):
        """Such a network was distilled by its second output, and evaluated by its first one."""
        with pytest.raises(UserError, match=rf"{odd}.{name}: gives other outputs than logits .*in training mode"):
            describing.described({"factory": f"{odd}.{name}"}, 32)

    def test_a_distillation_token_of_ones_own(self, odd):
        network = created({"x": describing.described({"factory": f"{odd}.with_token", "classifier": "out"}, 32)}, "x")
        expected = network(IMAGES).logits
        network.module.training = True  # its norms stay in evaluation mode
        out = network(IMAGES)
        torch.testing.assert_close((out.logits + out.distilled) / 2, expected)

    def test_no_such_function(self, odd):
        with pytest.raises(UserError, match=r"has no function smal\. Did you mean small"):
            describing.described({"factory": f"{odd}.smal"}, 32)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"timm": "deit_tinny_patch16_224"}, "timm: unknown network .*Did you mean deit_tiny_patch16_224"),
        ({"torchvision": "resnet81"}, "torchvision: unknown network 'resnet81'. Did you mean resnet18"),
        ({"timm": "deit_tiny_patch16_224"}, r"refuses images of 32 x 32 pixels .*image_size .*\{img_size: 32\}"),
        ({**SPECS["deit"], "image_size": 24}, "image_size: 24: timm: deit_tiny.* refuses images of 24 x 24 pixels"),
        ({**SPECS["resnet"], "stages": ["layer1", "layer9"]}, "stages: 'layer9': .*Did you mean layer4"),
        ({**SPECS["resnet"], "stages": ["layer1", "fc"]}, "stages: 'fc': .* gives by this part no feature maps"),
        ({**SPECS["resnet"], "classifier": "fcc"}, "classifier: 'fcc': .*Did you mean fc"),
        ({"timm": "resnet18", "arguments": {"zero_init": 1}}, "arguments.zero_init: .* takes no zero_init."),
        ({**SPECS["resnet"], "arguments": {"zero_init": 1}}, "Did you mean zero_init_residual"),
        ({**SPECS["resnet"], "drop_path": 0.1}, "drop_path: torchvision: resnet18 takes no stochastic_depth_prob"),
        ({"torchvision": "mobilenet_v2", "stem": "small"}, "stem: small is for ResNets of torchvision"),
        (
            {"torchvision": "googlenet", "image_size": 64, "arguments": {"init_weights": False}},
            "other outputs than logits .*aux_logits: false",
        ),
        ({"zoo": "resnet8", "drop_path": 0.1}, "^drop_path: resnet8 has no stochastic depth; remove it"),
        (
            {"zoo": "pvt_ti", "image_size": 20},
            "^image_size: pvt_ti refuses images of 20 x 20 pixels .*at least 32 x 32",
        ),
        ({"factory": "nowhere.network"}, "factory: 'nowhere.network': 'nowhere' cannot be imported"),
    ],
)
def test_refused(spec, message):
    with pytest.raises(UserError, match=message):
        describing.described(spec, 32)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_that_scale_images_anew_do_so_when_they_are_restored(name, monkeypatch):
    """Made with published weights they do, which no state dict says; their own later weights were trained so."""

    def scales(**options):
        made = []

        def get_model(name, **given):
            made.append(given)
            return torchvision.models.resnet18(num_classes=given.get("num_classes", 10))

        monkeypatch.setattr(torchvision.models, "get_model", get_model)
        spec = {"torchvision": name, "classifier": "fc", **options}
        for load in (True, False):
            making.make(spec, 10, pretrained=load)
        return [given.get("transform_input") for given in made]

    assert scales(pretrained=True) == [True, True]
    assert scales(pretrained=True, arguments={"transform_input": False}) == [False, False]
    assert scales() == [None, None]


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"needs the package timm, which is not installed here; run pip install -e '\.\["
    ):
        describing.described({"timm": "resnet18"}, 32)


def test_drop_path(described):
    rated = describing.described({**SPECS["deit"], "drop_path": 0.1}, 32)
    network = networks.create("x", 10, described={"x": rated})
    assert network.module.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    other = networks.create("deit", 10, described=described, drop_path=0.2)
    assert other.module.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    with pytest.raises(ValueError, match="drop_path: resnet8 has no stochastic depth"):
        networks.create("resnet8", 10, drop_path=0.1)


@pytest.mark.parametrize(
    ("shape", "prefix", "expected"),
    [
        ((2, 17, 5), 1, (2, 5, 4, 4)),
        ((2, 18, 5), 2, (2, 5, 4, 4)),
        ((2, 17, 5), None, (2, 5, 4, 4)),
        ((2, 16, 5), None, (2, 5, 4, 4)),
        ((2, 16, 5), 1, (2, 5, 4, 4)),  # a part before the class token is added
        ((2, 15, 5), None, None),
        ((2, 4, 4, 5), None, (2, 5, 4, 4)),
        ((2, 5, 4, 4), None, (2, 5, 4, 4)),
        ((2, 5), None, None),
    ],
)
def test_maps_of_what_parts_give(shape, prefix, expected):
    found = foreign.as_map(torch.arange(float(math.prod(shape))).view(shape), prefix)
    assert (None if found is None else tuple(found.shape)) == expected
