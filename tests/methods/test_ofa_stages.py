"""OFA's auxiliary heads: their shapes, what each is compared with, and how they begin."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore.methods import ofa, ofa_stages
from kdcore.system.errors import UserError
from tests.methods.inputs import maps, output, setting, step

RECIPE = {"gamma": 1.5, "temperature": 2.0}


def test_loss_is_the_sum_over_heads():
    heads, teacher, target = torch.randn(3, 4, 5), torch.randn(4, 5), torch.arange(4)
    expected = sum(ofa.loss(head, teacher, target, **RECIPE).mean() for head in heads)
    torch.testing.assert_close(ofa_stages.loss(list(heads), teacher, target, **RECIPE), expected)


def test_heads_that_agree_with_the_teacher_leave_its_entropy():
    """At gamma 1, where it is cross-entropy: the least that can be reached."""
    teacher = torch.randn(4, 5, dtype=torch.float64)
    heads = [teacher + 3, teacher.clone().requires_grad_()]
    value = ofa_stages.loss(heads, teacher, torch.arange(4), gamma=1.0, temperature=1.0)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(value, 2 * entropy)
    torch.testing.assert_close(torch.autograd.grad(value, heads[1])[0], torch.zeros(4, 5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype):
    logits = torch.tensor([[1e3, -1e3, 0.0], [0.0, 0.0, 0.0]], dtype=dtype).requires_grad_()
    value = ofa_stages.loss([logits], logits.detach().flip(1), torch.tensor([0, 1]), **RECIPE)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def convolutions(head):
    return [part for part in head.modules() if isinstance(part, nn.Conv2d)]


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_blocks_double_the_channels_and_halve_the_map(blocks):
    head = ofa_stages.Head(3, 50, 7, blocks=blocks)
    of_pointwise = [(part.in_channels, part.out_channels) for part in convolutions(head) if part.groups == 1]
    widths = [3 * 2**i for i in range(blocks)]
    behind = [*widths[1:], 50]
    assert of_pointwise == [pair for a, b in zip(widths, behind, strict=True) for pair in ((a, a), (a, b))]
    assert all(part.bias is None for part in convolutions(head))
    assert nn.Sequential(*list(head)[:blocks])(torch.randn(2, 3, 16, 16)).shape == (
        2,
        50,
        16 // 2**blocks,
        16 // 2**blocks,
    )
    assert head(torch.randn(2, 3, 16, 16)).shape == (2, 7)


def test_the_last_stages_head_is_linear():
    """A convolution of single pixels with a bias, the mean, and a linear layer."""
    head = ofa_stages.Head(3, 5, 7, blocks=0)
    first, second = torch.randn(2, 2, 3, 4, 4)
    zero = head(torch.zeros(2, 3, 4, 4))
    torch.testing.assert_close(head(first + second), head(first) + head(second) - zero)
    torch.testing.assert_close(head(first.flip(2)), head(first))
    assert convolutions(head)[0].bias is not None


def test_initial_weights():
    torch.manual_seed(0)
    head = ofa_stages.Head(64, 256, 100, blocks=1)
    depthwise, pointwise = convolutions(head)[:2]
    assert depthwise.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert pointwise.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert head[-1].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head[-1].bias.any()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_stage_after_the_stem_has_a_head(count):
    """Of n stages, the first has a head of n - 1 blocks and the last one of none; however small its map is."""
    student, teacher = output(maps(2, *range(3, 3 + count), size=16)), output(maps(4, 30))
    adapter = ofa_stages.Adapter(setting(student, teacher), **RECIPE)
    blocks = [sum(isinstance(part, ofa_stages.Block) for part in head) for head in adapter.heads]
    assert blocks == list(reversed(range(count)))
    assert [head[-1].in_features for head in adapter.heads] == [30] * count


@pytest.mark.parametrize("widths", [((2, 3, 40), (4, 30)), ((2, 3, 20), (4, 40))])
def test_heads_are_as_wide_as_the_wider_network(widths):
    student, teacher = (output(maps(*channels)) for channels in widths)
    assert [head[-1].in_features for head in ofa_stages.Adapter(setting(student, teacher), **RECIPE).heads] == [40, 40]


def test_maps_of_one_pixel():
    student = output([torch.rand(4, channels, 1, 1) for channels in (2, 3, 4, 5)])
    adapter = ofa_stages.Adapter(setting(student, output(maps(2, 3))), **RECIPE)
    value = adapter(step(student, output(maps(2, 3), logits=torch.randn(4, 10))))
    value.backward()
    assert torch.isfinite(value)
    assert [name for name, part in adapter.named_parameters() if part.grad is None] == []


def test_every_head_is_compared_with_the_teachers_logits():
    student, teacher = output(maps(2, 3, 4)), output(maps(5, 6), logits=torch.randn(4, 10))
    adapter = ofa_stages.Adapter(setting(student, teacher), **RECIPE)
    now = step(student, teacher, target=torch.tensor([3, 1, 4, 1]))
    first, second = (head(stage) for head, stage in zip(adapter.heads, student.stages[1:], strict=True))
    expected = sum(ofa.loss(logits, teacher.logits, now.target, **RECIPE).mean() for logits in (first, second))
    torch.testing.assert_close(adapter(now), expected)


def test_heads_learn():
    torch.manual_seed(0)
    student, teacher = output(maps(2, 3, 4)), output(maps(5, 6), logits=5 * F.one_hot(torch.arange(4), 10).float())
    adapter = ofa_stages.Adapter(setting(student, teacher), **RECIPE)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.05)
    values = []
    for _ in range(5):
        values.append(adapter(step(student, teacher)))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0]


@pytest.mark.parametrize("left", [slice(0), slice(1)])
def test_a_student_without_maps_is_refused(left):
    student, teacher = output(maps(2, 3)), output(maps(2, 3))
    given = setting(student, teacher)
    given = replace(given, student=student._replace(stages=student.stages[left]))
    with pytest.raises(UserError, match="feature maps of the student's stages, which it does not have; take ofa"):
        ofa_stages.Adapter(given, **RECIPE)
