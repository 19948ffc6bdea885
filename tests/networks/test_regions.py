"""Networks whose head gives no logits for regions are refused where a cell asks for regions."""

import copy

import pytest
import torch
from torch import nn

from kdcore import catalog, networks
from kdcore.matrix.train_section import TrainSettings
from kdcore.networks import resnet
from kdcore.networks.regions import check_regions
from kdcore.system.errors import UserError


class Normed(resnet.ResNet):
    """A norm between the average and the classifier, as ConvNeXt has it."""

    def __init__(self, *, zero_head=False):
        super().__init__(10, 8, (16, 16, 32, 64))
        self.norm = nn.LayerNorm(64)
        if zero_head:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        output = super().forward(images)
        return output._replace(logits=self.fc(self.norm(output.pooled)))


class CosineHead(nn.Linear):
    """A linear layer by its type alone: what it makes of an average is not the average of what it makes."""

    def forward(self, features):
        return 10 * nn.functional.linear(
            nn.functional.normalize(features, dim=-1), nn.functional.normalize(self.weight, dim=-1)
        )


class Widened(resnet.ResNet):
    """A final map with other channels than its classifier takes."""

    def forward(self, images):
        output = super().forward(images)
        return output._replace(final_map=output.final_map.repeat(1, 2, 1, 1))


class Shrunk(resnet.ResNet):
    """A final map that is pooled to `side` x `side` cells, with the same average."""

    def __init__(self, side):
        super().__init__(10, 8, (16, 16, 32, 64))
        self.side = side

    def forward(self, images):
        output = super().forward(images)
        return output._replace(final_map=nn.functional.adaptive_avg_pool2d(output.final_map, self.side))


def refusal(network, levels, **options):
    with pytest.raises(UserError) as raised:
        check_regions(network, "student mine", levels, image_size=48, **options)
    return str(raised.value)


@pytest.mark.parametrize("name", [name for name, entry in catalog.networks().items() if "final_map" not in entry.lacks])
def test_the_whole_zoo_has_regions(name):
    size = 64 if name.startswith("imagenet_") else 32
    levels = (1, 2) if size == 64 or name in ("mobilenetv1", "mobilenetv2") else (1, 2, 4)
    check_regions(networks.create(name, 10), name, levels, image_size=size)


class Necked(resnet.ResNet):
    """Something between the average and the logits that does nothing before it is trained."""

    def __init__(self, kind):
        super().__init__(10, 8, (16, 16, 32, 64))
        self.kind = kind
        self.neck = nn.BatchNorm1d(64, affine=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("centre", torch.zeros(64))

    def forward(self, images):
        output = super().forward(images)
        pooled = {"norm": self.neck, "centre": lambda x: x - self.centre, "scale": lambda x: x}[self.kind](
            output.pooled
        )
        logits = self.fc(pooled)
        return output._replace(logits=self.scale * logits if self.kind == "scale" else logits)


@pytest.mark.parametrize("kind", ["norm", "centre", "scale"])
def test_what_is_the_identity_before_it_is_trained(kind):
    assert "its logits are not its linear classifier" in refusal(Necked(kind), (1, 2))


@pytest.mark.parametrize("zero_head", [False, True], ids=["drawn head", "head of zeros"])
def test_a_norm_before_the_classifier(zero_head):
    said = refusal(Normed(zero_head=zero_head), (1, 2))
    assert said.startswith("student mine can have no regions (M=[1,2]): its logits are not its linear classifier")
    assert "scales: [1]" in said


def test_a_head_of_cosines():
    network = resnet.ResNet(10, 8, (16, 16, 32, 64))
    network.fc = CosineHead(64, 10)
    assert "its logits are not its linear classifier of the average" in refusal(network, (1, 2))


class Capped(resnet.ResNet):
    """Logits that a cap bounds, which does nothing to the small ones of a new network."""

    def forward(self, images):
        output = super().forward(images)
        return output._replace(logits=30 * torch.tanh(output.logits / 30))


def test_a_cap_on_logits():
    network = Capped(10, 8, (16, 16, 32, 64))
    with torch.no_grad():
        network.fc.weight.mul_(0.1)
    assert "its logits are not its linear classifier of the average" in refusal(network, (1, 2))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_a_head_whose_weights_are_normed(normed):
    """It is linear all the same."""
    network = resnet.ResNet(10, 8, (16, 16, 32, 64))
    network.fc = normed(network.fc)
    check_regions(network, "mine", (1, 2), image_size=48)


def test_other_channels_than_the_classifier_takes():
    network = Widened(10, 8, (16, 16, 32, 64))
    assert "final map has 128 channels, and its classifier takes 64" in refusal(network, (2,))


@pytest.mark.parametrize(
    ("side", "levels", "small_maps", "is_refused"),
    [
        (1, (1, 2), None, True),
        (1, (1, 2), "repeat", True),
        (2, (1, 2), None, False),
        (2, (1, 2, 4), None, True),
        (2, (1, 2, 4), "repeat", False),
        (3, (1, 4), None, True),
        (4, (1, 2, 4), None, False),
    ],
)
def test_maps_with_fewer_cells_than_regions(side, levels, small_maps, is_refused):
    if is_refused:
        said = refusal(Shrunk(side), levels, small_maps=small_maps)
        assert f"{side} x {side} cells" in said
        assert ("all would be the whole image" in said) == (side == 1)
    else:
        check_regions(Shrunk(side), "mine", levels, image_size=48, small_maps=small_maps)


@pytest.mark.parametrize("network", [Normed(), Widened(10, 8, (16, 16, 32, 64)), Shrunk(1)])
def test_without_regions_all_are_accepted(network):
    check_regions(network, "mine", (1,), image_size=48)


def test_a_network_is_left_as_it_was():
    network = Normed(zero_head=True).train()
    before = copy.deepcopy(network.state_dict())
    drawn = torch.get_rng_state()
    refusal(network, (1, 2))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_small_maps_knows_one_value():
    settings = {"epochs": 2, "batch_size": 4, "lr": 0.1, "schedule": "cosine"}
    assert TrainSettings(**settings).small_maps is None
    assert TrainSettings(**settings, small_maps="repeat").small_maps == "repeat"
    with pytest.raises(ValueError, match="small_maps"):
        TrainSettings(**settings, small_maps="stretch")
