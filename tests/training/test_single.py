"""Single commands beside the pipeline: one checkpoint measured, one cell trained."""

import json
from threading import Thread

import pandas as pd
import pytest
import torch

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.dataset import Dataset
from kdcore.data.sources import digits
from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.networks import input_affine
from kdcore.results import evaluation
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import single
from tests.conftest import ROOT
from tests.pictures import write_tree
from tests.pipeline.test_stages import call
from tests.reference import DATA, needs_data

PUBLISHED = {"resnet20": 66.09, "wrn_40_1": 70.00, "mobilenetv2": 60.62}
"""Top-1 of a shared checkpoint of every family, as stated beside them."""


@pytest.fixture
def project(tmp_path):
    """The digits, and what single commands read of a project."""
    with whole(tmp_path / "data/digits") as folder:
        storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=2), folder)
    content = yamlfile.read(ROOT / "params.yaml")
    content["data"]["train_per_class"] = 2
    yamlfile.write(tmp_path / "params.yaml", content)
    (tmp_path / "data/recipes.yaml").write_text((ROOT / "data/recipes.yaml").read_text())
    return tmp_path


class TestEvaluateCheckpoint:
    def test_figures(self, tmp_path):
        """Per class, the accuracies' mean weighted with the classes' sizes is the accuracy."""
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        checkpoints.save(networks.create("resnet8", 10), tmp_path / "weights.safetensors")
        metrics, of_classes = evaluation.evaluate_checkpoint(
            "resnet8", tmp_path / "weights.safetensors", dataset, torch.device("cpu")
        )
        sizes = pd.Series(dataset.test.labels).value_counts().sort_index().to_numpy()
        assert (of_classes.to_numpy() * sizes).sum() / sizes.sum() == pytest.approx(metrics["top1"], abs=1e-3)
        assert list(of_classes.index) == dataset.classes
        assert metrics["test_images"] == sizes.sum()
        assert metrics["parameters"] == sum(p.numel() for p in networks.create("resnet8", 10).parameters())
        assert "agreement" not in metrics

    @pytest.mark.slow
    def test_command(self, project):
        checkpoints.save(networks.create("resnet8", 10), project / "weights.safetensors")
        options = ["--network", "resnet8", "--checkpoint", "weights.safetensors", "--dataset", "digits"]
        code, said = call(project, "stages.evaluate_checkpoint", *options, "--json", "figures.json")
        assert code == 0, said
        figures = json.loads((project / "figures.json").read_text())
        assert f"{figures['top1']:.2f} %" in said
        assert list(figures["top1_of_classes"]) == [str(digit) for digit in range(10)]

    def test_one_of_several_state_dicts(self, project):
        networks_of = {"model": networks.create("resnet8", 10), "ema": networks.create("resnet8", 10)}
        torch.save({key: network.state_dict() for key, network in networks_of.items()}, project / "a.pth")
        options = ["--network", "resnet8", "--checkpoint", "a.pth", "--dataset", "digits"]
        code, said = call(project, "stages.evaluate_checkpoint", *options)
        assert (code, "'model' and 'ema'; choose one with weights_key" in said) == (2, True), said
        code, said = call(project, "stages.evaluate_checkpoint", *options, "--weights-key", "ema")
        assert (code, "resnet8 on digits" in said) == (0, True), said

    @pytest.mark.slow
    def test_command_on_a_folder_of_images(self, project):
        """Decoded once, kept for the next time."""
        write_tree(project / "pets" / "train", ["cat", "dog"], 2)
        write_tree(project / "pets" / "test", ["cat", "dog"], 2, start=10)
        checkpoints.save(networks.create("resnet8", 2), project / "weights.safetensors")
        options = ["--network", "resnet8", "--checkpoint", "weights.safetensors", "--dataset", "pets",
                   "--source", "folder:pets", "--image-size", "16"]  # fmt: skip
        for _ in range(2):
            code, said = call(project, "stages.evaluate_checkpoint", *options)
            assert code == 0, said
        assert [path.name for path in (project / "scratch/data").glob("[!.]*")] == ["pets"]

    def test_changed_sources_are_read_again(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_tree(tmp_path / "pets" / "train", ["cat", "dog"], 2)
        write_tree(tmp_path / "pets" / "test", ["cat", "dog"], 2, start=10)
        options = {"source": "folder:pets", "image_size": 16}
        first = single.dataset("pets", None, **options)
        stored = (tmp_path / "scratch/data/pets/manifest.json").stat().st_mtime_ns
        single.dataset("pets", None, **options)
        assert (tmp_path / "scratch/data/pets/manifest.json").stat().st_mtime_ns == stored
        write_tree(tmp_path / "pets" / "test", ["cat", "dog"], 3, start=10)
        assert len(single.dataset("pets", None, **options).test.labels) == len(first.test.labels) + 2

    def test_another_source_of_the_same_name_at_the_same_time(self, tmp_path, monkeypatch):
        """The other process must not replace what was stored before it is opened."""
        monkeypatch.chdir(tmp_path)
        for start, (folder, classes) in enumerate((("pets", ["cat", "dog"]), ("birds", ["owl", "tit"]))):
            for split in range(2):
                write_tree(tmp_path / folder / ("train", "test")[split], classes, 2, start=20 * start + 10 * split)
        others, load = [], storage.load

        def load_late(folder):
            if not others:
                options = {"source": "folder:birds", "image_size": 16}
                others.append(Thread(target=single.dataset, args=("mine", None), kwargs=options))
                others[0].start()
                others[0].join(timeout=1)
            return load(folder)

        monkeypatch.setattr(storage, "load", load_late)
        assert single.dataset("mine", None, source="folder:pets", image_size=16).classes == ["cat", "dog"]
        others[0].join()

    @pytest.mark.slow
    def test_data_set_of_a_params_file(self, project):
        checkpoints.save(networks.create("resnet8", 10), project / "weights.safetensors")
        options = ["--network", "resnet8", "--checkpoint", "weights.safetensors", "--params", "params.yaml"]
        code, said = call(project, "stages.evaluate_checkpoint", *options)
        assert (code, "resnet8 on digits" in said) == (0, True), said

    @pytest.mark.slow
    @needs_data
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_checkpoints_score_as_stated(self, name, cifar100):
        metrics, _ = evaluation.evaluate_checkpoint(
            name, DATA / "checkpoints" / f"{name}.pth", cifar100, torch.device("cpu")
        )
        assert round(metrics["top1"], 2) == PUBLISHED[name]


@pytest.fixture(scope="module")
def cifar100():
    """Its test images; training images would take as long again."""
    from kdcore.data.sources import cifar100, parquet

    rows = parquet.read(DATA / "cifar100", ("test",))
    split = rows.decode(pd.Series(rows.labels).to_numpy(copy=True), 32, resize=False)
    names = [str(label) for label in range(100)]
    return Dataset("cifar100", names, split, split, cifar100.MEAN, cifar100.STD, image_size=32, flip=True)


class TestTrainOne:
    def test_command(self, project):
        checkpoints.save(networks.create("resnet14", 10), project / "teacher.safetensors")
        options = ["--pair", "resnet14-resnet8", "--method", "dkd", "--scale", "4", "--stand", "--epochs", "9"]
        code, said = call(project, "stages.train_one", *options, "--teacher", "teacher.safetensors")
        assert code == 0, said
        folder = project / "scratch/cells/resnet14-resnet8-dkd-4-True-0"
        meta = json.loads((folder / "meta.json").read_text())
        assert (meta["levels"], meta["stand"], meta["train"]["epochs"]) == ([1, 2, 4], True, 9)
        assert meta["train"]["milestones"] == [6, 7, 8]
        assert (folder / "history.csv").read_text().count("\n") == 10
        assert not (project / "runs").exists()

    def test_a_teacher_of_another_normalisation(self, project):
        """Its own file knows nothing of it; the pipeline's does."""
        network, content = networks.create("resnet14", 10), yamlfile.read(project / "params.yaml")
        checkpoints.save(network, project / "raw.safetensors")
        half = [0.5, 0.5, 0.5]
        found = storage.load(project / "data/digits")
        for name, mean in (("adopted", found.mean), ("of_other_data", [0.3, 0.3, 0.3])):
            input_affine.attach(network, mean=mean, std=found.std, own_mean=half, own_std=half)
            checkpoints.save(network, project / f"{name}.safetensors")
        content["teachers"] |= {"mine": {"network": "resnet14", "source": "raw.safetensors", "mean": half, "std": half}}
        yamlfile.write(project / "params.yaml", content)
        options = ["--pair", "mine-resnet8", "--method", "kd", "--epochs", "9", "--teacher"]
        for name in ("raw", "of_other_data"):
            code, said = call(project, "stages.train_one", *options, f"{name}.safetensors")
            assert code == 2
            assert f"{name}.safetensors: would see images of another normalisation than teachers.mine" in said
        assert not (project / "scratch/cells").exists()
        code, said = call(project, "stages.train_one", *options, "adopted.safetensors")
        assert code == 0, said
        content["teachers"]["mine"] |= {"mean": [0.4, 0.4, 0.4]}  # and the pipeline has not run since
        yamlfile.write(project / "params.yaml", content)
        assert call(project, "stages.train_one", *options, "adopted.safetensors")[0] == 2
        content["teachers"]["mine"] |= {"mean": None, "std": None}
        yamlfile.write(project / "params.yaml", content)
        assert call(project, "stages.train_one", *options, "adopted.safetensors")[0] == 2
        code, said = call(project, "stages.train_one", *options, "raw.safetensors")
        assert code == 0, said

    def test_student_alone(self, project):
        code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
        assert code == 0, said
        assert (project / "scratch/cells/resnet14-resnet8-vanilla-0/weights.safetensors").is_file()

    def test_data_must_be_there(self, project):
        (project / "data/digits/manifest.json").unlink()
        code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
        assert (code, "run 'dvc repro data'" in said) == (2, True)

    def test_data_must_be_as_the_params_file_has_them(self, project):
        content = yamlfile.read(project / "params.yaml")
        for change in ({"image_size": 32}, {"train_per_class": 3}):
            yamlfile.write(project / "params.yaml", {**content, "data": {**content["data"], **change}})
            code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
            assert (code, "is not as section data of the params file has it" in said) == (2, True)

    @pytest.mark.parametrize(("change", "is_other"), [
        ({}, False), ({"source": "folder:cats"}, True), ({"flip": False}, True), ({"test_share": 0.3}, True),
        ({"augmentation": "resize_crop"}, True), ({"name": "others"}, False),
    ])  # fmt: skip
    def test_data_of_the_same_name_from_elsewhere(self, tmp_path, monkeypatch, change, is_other):
        """What is stored under the name is of the pipeline's card, whatever another params file says."""
        monkeypatch.chdir(tmp_path)
        section = {"name": "pets", "source": "folder:pets", "image_size": 16}
        yamlfile.write(tmp_path / "cards/data.yaml", {**params.data_section(**section), "code": {"data": "0"}})
        assert single._is_other(params.data_section(**{**section, **change})) == is_other

    def test_a_known_data_set_is_the_same_from_elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made = {"name": "cifar100", "source": "download"}
        yamlfile.write(tmp_path / "cards/data.yaml", {**params.data_section(**made), "code": {"data": "0"}})
        assert not single._is_other(params.data_section(name="cifar100", source="cifar.tar.gz"))
        assert single._is_other(params.data_section(name="cifar100", source="download", mean=[0.5] * 3, std=[0.5] * 3))

    def test_the_card_is_the_pipelines(self, project, monkeypatch):
        """A cell of the matrix, trained on its own, has the card that stage plan writes."""
        monkeypatch.chdir(project)
        (project / "data/teachers.yaml").write_text((ROOT / "data/teachers.yaml").read_text())
        cards = make_cards(
            params.load("params.yaml"),
            published_recipes=yamlfile.read("data/recipes.yaml"),
            known_teachers=yamlfile.read("data/teachers.yaml"),
        )
        options = {"pair": "resnet20-resnet8", "seed": 0, "epochs": None}
        dkd = single.card("params.yaml", method="dkd", scale=2, stand=True, **options)
        assert dkd == cards["train/resnet20-resnet8-dkd-2-True-0"]
        at = single.card("params.yaml", method="at", scale=None, stand=False, **options)
        assert at == cards["baseline/resnet20-resnet8-at-0"]

    def test_pairs_must_be_known(self):
        with pytest.raises(UserError, match="unknown network 'resnet9'"):
            single.card("params.yaml", pair="resnet9-resnet8", method="kd", scale=1, stand=False, seed=0, epochs=None)
