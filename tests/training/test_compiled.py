"""Compiled steps: as one graph for every method, made once, close to those without a compiler, with equal bits in every
run.
"""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore import catalog, networks
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix import side_by_side
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.train_card import settings_card
from kdcore.methods import fitnet
from kdcore.networks.contract import Network, Output
from kdcore.objective import build
from kdcore.parts import BatchContext
from kdcore.system import yamlfile
from kdcore.system.errors import RunError, UserError
from kdcore.system.files import whole
from kdcore.system.signals import Interrupted
from kdcore.training import compiled, compiler, experiment, loop, run_folder, teacher_outputs
from kdcore.training.compiled import CompiledPasses, CompiledTeacher
from kdcore.training.compiler import chosen
from kdcore.training.state import ResumeState, capture, restore
from tests.train import CPU, as_card, card, changed, training_settings

PAIR = "resnet8-resnet8"
SETTINGS = training_settings(3, 8, 0.02)
"""Of 20 images: two whole batches in each epoch, and a smaller one."""
QUICK = ("kd", "crd", "ctkd", "mgd", "vid", "wkd_l")
"""With a schedule, draws, a memory, trained parts, and with none of these."""


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=2)


@pytest.fixture(autouse=True, scope="module")
def code(tmp_path_factory):
    """Compiled code is kept for the tests of this file, and no longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiler.CACHE_VARIABLE, str(tmp_path_factory.mktemp("compiled")))
        patch.setattr(compiler, "OWN_CACHE", os.environ[compiler.CACHE_VARIABLE])
        yield


def prepared(method, *, backend=None, settings=SETTINGS, dataset, **changes):
    """A run of a method and its teacher; where a backend is named, the run's steps are compiled."""
    teacher = None if method == catalog.VANILLA else loop.create("resnet8", 10, 1, CPU)
    made = card(PAIR, method, as_card(settings)) | changes
    run = loop.prepare(made, dataset, teacher, device=CPU, compiled=backend == "inductor")
    if backend not in (None, "inductor"):
        run.passes = CompiledPasses(settings.batch_size, CPU, method, backend=backend)
    return run, teacher


def trained(method, dataset, **options):
    """Such a run at its end."""
    run, teacher = prepared(method, dataset=dataset, **options)
    loop.train(run, teacher, dataset)
    return run


def bits(run):
    return [value.clone() for module in (run.student, run.objective) for value in module.state_dict().values()]


def assert_close(values, others, share):
    """Tensors differ by a share of their lengths at most: those of one step, for further ones amplify roundings."""
    for mine, other in zip(values, others, strict=True):
        assert (mine - other).norm() <= share * other.norm()


def gradients_of_a_step(run, teacher, dataset):
    """The loss of a run's first step, and all gradients."""
    next(loop.steps(run, teacher, dataset))
    return gradients(run)


def gradients(run):
    """The loss of a run that has taken its first step, and all gradients."""
    parameters = [*run.student.parameters(), *run.objective.parameters()]
    return [run.sums.losses["loss"][0], *(p.grad.clone() for p in parameters if p.grad is not None)]


class Small(Network):
    """A convolution and a classifier, behind a dropout."""

    norms = ()

    def __init__(self, share=0.0):
        super().__init__()
        self.conv, self.fc, self.share = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Linear(8, 10), share

    @property
    def classifier(self):
        return self.fc

    def forward(self, images):
        x = F.relu(self.conv(images))
        pooled = x.mean(dim=(2, 3))
        return Output(self.fc(F.dropout(pooled, self.share, self.training)), (x,), (x,), pooled, x)


def small(seed, **options):
    torch.manual_seed(seed)
    return Small(**options).to(memory_format=torch.channels_last)


def distilled(dataset, *, is_compiled=True, share=0.0, **options):
    """A run of KD with M=[1,2] and the z-score, between two small networks, and its teacher."""
    teacher, recipe = small(1).eval(), card(PAIR, "kd", {})["recipe"]
    labels = torch.from_numpy(dataset.train.labels)
    sizes = {"labels": labels, "image_size": 16, "batch_size": 8, "epochs": 3}
    goal, student = build(
        "kd", recipe, student=small(0, share=share), teacher=teacher, levels=(1, 2), stand=True, **sizes
    )
    return loop.Run(student, goal, SETTINGS, seed=0, device=CPU, compiled=is_compiled, **options), teacher


