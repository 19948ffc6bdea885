"""What every network costs, and the list of them."""

import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from kdcore import catalog, networks
from kdcore.networks import cost
from stages import networks as listing
from tests.conftest import ROOT

COSTS = {
    "resnet8": (83_892, 12_507_392),
    "resnet14": (181_108, 26_663_168),
    "resnet20": (278_324, 40_818_944),
    "resnet32": (472_756, 69_130_496),
    "resnet44": (667_188, 97_442_048),
    "resnet56": (861_620, 125_753_600),
    "resnet110": (1_736_564, 253_155_584),
    "resnet8x4": (1_233_540, 177_071_104),
    "resnet32x4": (7_433_860, 1_083_040_768),
    "resnet18": (11_220_132, 555_468_800),
    "resnet50": (23_705_252, 1_298_014_208),
    "wrn_16_1": (180_916, 26_663_168),
    "wrn_16_2": (703_284, 101_118_464),
    "wrn_16_4": (2_772_020, 392_635_392),
    "wrn_28_2": (1_479_220, 214_364_672),
    "wrn_28_4": (5_872_180, 845_620_224),
    "wrn_40_1": (569_780, 83_286_272),
    "wrn_40_2": (2_255_156, 327_610_880),
    "vgg8": (3_965_028, 96_192_512),
    "vgg11": (9_277_284, 209_438_720),
    "vgg13": (9_462_180, 284_936_192),
    "vgg16": (14_774_436, 398_182_400),
    "vgg19": (20_086_692, 511_428_608),
    "mobilenetv1": (1_664_420, 10_050_560),
    "mobilenetv2": (812_836, 6_523_648),
    "shufflenetv1": (949_258, 38_691_456),
    "shufflenetv2": (1_355_528, 44_504_448),
    "shufflenetv2_x1_5": (2_580_548, 93_762_048),
    "imagenet_resnet18": (11_689_512, 1_814_073_344),
    "imagenet_resnet34": (21_797_672, 3_663_761_408),
    "imagenet_resnet50": (25_557_032, 4_089_184_256),
    "imagenet_resnet101": (44_549_160, 7_801_405_440),
    "imagenet_resnet152": (60_192_808, 11_513_626_624),
    "imagenet_mobilenetv1": (4_231_976, 568_740_352),
    "imagenet_mobilenetv2": (3_504_872, 300_774_272),
    "t2t_vit_7": (4_024_394, 1_146_633_216),
    "t2t_vit_14": (21_119_306, 4_783_122_944),
    "pvt_ti": (12_767_588, 1_932_450_816),
    "cvt_13": (19_650_980, 4_565_743_616),
}
"""Parameters and multiply-adds, as `by_layer` counts them, with 100 classes for images of 32 pixels, imagenet_* with
1000 for images of 224; those of transformers, for which `by_layer` does not do, as tests/networks/test_transformers.py
has them.
"""
TORCHVISION = {
    "imagenet_resnet18": torchvision.models.ResNet18_Weights,
    "imagenet_resnet34": torchvision.models.ResNet34_Weights,
    "imagenet_resnet50": torchvision.models.ResNet50_Weights,
    "imagenet_resnet101": torchvision.models.ResNet101_Weights,
    "imagenet_resnet152": torchvision.models.ResNet152_Weights,
    "imagenet_mobilenetv2": torchvision.models.MobileNet_V2_Weights,
}


def without_values(name, **keywords):
    classes = 1000 if name.startswith("imagenet_") else 100
    with torch.device("meta"):
        return networks.create(name, classes, **keywords).eval()


