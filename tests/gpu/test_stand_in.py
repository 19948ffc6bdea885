"""The stand-in for a GPU sees what it is there for, and nothing else."""

import pytest
import torch

from tests.gpu.stand_in import GPU, HAS_BACKWARD, NEEDS, Accelerator

pytestmark = NEEDS


@pytest.mark.parametrize("mix", [
    lambda x: x + torch.ones(4),
    lambda x: x.gather(0, torch.zeros(1, dtype=torch.int64)),
    lambda x: torch.nn.functional.linear(x, torch.ones(2, 4)),
])  # fmt: skip
def test_two_devices(mix):
    with Accelerator(), pytest.raises(RuntimeError, match=r"two devices|same device"):
        mix(torch.ones(4, device=GPU))


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_generator_of_another_device(devices):
    with Accelerator(), pytest.raises(AssertionError, match="another device's generator"):
        torch.rand(3, device=devices[0], generator=torch.Generator(devices[1]))


@pytest.mark.parametrize(("call", "kind"), [
    (lambda x: x.sum().item(), "read: aten._local_scalar_dense"),
    (lambda x: bool((x > 0).all()), "read: aten._local_scalar_dense"),
    (lambda x: x.tolist(), "read: aten._local_scalar_dense"),
    (lambda x: x.equal(x), "read: aten.equal"),
    (lambda x: x.cpu(), "to the host: aten._to_copy"),
    (lambda x: torch.ones(4).copy_(x), "to the host: aten.copy_"),
    (lambda x: x + torch.ones(4).to(GPU), "to the device, blocking"),
    (lambda x: x + torch.tensor([1.0] * 4, device=GPU), "to the device, blocking"),
    (lambda _: torch.ones(1 << 15).to(GPU, non_blocking=True), "to the device, 131072 pageable bytes"),
    (lambda x: x.long().bincount(), "inside: aten.bincount"),
    (lambda x: torch.linalg.svd(x[None]), "inside: aten._linalg_svd"),
    (lambda x: x.index_put_((x > 0,), torch.zeros((), device=GPU)), "inside: aten.index_put_ by a mask"),
    (lambda x: x[x > 0], "inside: aten.index by a mask"),
    (lambda x: x[torch.zeros(2, dtype=torch.int64)], "inside: aten.index by an index of the host"),
])  # fmt: skip
def test_what_waits(call, kind):
    with Accelerator() as accelerator:
        x = torch.ones(4, device=GPU)
        accelerator.waits.clear()
        call(x)
    assert kind in {wait.partition(" at ")[0] for wait in accelerator.waits}


def test_what_does_not_wait():
    with Accelerator() as accelerator:
        x = torch.ones(4, device=GPU, requires_grad=True)
        loss = (x * 2 + torch.ones(4).to(GPU, non_blocking=True)).sum()
        if HAS_BACKWARD:
            loss.backward()
            assert x.grad.device == GPU
        torch.rand(3, device=GPU, generator=torch.Generator(GPU).manual_seed(1))
        torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert accelerator.waits == {}


def test_it_leaves_torch_as_it_was():
    generator, apply = torch.Generator, torch.nn.Module._apply
    with Accelerator():
        assert torch.Generator is not generator
    assert (torch.Generator, torch.nn.Module._apply) == (generator, apply)
    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    assert weight.grad.tolist() == [1, 1]
    assert not torch.cuda.is_available()