@pytest.mark.parametrize("method", [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in (*catalog.methods(), "crd+kd", "vid+mlkd", catalog.VANILLA)
])  # fmt: skip
def test_every_method_is_one_graph_that_is_made_once(dataset, method):
    """Over epochs in which the rate and the method's weight change, and with a smaller batch in each; without the
    roundings of a compiler that makes code.
    """
    recipe = card(PAIR, method, {})["recipe"]
    recipe |= {key: 3 for key in recipe if key.rpartition(".")[2] == "warmup"}
    run, teacher = prepared(method, dataset=dataset, backend="aot_eager", recipe=recipe)
    steps = loop.steps(run, teacher, dataset)
    next(steps)
    first = gradients(run)
    assert [None for _ in steps]
    assert run.passes.graph.is_made
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert_close(first, gradients_of_a_step(*prepared(method, dataset=dataset, recipe=recipe), dataset), share=1e-4)
    torch._dynamo.reset()  # a graph of every method would fill the memory


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({entry.module for entry in catalog.networks().values()}))
def test_every_family_of_networks_is_one_graph(module):
    name = next(name for name, entry in catalog.networks().items() if entry.module == module)
    network, images = networks.create(name, 10), torch.randn(2, 3, *2 * [64 if "imagenet" in name else 32])
    graph = compiled._Graph(_call, CPU, name, backend="eager")
    torch.manual_seed(0)  # of stochastic depth
    expected = network(images).logits
    torch.manual_seed(0)
    torch.testing.assert_close(graph(network, images).logits, expected)


class TestInductor:
    """The compiler that makes code, for students and teachers."""

    @pytest.fixture(scope="class")
    @staticmethod
    def first(dataset):
        run, teacher = distilled(dataset)
        loop.train(run, teacher, dataset)
        return run

    def test_a_step_is_that_of_torch_alone_but_for_rounding(self, dataset):
        steps = [gradients_of_a_step(*distilled(dataset, is_compiled=way), dataset) for way in (True, False)]
        assert_close(*steps, share=1e-4)

    def test_the_same_bits_again_and_with_a_table(self, dataset, first, tmp_path, monkeypatch):
        """Whether the teacher computes all views, those that a table lacks, or none."""
        monkeypatch.setenv("KDCORE_TABLES", str(tmp_path))
        for size in ("0", "1", "1"):
            monkeypatch.setenv("KDCORE_TABLES_GB", size)
            run, teacher = distilled(dataset)
            loop.train(run, teacher, dataset)
            assert all(map(torch.equal, bits(first), bits(run)))
            assert run.history == first.history

    def test_a_table_of_a_compiled_teacher_is_its_own(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setenv("KDCORE_TABLES", str(tmp_path))
        for way in (True, False):
            run, teacher = distilled(dataset, is_compiled=way)
            loop.train(run, teacher, dataset)
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2

    def test_goes_on_with_the_same_bits_from_the_middle_of_an_epoch(self, dataset, tmp_path):
        """Dropout, which a graph draws, too; and no two steps draw alike."""
        state, runs = ResumeState(tmp_path / "kd.pt"), []
        for begins, leaves in ((False, False), (False, True), (True, False)):
            run, teacher = distilled(dataset, share=0.5)
            if begins:
                restore(run, state.load())
            for _ in loop.steps(run, teacher, dataset):
                if leaves and (run.epoch, run.sums.steps) == (2, 1):
                    state.save(capture(run))
                    break
            runs.append(run)
        assert all(map(torch.equal, bits(runs[0]), bits(runs[2])))
        assert runs[0].history == runs[2].history
        run, feed = runs[0], loop.feed_of(runs[0], dataset)
        batch = next(feed.batches(8, views=1, seed=0, epoch=1))
        teach = teacher_outputs.prepare(teacher, run.objective, feed, run.world, run.dtype, batch_size=8)
        lesson = run.objective.lesson(teach(batch), batch.target, BatchContext(batch.index, 1, run.generator))
        assert not torch.equal(*(run.passes(run.student, run.objective, batch.views, lesson)[0] for _ in range(2)))

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["kd", "crd", catalog.VANILLA])  # a graph of others takes a minute
    def test_networks_of_the_zoo(self, dataset, method):
        options = {"settings": changed(SETTINGS, epochs=1), "backend": "inductor"}
        runs = [trained(method, dataset, **options) for _ in range(2)]
        assert all(map(torch.equal, *map(bits, runs)))
        steps = [
            gradients_of_a_step(*prepared(method, dataset=dataset, backend=backend), dataset)
            for backend in ("inductor", None)
        ]
        assert_close(*steps, share=0.05)


