"""A published trainer beside ours: our side of all comparisons, a made-up checkout, real ones where there are any."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from benchmarks import counterparts, lockstep
from benchmarks.counterparts import CHECKOUTS, Counterpart
from kdcore.networks.contract import Output
from kdcore.scales import pyramid_logits
from kdcore.system.errors import UserError

ROOT = Path(__file__).parents[1]
PAIR = "resnet8-resnet8"
REAL = os.environ.get("LOCKSTEP_CHECKOUTS", "")
"""Folders of checkouts, separated as in PATH."""
EVERY = {
    (one.method, tuple(sorted(one.changes.items())), one.scale, one.stand): one
    for table in CHECKOUTS.values()
    for one in table.values()
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(lockstep, "BATCH", 4)
    monkeypatch.setattr(lockstep.common, "BATCH", 8)


@pytest.mark.parametrize("one", EVERY.values(), ids=lambda one: f"{one.distiller}-{one.scale}-{one.stand}-{one.why}")
def test_our_side_trains_in_float64(one, small):
    with lockstep.in_float64(), one.as_compared():
        ours = lockstep.Ours(one, PAIR, clipped=True)
        trained = [*ours.run.student.parameters(), *ours.adapter.parameters()]
        before = [parameter.detach().clone() for parameter in trained]
        taken = [ours.step(batch) for batch, _ in zip(ours.images.batches(), range(2), strict=False)]
    assert all(0 < loss < 1e4 for loss in taken)
    assert {parameter.dtype for parameter in trained} == {torch.float64}
    assert all(
        (parameter != old).any() for parameter, old in zip(trained, before, strict=True) if parameter.grad is not None
    )
    assert sum(parameter.grad is not None for parameter in trained) >= len(list(ours.run.student.parameters()))
    maps = ours.images.views[0][:1]
    shapes = [network(maps) for network in (ours.run.student, ours.teacher)]
    assert None not in counterparts.settings(one, ours.recipe, *shapes).values()
    parts = counterparts.parts(one, ours.adapter)
    assert all(f"{name}." in "".join(f"{key}. " for key in ours.adapter.state_dict()) for name in parts.values())


def test_in_float64_no_tensor_becomes_float32_and_later_all_is_as_before():
    with lockstep.in_float64():
        kinds = {torch.ones(1).dtype, torch.ones(1).float().dtype, torch.FloatTensor([1.0]).dtype}
    assert kinds == {torch.float64}
    assert {torch.ones(1).dtype, torch.ones(1).double().float().dtype} == {torch.float32}


def test_the_teacher_is_right_and_wrong_of_images_and_of_their_parts():
    with lockstep.in_float64():
        teacher, _ = lockstep.common.networks_of("resnet20-resnet8", torch.device("cpu"))
        seen = lockstep.images(teacher)
        with torch.no_grad():
            said = pyramid_logits(teacher(seen.views[0]).final_map, teacher.classifier, (1, 2, 4)).argmax(dim=2)
    right = said == seen.labels[:, None]
    cases = {(whole, part) for whole, *parts in right.tolist() for part in parts}
    assert cases == {(True, True), (True, False), (False, True), (False, False)}


def test_the_negatives_that_both_get_are_those_that_ours_draws(small, monkeypatch):
    with lockstep.in_float64():
        ours = lockstep.Ours(CHECKOUTS["mdistiller"]["crd"], PAIR, clipped=False)
        batch = next(ours.images.batches())
        told, used = ours.drawn(batch), []
        forward = ours.adapter.forward
        monkeypatch.setattr(ours.adapter, "forward", lambda step: used.append(step.prepared) or forward(step))
        ours.step(batch)
        assert torch.equal(told, used[0])
        assert not torch.equal(told, ours.drawn(batch))


def test_settings_are_products_of_the_recipe():
    nothing = Output(torch.zeros(1, 2), torch.zeros(1, 3), (), (), torch.zeros(1, 3, 1, 1))
    recipe = {"ce_weight": 1.0, "alpha": 1.0, "beta": 8.0, "kd_weight": 9.0, "temperature": 2.0, "warmup": 20}
    found = counterparts.settings(Counterpart("DKD", "dkd", stand=True), recipe, nothing, nothing)
    assert found == {
        "DKD__CE_WEIGHT": 1.0,
        "DKD__ALPHA": 9.0,
        "DKD__BETA": 72.0,
        "DKD__T": 2.0,
        "DKD__WARMUP": 20,
        "EXPERIMENT__LOGIT_STAND": True,
    }


def test_comparisons_are_chosen_by_label_or_distiller():
    table = CHECKOUTS["mdistiller"]
    assert lockstep.chosen(table, "all") is table
    assert list(lockstep.chosen(table, "kd; OFD")) == ["kd", "ofd", "ofd, default"]
    with pytest.raises(UserError, match=r"METHODS: 'swap': this checkout is compared in kd; dkd; at"):
        lockstep.chosen(table, "swap")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A checkout whose KD is right, and whose DKD forgets one of its weights: plain PyTorch with our networks."""
    folder = tmp_path_factory.mktemp("checkout")
    files = {
        "dataset/cifar100.py": "",
        "models.py": """
            from torch import nn
            from kdcore import networks

            class Pair(nn.Module):
                def __init__(self, num_classes):
                    super().__init__()
                    self.inner = networks.create("resnet8", num_classes)

                def forward(self, image):
                    return self.inner(image).logits, {}

            cifar_model_dict = {"resnet8": (Pair, None)}
            """,
        "distillers.py": """
            import torch
            import torch.nn.functional as F
            from torch import nn

            class Distiller(nn.Module):
                def __init__(self, student, teacher, cfg):
                    super().__init__()
                    self.student, self.teacher, self.cfg = student, teacher, cfg

                def train(self, mode=True):
                    super().train(mode)
                    self.teacher.eval()
                    return self

                def get_learnable_parameters(self):
                    return list(self.student.parameters())

                def forward(self, image, target, epoch):
                    logits = self.student(image)[0]
                    with torch.no_grad():
                        taught = self.teacher(image)[0]
                    return logits, self.losses(logits, taught, target, epoch)

            class KD(Distiller):
                def losses(self, logits, taught, target, epoch):
                    t, loss = self.cfg["KD"]["TEMPERATURE"], self.cfg["KD"]["LOSS"]
                    soft = F.kl_div((logits / t).log_softmax(1), (taught / t).softmax(1), reduction="batchmean")
                    hard = F.cross_entropy(logits, target)
                    return {"a": loss["CE_WEIGHT"] * hard, "b": loss["KD_WEIGHT"] * t * t * soft}

            class DKD(Distiller):
                def losses(self, logits, taught, target, epoch):
                    return {"a": F.cross_entropy(logits, target)}

            distiller_dict = {"KD": KD, "DKD": DKD}
            """,
        "engine/cfg.py": """
            import copy

            class Settings(dict):
                __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

                def clone(self):
                    return copy.deepcopy(self)

                def __deepcopy__(self, memo):
                    return Settings({key: copy.deepcopy(value, memo) for key, value in self.items()})

            CFG = Settings(
                KD=Settings(TEMPERATURE=2, LOSS=Settings(CE_WEIGHT=0.1, KD_WEIGHT=0.9)),
                DKD=Settings(CE_WEIGHT=1.0, ALPHA=1.0, BETA=8.0, T=4.0, WARMUP=20),
                SOLVER=Settings(LR=0.1, MOMENTUM=0.9, WEIGHT_DECAY=0.0),
                LOG=Settings(PREFIX=""),
            )
            """,
        "engine/__init__.py": """
            from .trainer import Trainer
            trainer_dict = {"base": Trainer}
            """,
        "engine/trainer.py": """
            import torch

            class AverageMeter:
                def update(self, val):
                    self.val = val

            class Trainer:
                def __init__(self, name, distiller, train, test, cfg):
                    self.distiller = distiller
                    solver = cfg["SOLVER"]
                    self.optimizer = torch.optim.SGD(
                        distiller.module.get_learnable_parameters(),
                        lr=solver["LR"], momentum=solver["MOMENTUM"], weight_decay=solver["WEIGHT_DECAY"],
                    )

                def train_iter(self, data, epoch, meters):
                    image, target, index = data
                    self.optimizer.zero_grad()
                    _, losses = self.distiller(image=image.float(), target=target, epoch=epoch)
                    loss = sum(losses.values())
                    loss.backward()
                    self.optimizer.step()
                    meters["losses"].update(loss.item())
            """,
    }
    for name, text in files.items():
        path = folder / "mdistiller" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    (folder / "mdistiller" / "distillers").mkdir()
    (folder / "mdistiller" / "distillers.py").rename(folder / "mdistiller" / "distillers" / "__init__.py")
    return folder


