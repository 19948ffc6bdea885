"""The device that computes: which one, with what arithmetic, and what is said where it is not there."""

import pytest
import torch

from kdcore import networks
from kdcore.system import command
from kdcore.system.errors import OUT_OF_MEMORY, UserError, is_out_of_memory
from kdcore.training import device, folding, provenance

GPU = torch.device("cuda", 0)


@pytest.fixture
def arithmetic():
    """Torch's own settings come back after the test."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    mode = torch.get_deterministic_debug_mode()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    torch.set_deterministic_debug_mode(mode)


@pytest.fixture
def making(monkeypatch):
    """Let the first tensor on a GPU fail with an error."""

    def making(error, **environment):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr(torch, "empty", fails)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        for name, value in {"KDCORE_DEVICE": "cuda:3", **environment}.items():
            monkeypatch.setenv(name, value)

    return making


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: CUBLAS_STATUS_ALLOC_FAILED"),
])  # fmt: skip
def test_a_gpu_without_memory_is_no_bad_input(making, error, capsys):
    making(error)
    with pytest.raises(RuntimeError, match=str(error)) as raised:
        device.choose()
    assert is_out_of_memory(raised.value)
    assert command._explain(raised.value, device.choose) == OUT_OF_MEMORY
    assert "the decoded images of the data set lie there too" in capsys.readouterr().err


def test_gpus_are_numbered_among_those_that_are_visible(making):
    error = RuntimeError("CUDA error: invalid device ordinal")
    making(error, CUDA_VISIBLE_DEVICES="4,5")
    allowed = "use cpu, or cuda:0 to cuda:1, those of CUDA_VISIBLE_DEVICES=4,5, which are counted from 0"
    with pytest.raises(UserError, match=rf"KDCORE_DEVICE=cuda:3: no such device here \({error}\); {allowed}$"):
        device.choose()


@pytest.mark.usefixtures("arithmetic")
def test_equal_bits_are_asked_for_where_they_can_be_had():
    for where, mode in ((torch.device("cpu"), 2), (GPU, 0)):
        device.prepare_torch(where)
        assert torch.get_deterministic_debug_mode() == mode


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("convolutions", "products", "said"), [
    (True, False, ["convolutions"]), (False, False, []), (True, True, ["convolutions", "matrix products"]),
])  # fmt: skip
def test_meta_says_what_is_in_tf32(monkeypatch, convolutions, products, said):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "H200")
    assert provenance.describe(GPU)["tf32"] == said
    assert "tf32" not in provenance.describe(torch.device("cpu"))


@pytest.mark.usefixtures("arithmetic")
def test_folding_compares_without_tf32(monkeypatch):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, True
    seen, agrees = [], folding._agrees
    monkeypatch.setattr(folding, "_agrees", lambda *given: seen.append(device.tf32()) or agrees(*given))
    network = networks.create("resnet8", 10).eval()
    network.register_forward_hook(lambda *_: seen.append(device.tf32()))
    folding.folded(network, 16)
    assert len(seen) > 2
    assert not any(seen)
    assert device.tf32() == ["convolutions", "matrix products"]
    with pytest.raises(AttributeError):
        folding.folded(None, 16)
    assert device.tf32() == ["convolutions", "matrix products"]
