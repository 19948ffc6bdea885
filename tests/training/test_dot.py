"""DOT: its update written out, and what it falls back to."""

import torch

from kdcore.training.optimizers import DOT

OPTIONS = {"lr": 0.1, "momentum": 0.9, "delta": 0.05, "weight_decay": 0.01}


def minimise(weights, steps, losses):
    """Steps of DOT on parameters made from these numbers."""
    parameters = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    optimizer = DOT(parameters, **OPTIONS)
    for _ in range(steps):
        optimizer.minimise(*losses(parameters))
    return [parameter.item() for parameter in parameters], optimizer


def test_a_parameter_of_both_losses_moves_along_two_buffers():
    weight, task, apart = 1.0, 0.0, 0.0
    for _ in range(3):
        task = (2 * weight + 0.01 * weight) + 0.85 * task
        apart = 3.0 + 0.95 * apart
        weight -= 0.1 * (task + apart)
    (got,), _ = minimise([1.0], 3, lambda p: (p[0] ** 2, 3 * p[0]))
    torch.testing.assert_close(got, weight, rtol=1e-6, atol=0)


def test_parameters_of_one_loss_have_plain_momentum():
    """The first is the task's alone, the second distillation's alone, the third nobody's."""
    got, optimizer = minimise([1.0, 2.0, 5.0], 4, lambda p: (p[0] ** 2, p[1] ** 2))
    parameters = [torch.nn.Parameter(torch.tensor(weight)) for weight in (1.0, 2.0)]
    plain = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        plain.zero_grad()
        sum(parameter**2 for parameter in parameters).backward()
        plain.step()
    torch.testing.assert_close(got, [*(parameter.item() for parameter in parameters), 5.0], rtol=1e-6, atol=0)
    assert {name: sorted(of_name) for name, of_name in optimizer.buffers.items()} == {"task": [0, 1]}


def test_without_distillation_it_is_sgd_with_momentum():
    (got,), _ = minimise([1.0], 4, lambda p: (p[0] ** 2, None))
    (expected, _), _ = minimise([1.0, 0.0], 4, lambda p: (p[0] ** 2, 0 * p[1]))
    assert got == expected


def test_state_survives_saving():
    """Two steps, saved, restored, two more: as four."""

    def losses(parameters):
        return parameters[0] ** 2, 3 * parameters[0]

    (expected,), _ = minimise([1.0], 4, losses)
    (halfway,), before = minimise([1.0], 2, losses)
    parameter = torch.nn.Parameter(torch.tensor(halfway))
    after = DOT([parameter], **OPTIONS)
    after.load_state_dict(before.state_dict())
    for _ in range(2):
        after.minimise(*losses([parameter]))
    assert parameter.item() == expected
