"""Networks of timm, of torchvision and of one's own, as losses for other trainers read them."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import kdcore
from kdcore import networks
from kdcore.networks import describing
from kdcore.system.errors import UserError

MADE = {
    "timm": lambda: timm.create_model("resnet10t", num_classes=7),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=7),
}
DESCRIBED = {"timm": {"timm": "resnet10t"}, "torchvision": {"torchvision": "resnet18"}}


class Small(nn.Module):
    """A network of a user's own, which gives its maps too where it is asked to."""

    def __init__(self, maps=False):
        super().__init__()
        self.maps = maps
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), self.norm, nn.ReLU())
        self.out = nn.Linear(16, 5)

    def forward(self, images):
        first = self.stem(images)
        second = self.deep(first)
        logits = self.out(second.mean(dim=(2, 3)))
        return (logits, [first, second]) if self.maps else logits


@pytest.mark.parametrize("kind", MADE)
def test_parts_are_those_that_a_params_file_gets(kind):
    found = kdcore.wrap(MADE[kind](), image_size=64).described
    known = describing.described(DESCRIBED[kind], 64)
    keys = ("classifier", "pooled", "stages", "final_map")
    assert {key: found[key] for key in keys} == {key: known[key] for key in keys}


def test_the_module_stays_as_it_is():
    """Weights, statistics, modes and draws; it is trained in place, and the state dict has its keys."""
    module = Small()
    module.norm.eval()
    before, drawn = {key: value.clone() for key, value in module.state_dict().items()}, torch.get_rng_state()
    wrapped = kdcore.wrap(module, image_size=16)
    assert wrapped.module is module
    assert [part.training for part in (module, module.norm)] == [True, False]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert wrapped.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(wrapped(images).logits, module(images))


def test_named_parts():
    images = torch.randn(2, 3, 16, 16)
    output = kdcore.wrap(Small(), image_size=16, stages=["stem", "deep"], classifier="out")(images)
    assert [stage.shape for stage in output.stages] == [(2, 8, 16, 16), (2, 16, 8, 8)]
    assert kdcore.wrap(Small(), image_size=16)(images).stages == ()


@pytest.mark.parametrize("maps", [False, True])
def test_every_part_of_a_loss_sees_a_users_network(maps):
    """Regions, adapters and another end; of a network that gives its maps, and of one whose maps are found."""
    images, target = torch.randn(4, 3, 16, 16), torch.randint(5, (4,))
    for method, levels in [("kd", (1, 2)), ("at+kd", (1,)), ("simkd", (1,)), ("vid", (1,))]:
        named = {} if maps else {"stages": ["stem", "deep"]}
        teacher, student = (kdcore.wrap(Small(maps), image_size=16, classifier="out", **named) for _ in range(2))
        goal = kdcore.DistillationLoss(
            method, "cifar100", teacher=teacher, student=student, levels=levels, image_size=16
        )
        goal(goal.student(images), teacher(images), target).backward()
        trained = [value for value in (*goal.student.parameters(), *goal.parameters()) if value.requires_grad]
        assert all(value.grad is not None for value in trained), method


def test_networks_of_kdcore_need_no_wrapping():
    network = networks.create("resnet8", 5)
    assert kdcore.wrap(network, image_size=32) is network


@pytest.mark.parametrize(("module", "options", "message"), [
    ("resnet18", {}, "module: 'resnet18' must be a torch.nn.Module"),
    (Small(), {"stages": ["stem", "deeep"]}, "stages: 'deeep': module: Small has no part of this name that gives"),
    (Small(), {"classifier": "fc"}, "classifier: 'fc': module: Small has no part of this name that is given vectors"),
    (Small(maps=True), {"classifier": "fc"}, "classifier: 'fc': Small has no linear layer of this name. Allowed: out"),
    (Small(maps=True), {"stages": ["stem", "norm"]}, "stages: Small returns its maps by itself; remove them"),
    (nn.Conv2d(3, 5, 3), {}, "module: Conv2d: gives (2, 5, 14, 14) for 2 images; it must give logits (B, C)"),
    (nn.Linear(3, 5), {}, "module: Linear refuses images of 16 x 16 pixels ("),
])  # fmt: skip
def test_what_cannot_be_wrapped(module, options, message):
    with pytest.raises(UserError) as raised:
        kdcore.wrap(module, image_size=16, **options)
    assert message in str(raised.value)
