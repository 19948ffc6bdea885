"""AdamW, LAMB and the schedules of transformers' recipes: the numbers of torch's and timm's."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdcore.training.adaptive import LAMB, AdamW, undecayed
from kdcore.training.optimizers import learning_rate, make_optimizer
from tests.train import training_settings

RATES = (0.1, 0.1, 0.02, 0.02, 0.005)
OPTIONS = {"betas": (0.9, 0.98), "weight_decay": 0.05}


def parameters():
    """A matrix, a vector without weight decay, and a matrix that only some losses reach."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (5,), (3, 2))]


def loss_of(weights, step):
    loss = (weights[0].sin() * weights[1]).square().sum()
    return loss + 5 * weights[2].square().sum() if step % 2 else loss


def groups(weights):
    return [{"params": [weights[0], weights[2]]}, {"params": [weights[1]], "weight_decay": 0.0}]


def trained(optimizer, weights, longest=None):
    for step, lr in enumerate(RATES):
        optimizer.lr = lr
        optimizer.minimise(loss_of(weights, step), longest=longest)
    return weights


def trained_by(reference, weights, longest=None):
    for step, lr in enumerate(RATES):
        for group in reference.param_groups:
            group["lr"] = lr
        reference.zero_grad()
        loss_of(weights, step).backward()
        if longest is not None:
            nn.utils.clip_grad_norm_(weights, longest)
        reference.step()
    return weights


@pytest.mark.parametrize("longest", [None, 0.5])
def test_adamw_has_the_bits_of_torch(longest):
    ours, theirs = parameters(), parameters()
    trained(AdamW(ours, lr=0.1, undecayed=[ours[1]], **OPTIONS), ours, longest)
    trained_by(torch.optim.AdamW(groups(theirs), lr=0.1, fused=True, **OPTIONS), theirs, longest)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[2], parameters()[2])


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_lamb_is_that_of_timm(scale):
    """With gradients beyond the largest length, and within it."""
    lamb = pytest.importorskip("timm.optim").Lamb
    ours, theirs = parameters(), parameters()
    for weights in (ours, theirs):
        for weight in weights:
            weight.register_hook(lambda gradient: gradient * scale)
    trained(LAMB(ours, lr=0.1, undecayed=[ours[1]], **OPTIONS), ours)
    trained_by(lamb(groups(theirs), lr=0.1, foreach=False, **OPTIONS), theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, LAMB])
def test_state_survives_saving(tmp_path, kind):
    """Three steps, saved, restored, two more: as five."""

    def steps(weights, numbers, state=None):
        optimizer = kind(weights, lr=0.1, **OPTIONS)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in numbers:
            optimizer.minimise(loss_of(weights, step))
        return optimizer.state_dict()

    expected, weights = parameters(), parameters()
    steps(expected, range(5))
    torch.save(steps(weights, range(3)), tmp_path / "state")
    steps(weights, range(3, 5), torch.load(tmp_path / "state", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 3))
        self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)

    def no_weight_decay(self):
        return {"position"}


def test_weight_decay_leaves_out_vectors_and_what_a_network_names():
    network = nn.Sequential(Block(), nn.Conv2d(3, 4, 1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(parameter)] for parameter in undecayed(network)} == {
        "0.position", "0.linear.bias", "0.norm.weight", "0.norm.bias", "1.bias"
    }  # fmt: skip
    optimizer = make_optimizer(training_settings(2, 4, 0.1, optimizer="adamw", weight_decay=0.5), network)
    for parameter in network.parameters():
        parameter.data.fill_(1.0)
    optimizer.minimise(sum(parameter.sum() for parameter in network.parameters()) * 0)
    moved = {
        name for name, parameter in network.named_parameters() if not torch.equal(parameter.detach(), parameter * 0 + 1)
    }
    assert moved == {"0.linear.weight", "1.weight"}


@pytest.mark.parametrize(("warm", "start", "floor"), [(20, 5e-7, 5e-6), (3, 0.0, 0.0), (0, 0.0, 1e-5)])
def test_cosine_with_warm_up_is_that_of_timm(warm, start, floor):
    scheduler = pytest.importorskip("timm.scheduler").CosineLRScheduler
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=5e-4)
    theirs = scheduler(optimizer, t_initial=300, lr_min=floor, warmup_t=warm, warmup_lr_init=start)
    settings = training_settings(
        300, 4, 5e-4, warmup_epochs=warm, min_lr=floor, **({"warmup_lr": start} if warm else {})
    )
    assert [learning_rate(settings, epoch) for epoch in range(1, 301)] == pytest.approx(
        [theirs._get_lr(epoch)[0] for epoch in range(300)], rel=1e-14
    )


def test_warm_up_goes_with_milestones():
    settings = training_settings(6, 4, 0.1, schedule="step", milestones=[4], lr_decay=0.1, warmup_epochs=2)
    assert [learning_rate(settings, epoch) for epoch in range(1, 7)] == pytest.approx([0, 0.05, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("changes", "said"), [
    ({"warmup_epochs": 10}, "warmup_epochs (10) must be below epochs (10)"),
    ({"warmup_lr": 0.01}, "warmup_lr (0.01) needs warmup_epochs"),
    ({"warmup_epochs": 2, "warmup_lr": 0.5}, "warmup_lr (0.5) must not be above lr (0.1)"),
    ({"min_lr": 0.5}, "min_lr (0.5) must not be above lr (0.1)"),
    ({"min_lr": 0.01, "schedule": "step", "milestones": [5], "lr_decay": 0.1}, "min_lr (0.01) is for schedule cosine"),
    ({"betas": [0.9, 0.99]}, "are for optimizer adamw or lamb, not for sgd"),
    ({"optimizer": "adamw", "nesterov": True}, "optimizer adamw has no nesterov"),
    ({"optimizer": "adamw", "betas": [0.9]}, "betas"),
    ({"optimizer": "lamb", "betas": [0.9, 1.0]}, "betas"),
    ({"label_smoothing": 1.0}, "label_smoothing"),
    ({"ema": 1.0}, "ema"),
    ({"mixup": -1.0}, "mixup"),
    ({"augmentation": {}}, "changes nothing"),
    ({"augmentation": {"interpolation": "bilinear", "erasing": 0.25}}, "interpolation bilinear is for randaugment"),
])  # fmt: skip
def test_settings_that_contradict_each_other(changes, said):
    with pytest.raises(ValidationError) as error:
        training_settings(10, 4, 0.1, **changes)
    assert said in str(error.value)