class TestTeacher:
    @pytest.fixture(scope="class")
    @staticmethod
    def taught():
        """Two teachers of one kind, compiled for batches of 4."""
        teachers = [small(seed).eval().requires_grad_(False) for seed in range(2)]
        with torch.no_grad():
            return [(teacher, CompiledTeacher(_call, teacher, 4, CPU)) for teacher in teachers]

    @pytest.mark.parametrize("count", [4, 1, 3, 5, 9])
    def test_any_number_of_images(self, taught, count):
        """Of both teachers, whose weights are constants of their graphs."""
        images = torch.randn(count, 3, 16, 16)
        for teacher, made in taught:
            with torch.no_grad():
                torch.testing.assert_close(made(images), teacher(images))

    def test_an_image_has_the_same_bits_beside_any_others(self, taught):
        images = torch.randn(4, 3, 16, 16)
        with torch.no_grad():
            whole, alone = (taught[0][1](part).logits for part in (images, images[:1]))
        assert torch.equal(whole[:1], alone)


def _call(network, images):
    return network(images)


class TestRefused:
    """What would be compiled again and again, or in pieces, stops a run, with advice."""

    def adapter(self, monkeypatch, factor):
        plain = fitnet.Adapter.forward
        monkeypatch.setattr(fitnet.Adapter, "forward", lambda self, step: plain(self, step) * factor(step))

    def test_a_loss_that_reads_the_epoch(self, dataset, monkeypatch):
        self.adapter(monkeypatch, lambda step: float(step.epoch))
        with pytest.raises(RunError, match=r"fitnet: train.compile: auto: cannot be compiled once for all steps"):
            trained("fitnet", dataset, backend="aot_eager")

    def test_a_loss_that_reads_a_value_back(self, dataset, monkeypatch):
        self.adapter(monkeypatch, lambda step: 1.0 if step.student.logits.sum() > 0 else 2.0)
        with pytest.raises(RunError, match=r"cannot be compiled \(.*set compile: off"):
            trained("fitnet", dataset, backend="aot_eager")


