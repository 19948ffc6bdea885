"""SGD: the bits of torch.optim's, and what it leaves alone."""

import pytest
import torch

from kdcore.training.optimizers import SGD

OPTIONS = {"momentum": 0.9, "weight_decay": 0.01}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(7, 5, generator=generator)) for _ in range(3)]


def loss_of(weights):
    """The third parameter is out of its reach."""
    return (weights[0].sin() * weights[1]).square().sum()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("longest", [None, 0.5])
def test_steps_are_those_of_torch(nesterov, longest):
    ours, theirs = parameters(), parameters()
    optimizer = SGD(ours, lr=0.1, nesterov=nesterov, **OPTIONS)
    reference = torch.optim.SGD(theirs, lr=0.1, nesterov=nesterov, fused=True, **OPTIONS)
    for lr in (0.1, 0.1, 0.01, 0.01):
        optimizer.lr = reference.param_groups[0]["lr"] = lr
        optimizer.minimise(loss_of(ours), longest=longest)
        reference.zero_grad()
        loss_of(theirs).backward()
        if longest is not None:
            torch.nn.utils.clip_grad_norm_(theirs, longest)
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(ours[2], parameters()[2])


def test_frozen_parameters_are_left_out():
    weights = parameters()
    weights[1].requires_grad_(False)
    optimizer = SGD(weights, lr=0.1, nesterov=False, **OPTIONS)
    optimizer.minimise(loss_of(weights))
    assert torch.equal(weights[1], parameters()[1])
    assert not torch.equal(weights[0], parameters()[0])


def test_state_survives_saving(tmp_path):
    """Two steps, saved, restored, two more: as four."""

    def steps(weights, count, state=None):
        optimizer = SGD(weights, lr=0.1, nesterov=False, **OPTIONS)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(count):
            optimizer.minimise(loss_of(weights))
        return optimizer.state_dict()

    expected, weights = parameters(), parameters()
    steps(expected, 4)
    torch.save(steps(weights, 2), tmp_path / "state")
    steps(weights, 2, torch.load(tmp_path / "state", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


def test_training_imports_no_compiler(python):
    """It would take longer than all other imports together."""
    code = "import sys; from tests import distributed_cells; distributed_cells.train('kd'); print(*sys.modules)"
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & set(python(code).split())