def run(folder, *arguments):
    """The script in a process of its own, for it imports a package mdistiller."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "benchmarks.lockstep", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_trainer_that_does_the_same_agrees_and_another_one_is_named(made_up, tmp_path):
    done = run(tmp_path, made_up, "kd;dkd", 5, PAIR)
    assert done.returncode == 1, done.stderr
    assert "dkd: the losses of step 5 differ by more than 1e-09" in done.stderr
    (file,) = tmp_path.glob("benchmarks/results/lockstep-mdistiller-*.json")
    content = json.loads(file.read_text())
    assert content["checkout"] == {"repository": "mdistiller", "commit": "unknown"}
    found = content["compared"]
    assert list(found) == ["kd", "dkd"]
    assert all(difference < 1e-12 for difference in found["kd"]["difference"].values())
    assert found["kd"]["weights"] < 1e-10
    assert found["kd"]["moved"] > 1e-3
    assert found["kd"]["set otherwise than the checkout has it"] == {"KD__TEMPERATURE": [2, 4.0]}
    assert all(difference > 1e-6 for difference in found["dkd"]["difference"].values())
    page = file.with_suffix(".md").read_text()
    assert page in done.stdout
    assert "not explained |" in page
    assert str(made_up) not in page + file.read_text()


def test_what_cannot_be_compared_is_said(tmp_path):
    with pytest.raises(UserError, match="is no checkout of mdistiller's family"):
        lockstep.main(str(tmp_path))
    with pytest.raises(UserError, match="STEPS: '0' must be a whole number from 1 on"):
        lockstep.main(str(tmp_path), "all", "0")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="LOCKSTEP_CHECKOUTS names no checkouts")
@pytest.mark.parametrize("checkout", [*filter(None, REAL.split(os.pathsep))])
def test_published_trainers_take_the_same_steps(checkout, tmp_path):
    done = run(tmp_path, Path(checkout).absolute(), "all", 5)
    assert done.returncode == 0, done.stderr