class TestChosen:
    LONG: ClassVar = {"epochs": 4000, "compile": "auto"}
    """12,000 steps."""

    @pytest.mark.parametrize(("changes", "expected"), [
        ({"compile": None}, None),
        ({"compile": "off"}, None),
        ({"compile": "auto"}, "no: 9 steps are fewer than 10000"),
        ({"compile": "auto", "epochs": 3333}, "no: 9999 steps are fewer than 10000"),
        ({**LONG, "optimizer": "dot", "dot_delta": 0.05}, "no: optimizer dot takes the gradients of two losses"),
        (LONG, "yes"),
    ])  # fmt: skip
    def test_by_settings_and_steps(self, dataset, changes, expected):
        assert chosen(changed(SETTINGS, **changes), dataset, CPU, 1) == expected

    def test_not_in_several_processes_and_not_on_other_devices(self, dataset):
        settings = changed(SETTINGS, **self.LONG)
        assert chosen(settings, dataset, CPU, 2) == "no: several processes train it"
        assert chosen(settings, dataset, torch.device("meta")) == "no: not on meta"
        assert chosen(settings, dataset, CPU, is_foreign=True) == "no: a network is not of the zoo"

    def test_without_a_compiler(self, tmp_path):
        code = (
            "import torch; from kdcore.data.sources import digits; from kdcore.training.compiler import chosen\n"
            "from tests.train import training_settings; CPU = torch.device('cpu')\n"
            "dataset = digits.fetch(source='embedded', image_size=16, train_per_class=2)\n"
            "print(chosen(training_settings(4000, 8, 0.02, compile='auto'), dataset, CPU, 1))"
        )
        environment = {**os.environ, "CXX": "no-such-compiler", compiler.CACHE_VARIABLE: str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == compiler.UNABLE
        assert "train.compile: auto: nothing can be compiled here (" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_cell_without_the_key_imports_no_compiler(self, python):
        assert python("import sys; import kdcore.training.experiment; print('torch._inductor' in sys.modules)") == (
            "False\n"
        )


class TestCards:
    def test_named_only_where_it_takes_effect(self):
        assert "compile" not in settings_card(SETTINGS, "kd")
        assert "compile" not in settings_card(changed(SETTINGS, compile="off"), "kd")
        assert "compile" not in settings_card(changed(SETTINGS, compile=False), "kd")  # as YAML 1.1 reads off
        assert settings_card(changed(SETTINGS, compile="auto"), "kd")["compile"] == "auto"
        dot = changed(SETTINGS, compile="auto", optimizer="dot", dot_delta=0.05)
        assert "compile" not in settings_card(dot, "kd")

    def test_cells_that_are_compiled_go_beside_each_other_alone(self):
        kinds = {
            side_by_side.kind({"data": "digits", "pair": PAIR, **card(PAIR, "at", settings_card(settings, "at"))})
            for settings in (SETTINGS, changed(SETTINGS, compile="auto"))
        }
        assert len(kinds) == 2


class TestExperiment:
    """From a card to its results; compiled without code being made."""

    @pytest.fixture(autouse=True)
    def project(self, tmp_path, monkeypatch, dataset):
        monkeypatch.chdir(tmp_path)
        with whole(tmp_path / "data/digits") as folder:
            storage.save(dataset, folder)
        monkeypatch.setattr(loop, "CompiledPasses", partial(CompiledPasses, backend="eager"))
        return tmp_path

    def run(self, **options):
        made = card(PAIR, catalog.VANILLA, as_card(changed(SETTINGS, compile="auto"))) | {"data": "digits"}
        yamlfile.write(Path("cell.yaml"), made)
        experiment.run(Path("cell.yaml"), Path("out"), **options)
        run_folder.check(Path("out"), made)
        return run_folder.read_meta(Path("out"))["compiled"]

    def test_meta_json_says_whether_it_was_compiled(self, monkeypatch):
        assert self.run() == "no: 9 steps are fewer than 10000"
        monkeypatch.setattr(compiler, "FEWEST_STEPS", 9)
        assert self.run() == "yes"

    def test_goes_on_compiled_or_not_at_all(self, monkeypatch, capsys):
        monkeypatch.setattr(compiler, "FEWEST_STEPS", 9)

        def leave(history):
            if len(history) == 2:
                raise Interrupted(signal.SIGTERM, "enough")

        with pytest.raises(Interrupted):
            self.run(watch=leave)
        able = compiler._why_not
        monkeypatch.setattr(compiler, "_why_not", lambda _device: "no such compiler")
        with pytest.raises(UserError, match=r"were compiled before it was interrupted .* remove the file"):
            self.run()
        monkeypatch.setattr(compiler, "_why_not", able)
        capsys.readouterr()
        assert self.run() == "yes"
        assert "resumes at epoch 3 of 3" in capsys.readouterr().err
        monkeypatch.setattr(compiler, "_why_not", lambda _device: "no such compiler")
        assert self.run() == compiler.UNABLE
        assert "nothing can be compiled here (no such compiler)" in capsys.readouterr().err


def test_states_of_compiled_runs_are_their_own(tmp_path):
    file = tmp_path / "cell.yaml"
    file.write_text("")
    assert ResumeState.of(file, device=CPU).path != ResumeState.of(file, device=CPU, compiled=True).path