def by_layer(network, size):
    """Parameters and multiply-adds of the layers that an image passes, each from its kernel and what it gives."""
    counts = [0, 0]

    def count(layer, _inputs, output):
        weights = biases = positions = 0
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            weights = layer.out_channels * (layer.in_channels // layer.groups) * height * width
            biases = layer.out_channels if layer.bias is not None else 0
            positions = output.shape[2] * output.shape[3]
        elif isinstance(layer, nn.Linear):
            weights, biases, positions = layer.in_features * layer.out_features, layer.out_features, 1
        elif isinstance(layer, nn.BatchNorm2d):
            biases = 2 * layer.num_features
        counts[0] += weights + biases
        counts[1] += weights * positions

    for layer in network.modules():
        layer.register_forward_hook(count)
    network(torch.empty(1, 3, size, size, device="meta"))
    return tuple(counts)


def counted(network, size):
    return cost.parameters(network), cost.multiply_adds(network, size)


def test_every_network_is_in_the_table():
    assert sorted(COSTS) == sorted(networks.names())


@pytest.mark.parametrize("name", COSTS)
def test_costs(name):
    size = networks.image_size(name)
    assert size == (224 if name.startswith("imagenet_") or catalog.networks()[name].lacks else 32)
    network = without_values(name)
    assert counted(network, size) == COSTS[name]
    if not catalog.networks()[name].lacks:
        assert by_layer(network, size) == COSTS[name]


@pytest.mark.parametrize(
    "name", ["resnet8x4", "wrn_28_4", "resnet18", "vgg13", "mobilenetv1", "mobilenetv2", "shufflenetv2"]
)
def test_costs_with_the_large_stem(name):
    network = without_values(name, stem="large")
    assert counted(network, 224) == by_layer(network, 224)


@pytest.mark.parametrize("name", TORCHVISION)
def test_costs_as_torchvision_publishes_them(name):
    """The latter in thousands of millions, to three decimals."""
    published = TORCHVISION[name].IMAGENET1K_V1.meta
    assert COSTS[name][0] == published["num_params"]
    assert round(COSTS[name][1] / 1e9, 3) == published["_ops"]


def test_cost_of_mobilenet_as_its_paper_has_it():
    """Howard et al., table 4: 569 million multiply-adds and 4.2 million parameters."""
    parameters, multiply_adds = COSTS["imagenet_mobilenetv1"]
    assert (round(parameters / 1e6, 1), round(multiply_adds / 1e6)) == (4.2, 569)


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet110"])
def test_cost_of_cifar_resnets_in_closed_form(name):
    """Per stage 2 n convolutions of 3 x 3, on maps of 32, 16 and 8 pixels; the first of a stage has half the inputs,
    and beside it is a shortcut of 1 x 1.
    """
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    weights = {32: 9 * (3 * 16 + 2 * blocks * 16 * 16)}
    for side, width in ((16, 32), (8, 64)):
        weights[side] = 9 * (2 * blocks - 1) * width * width + (9 + 1) * width * width // 2
    norms = 16 + sum(width * 2 * blocks for width in (16, 32, 64)) + 32 + 64
    head = 64 * 100
    assert COSTS[name][0] == sum(weights.values()) + 2 * norms + head + 100
    assert COSTS[name][1] == sum(side**2 * count for side, count in weights.items()) + head


@pytest.mark.parametrize("training", [True, False])
def test_counting_changes_nothing(training):
    network = networks.create("resnet8", 100).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert cost.multiply_adds(network, 16) == by_layer(without_values("resnet8"), 16)[1]
    assert network.training == training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def rows(printed):
    """Cells by name; lines of a cell joined."""
    found = {}
    for line in printed.splitlines():
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if cells[0]:
                found[cells[0]] = last = cells
            else:
                last[:] = [f"{before} {cell}".strip() for before, cell in zip(last, cells, strict=True)]
    return found


class TestList:
    def show(self, capsys, *arguments):
        listing.main(*arguments)
        return rows(capsys.readouterr().out)

    def run(self, *arguments):
        command = [sys.executable, "-m", "stages.networks", *arguments]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    @pytest.mark.slow
    def test_all(self):
        done = self.run()
        assert done.returncode == 0
        assert "…" not in done.stdout
        found = rows(done.stdout)
        assert list(found) == networks.names()
        for name, (parameters, multiply_adds) in COSTS.items():
            assert found[name][1:3] == [f"{count / 1e6:,.2f} M" for count in (parameters, multiply_adds)]
            assert re.search(r"arXiv:\d{4}\.\d{4,5}", found[name][5])
        assert found["resnet20"][3:5] == ["32", "16×32, 16×32, 32×16, 64×8"]
        assert found["pvt_ti"][3:5] == ["224", "64×56, 64×56, 128×28, 320×14, 512×7"]
        assert found["imagenet_resnet50"][3:5] == ["224", "64×112, 256×56, 512×28, 1024×14, 2048×7"]

    def test_some(self, capsys):
        assert list(self.show(capsys, "vgg8", "resnet8")) == ["vgg8", "resnet8"]

    def test_image_size(self, capsys):
        found = self.show(capsys, "vgg8", "imagenet_resnet18", "--image-size", "64")
        assert found["vgg8"][3:5] == ["64", "64×64, 128×32, 256×16, 512×8, 512×4"]
        assert found["imagenet_resnet18"][3] == "64"

    def test_stem(self, capsys):
        found = self.show(capsys, "resnet8x4", "--stem", "large")
        multiply_adds = by_layer(without_values("resnet8x4", stem="large"), 224)[1]
        assert found["resnet8x4"][2:5] == [
            f"{multiply_adds / 1e6:,.2f} M", "224", "32×112, 64×112, 128×56, 256×28"
        ]  # fmt: skip
        assert self.show(capsys, "resnet8x4", "--stem", "large", "--image-size", "32")["resnet8x4"][3] == "32"

    def test_unknown_name(self):
        done = self.run("resnet8", "mobilenet")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: unknown network 'mobilenet'. Did you mean mobilenetv2? Allowed: ")

    @pytest.mark.parametrize(("arguments", "message"), [
        (("--image-size", "8"), "'8' is no size. Allowed: whole pixels, 16 or more"),
        (("--image-size", "x"), "'x' is no size"),
        (("--stem", "big"), "choose from"),
    ])  # fmt: skip
    def test_wrong_option(self, capsys, arguments, message):
        with pytest.raises(SystemExit) as stopped:
            listing.main(*arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
