"""Several processes train one cell: as one process would, up to rounding."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from kdcore import catalog
from kdcore.data.feed import Feed
from kdcore.data.sources import digits
from kdcore.system.errors import UserError
from kdcore.training import distributed, torchrun
from kdcore.training.distributed import World
from tests import distributed_cells
from tests.project import ROOT
from tests.train import CPU, card


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Where two processes left what they trained."""
    folder = tmp_path_factory.mktemp("shared")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "KDCORE_DEVICE": "cpu"}
    subprocess.run([*command, "tests.distributed_cells", folder], cwd=ROOT, env=quiet, check=True)
    return folder


@pytest.mark.parametrize("method", distributed_cells.METHODS)
def test_two_processes_train_as_one(shared, method):
    """Losses within 1e-4 over three steps, accuracies within two images (of 997, and of 40), and both processes hold
    the same bits.
    """
    run = distributed_cells.train(method)
    for rank in range(2):
        (history,) = json.loads((shared / f"{method}-{rank}.json").read_text())
        of_images = {"test_top1": 200 / 997, "train_top1": 200 / 40}
        for name, value in run.history[0].items():
            assert history[name] == pytest.approx(value, rel=1e-4, abs=of_images.get(name, 0)), name
    first, second = (load_file(shared / f"{method}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for key, value in run.student.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=2e-3, msg=key)


def test_validation_images_are_shared_too(shared):
    run = distributed_cells.train("kd", validation=0.25)
    first, second = (json.loads((shared / f"validation-{rank}.json").read_text())[0] for rank in range(2))
    assert first == second
    of_images = {"val_top1": 100 / 10, "test_top1": 200 / 997, "train_top1": 200 / 30}
    for name, value in run.history[0].items():
        assert first[name] == pytest.approx(value, rel=1e-4, abs=of_images.get(name, 0)), name


CELL = "wrn_16_1-resnet8-kd-2-True-base-0"


@pytest.mark.parametrize(("lr", "expected"), [
    (1e30, f"{CELL}: epoch 1, step 2 of 3: loss nan, ce nan, kd nan; the last finite ones: loss "),
    (1e9, f"{CELL}: epoch 1, after step 1 of 1: conv1.weight holds "),
])  # fmt: skip
def test_numbers_that_are_none_or_absurd_stop_all(shared, lr, expected):
    first, second = (json.loads((shared / f"{lr}-{rank}.json").read_text())["said"] for rank in range(2))
    assert first.startswith(expected)
    assert first == second


@pytest.mark.parametrize("method", [name for name, entry in catalog.methods().items() if entry.across == "batch"])
def test_losses_that_relate_samples_of_a_batch_are_refused(method):
    with pytest.raises(UserError, match=f"method {method} relates the samples of a batch; train it in one process"):
        torchrun.check_divisible(card("wrn_16_1-resnet8", method, {}))


def test_dot_is_refused():
    with pytest.raises(UserError, match="optimizer dot"):
        torchrun.check_divisible(card("wrn_16_1-resnet8", "kd", {"optimizer": "dot"}))


def digits_of(count):
    return digits.fetch(source="embedded", image_size=16, train_per_class=count)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_see_every_image_of_the_global_batches_once(size):
    """In the same batches whatever their number."""
    dataset = digits_of(2)
    alone = [seen.index for seen in Feed(dataset, CPU).batches(8, views=1, seed=0, epoch=1)]
    feeds = [Feed(dataset, CPU, World(rank, size)) for rank in range(size)]
    if size == 7:
        with pytest.raises(UserError, match="a batch of 4 is left over, fewer than the 7 processes"):
            next(feeds[0].batches(8, views=1, seed=0, epoch=1))
        return
    for whole, *parts in zip(alone, *(feed.batches(8, views=1, seed=0, epoch=1) for feed in feeds), strict=True):
        assert sorted(torch.cat([part.index for part in parts]).tolist()) == sorted(whole.tolist())
        assert {part.whole for part in parts} == {len(whole)}


def test_alone_nothing_is_wrapped_and_nothing_sent():
    module = torch.nn.BatchNorm2d(2)
    assert distributed.ALONE.synchronised(module, CPU) is module
    assert type(module) is torch.nn.BatchNorm2d
    module.weight.grad = torch.tensor([1.0, 2.0])
    distributed.ALONE.average_gradients([*module.parameters()])
    assert module.weight.grad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1000000", "²"])
def test_wrong_number_of_processes(monkeypatch, value):
    monkeypatch.setenv("KDCORE_PROCESSES", value)
    with pytest.raises(UserError, match=f"KDCORE_PROCESSES='{value}': must be a number from 1 to [0-9]+, of processes"):
        torchrun.processes()


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine on which torch sees two GPUs, and notes which one a process takes, and how it would talk to others."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torchrun.dist, "init_process_group", taken.append)
    monkeypatch.setattr(torchrun.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torchrun.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(torchrun.dist, "get_world_size", lambda: 2)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("KDCORE_PROCESSES", "2")):
        monkeypatch.setenv(name, value)
    return taken


@pytest.mark.parametrize(("device", "taken"), [(None, [1, "nccl"]), ("", [1, "nccl"]), ("cuda", [1, "nccl"]),
                                               ("cpu", ["gloo"])])  # fmt: skip
def test_each_process_has_its_own_gpu(two_gpus, monkeypatch, device, taken):
    monkeypatch.delenv("KDCORE_DEVICE", raising=False)
    if device is not None:
        monkeypatch.setenv("KDCORE_DEVICE", device)
    assert torchrun.processes() == 2
    with torchrun.joined():
        assert two_gpus == taken


def test_several_processes_on_one_gpu_are_refused(two_gpus, monkeypatch):
    monkeypatch.setenv("KDCORE_DEVICE", "cuda:1")
    with pytest.raises(UserError, match="KDCORE_DEVICE=cuda:1: names one GPU, and 2 processes need one each"):
        torchrun.processes()
    with pytest.raises(UserError, match="KDCORE_DEVICE=cuda:1: names one GPU"), torchrun.joined():
        pass
    monkeypatch.setenv("KDCORE_DEVICE", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 3 on this machine has no GPU, for 2 can be seen"), torchrun.joined():
        pass
    assert two_gpus == []


@pytest.mark.slow
@pytest.mark.pipeline
def test_stage_train_in_two_processes(project, monkeypatch):
    """One of them writes, once, what both have trained."""
    name = "resnet14-resnet8-kd-2-False-base-0"
    folder = project.folder / "runs/resnet14-resnet8" / name
    before = json.loads((folder / "meta.json").read_text())
    monkeypatch.setenv("KDCORE_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = project.run(sys.executable, "-m", "stages.train", "train", name)
    after = json.loads((folder / "meta.json").read_text())
    assert (before["processes"], after["processes"]) == (1, 2)
    assert output.count("top-1") == 1
    assert not list((project.folder / "scratch/states").glob(f"{name}*"))
