"""Single commands beside the pipeline: one checkpoint measured, one cell trained."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
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
from kdcore.training import checked_teacher, run_folder, single
from tests.pictures import write_tree
from tests.pipeline.test_stages import call
from tests.project import PARAMS, ROOT, copy_lists
from tests.reference import DATA, needs_data

PUBLISHED = {"resnet20": 66.09, "wrn_40_1": 70.00, "mobilenetv2": 60.62}
"""Top-1 of a shared checkpoint of every family, as stated beside them."""


@pytest.fixture
def project(tmp_path):
    """The digits, and what single commands read of a project."""
    with whole(tmp_path / "data/digits") as folder:
        storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=2), folder)
    content = yamlfile.read(PARAMS)
    content["data"]["train_per_class"] = 2
    yamlfile.write(tmp_path / "params.yaml", content)
    copy_lists(tmp_path)
    return tmp_path


@pytest.fixture
def any_teacher(project):
    """Have a resnet14 taken that has learnt nothing."""
    content = yamlfile.read(project / "params.yaml")
    content["teachers"] |= {"resnet14": {"source": "published", "published_top1": 0}}
    yamlfile.write(project / "params.yaml", content)


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

    @pytest.mark.parametrize(("given", "problem"), [
        ("125.3 123 113.9 63 62.1 66.7", "mean: [125.3, 123.0, 113.9]: must be three numbers from 0 to 1"),
        ("0.5 0.5 0.5 0 0 0", "std: [0.0, 0.0, 0.0]: must be three numbers above 0 and up to 1"),
        ("nan 0 0 1 1 1", "mean: [nan, 0.0, 0.0]: must be"),
    ])  # fmt: skip
    def test_a_normalisation_that_is_none(self, project, given, problem):
        checkpoints.save(networks.create("resnet8", 10), project / "a.safetensors")
        options = ["--network", "resnet8", "--checkpoint", "a.safetensors", "--dataset", "digits"]
        code, said = call(project, "stages.evaluate_checkpoint", *options, "--mean-std", *given.split())
        assert (code, said.startswith(f"error: --mean-std: {problem}")) == (2, True), said

    def test_one_of_several_state_dicts(self, project):
        networks_of = {"model": networks.create("resnet8", 10), "ema": networks.create("resnet8", 10)}
        torch.save({key: network.state_dict() for key, network in networks_of.items()}, project / "a.pth")
        options = ["--network", "resnet8", "--checkpoint", "a.pth", "--dataset", "digits"]
        code, said = call(project, "stages.evaluate_checkpoint", *options)
        assert (code, "'model' and 'ema'; choose one with weights_key" in said) == (2, True), said
        code, said = call(project, "stages.evaluate_checkpoint", *options, "--weights-key", "ema")
        assert (code, "resnet8 on digits" in said) == (0, True), said

    def test_weights_that_were_trained_on_another_normalisation(self, tmp_path, capsys):
        """A teacher's file renormalises images of the data set that it was adopted for; those here may be others."""
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        other, cpu, own = (
            replace(dataset, mean=(0.9,) * 3, std=(0.1,) * 3),
            torch.device("cpu"),
            ((0.5,) * 3, (0.2,) * 3),
        )
        torch.manual_seed(0)
        network = networks.create("resnet8", 10)
        checkpoints.save(network, tmp_path / "raw.safetensors")
        raw = evaluation.evaluate_checkpoint("resnet8", tmp_path / "raw.safetensors", dataset, cpu)[0]
        input_affine.attach(network, mean=dataset.mean, std=dataset.std, own_mean=own[0], own_std=own[1])
        meta = {"adopted": {"source": "a.pth"}, "mean": own[0], "std": own[1], **run_folder.seen(dataset)}
        run_folder.write(tmp_path / "adopted", network, [], meta)
        adopted = tmp_path / "adopted" / run_folder.WEIGHTS
        wanted = evaluation.evaluate_checkpoint("resnet8", adopted, dataset, cpu)[0]
        assert wanted["nll"] != pytest.approx(raw["nll"], abs=1e-3)
        assert evaluation.evaluate_checkpoint("resnet8", adopted, other, cpu)[0]["nll"] == pytest.approx(
            wanted["nll"], abs=2e-4
        )
        assert "sees images normalised by mean [0.5, 0.5, 0.5] and std [0.2, " in capsys.readouterr().err
        copied = tmp_path / "copied.safetensors"
        copied.write_bytes(adopted.read_bytes())
        for images in (dataset, other):
            with pytest.raises(UserError, match=r"copied\.safetensors: was adopted before.*--mean-std"):
                evaluation.evaluate_checkpoint("resnet8", copied, images, cpu)
            said = evaluation.evaluate_checkpoint("resnet8", copied, images, cpu, [*own[0], *own[1]])[0]
            assert said["nll"] == pytest.approx(wanted["nll"], abs=2e-4)

    def test_a_run_of_a_data_set_with_another_normalisation(self, tmp_path):
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        run_folder.write(tmp_path / "a", networks.create("resnet8", 10), [], run_folder.seen(dataset))
        weights, cpu = tmp_path / "a" / run_folder.WEIGHTS, torch.device("cpu")
        nll = [
            evaluation.evaluate_checkpoint("resnet8", weights, images, cpu)[0]["nll"]
            for images in (dataset, replace(dataset, mean=(0.9,) * 3, std=(0.1,) * 3))
        ]
        assert nll[0] == pytest.approx(nll[1], abs=2e-4)

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
    @pytest.mark.usefixtures("any_teacher")
    def test_command(self, project):
        checkpoints.save(networks.create("resnet14", 10), project / "teacher.safetensors")
        options = ["--pair", "resnet14-resnet8", "--method", "dkd", "--scale", "4", "--stand", "--epochs", "9"]
        code, said = call(project, "stages.train_one", *options, "--teacher", "teacher.safetensors")
        assert code == 0, said
        folder = project / "scratch/cells/resnet14-resnet8-dkd-4-True-base-0"
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
        content["teachers"] |= {
            "mine": {"network": "resnet14", "source": "raw.safetensors", "mean": half, "std": half, "published_top1": 0}
        }
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

    @pytest.fixture
    def check(self, project, monkeypatch):
        """Check a teacher's file as the command does; returns the file that the run would read."""
        monkeypatch.chdir(project)
        made = {"name": "a", "data": "digits", "pair": "resnet14-resnet8", "teacher": "resnet14", "train": {}}

        def check(path, **options):
            return single.check_inputs(made, path, "params.yaml", **options)

        return check

    def test_a_teacher_at_chance_level(self, project, check):
        torch.manual_seed(0)
        checkpoints.save(networks.create("resnet14", 10), project / "a.safetensors")
        with pytest.raises(UserError, match=r"teacher resnet14: a\.safetensors reaches .* no better than chance"):
            check(Path("a.safetensors"))

    def test_a_teacher_below_the_published_accuracy(self, project, check):
        content = yamlfile.read(project / "params.yaml")
        content["teachers"] |= {"resnet14": {"source": "published", "published_top1": 90}}
        yamlfile.write(project / "params.yaml", content)
        checkpoints.save(networks.create("resnet14", 10), project / "a.safetensors")
        with pytest.raises(UserError, match=r"points below the published 90\.00%"):
            check(Path("a.safetensors"))

    @pytest.mark.usefixtures("any_teacher")
    def test_a_state_dict_that_is_named(self, project, check):
        states = {key: networks.create("resnet14", 10).state_dict() for key in ("model", "ema")}
        torch.save(states, project / "a.pth")
        with pytest.raises(UserError, match="choose one with weights_key"):
            check(Path("a.pth"))
        network = networks.create("resnet14", 10)
        checkpoints.load(check(Path("a.pth"), weights_key="ema"), network)
        assert all(torch.equal(value, states["ema"][key]) for key, value in network.state_dict().items())

    def test_a_teacher_that_was_trained_here(self, project, check):
        """Its folder records its accuracy, and how its images were normalised."""
        found = storage.load(project / "data/digits")
        network = networks.create("resnet14", 10)
        meta = {"student": "resnet14", "data": "digits", **run_folder.seen(found)}
        top1 = checked_teacher.measure(network.eval(), found)
        weights = project / "teachers/resnet14" / run_folder.WEIGHTS

        def trained(top1, **changes):
            run_folder.write(
                weights.parent, network, [{"epoch": 1, "train_top1": 50.0, "test_top1": top1}], {**meta, **changes}
            )

        trained(top1)
        assert check(weights) == weights
        trained(top1 + 3)
        with pytest.raises(UserError, match=r"and its folder records .*run 'dvc repro teacher@resnet14'"):
            check(weights)
        trained(top1, images={"mean": [0.5] * 3, "std": [0.25] * 3})
        with pytest.raises(UserError, match=r"was trained on images normalised by mean \[0\.5, .* of data.digits"):
            check(weights)

    @pytest.fixture
    def planned(self, project):
        """Change a resnet14 in params.yaml; returns its card."""

        def planned(**teacher):
            content = yamlfile.read(project / "params.yaml")
            yamlfile.write(
                project / "params.yaml", {**content, "teachers": {**content["teachers"], "resnet14": teacher}}
            )
            known = {file: yamlfile.read(ROOT / f"data/{file}.yaml") for file in ("recipes", "teachers")}
            cards = make_cards(
                params.load("params.yaml"), published_recipes=known["recipes"], known_teachers=known["teachers"]
            )
            return cards["teacher/resnet14"]

        return planned

    def test_a_teacher_of_the_pipeline_that_params_yaml_has_changed(self, project, check, planned):
        """Without 'dvc repro' since, the folder holds the teacher as it was."""
        found, network = storage.load(project / "data/digits"), networks.create("resnet14", 10).eval()
        settings = {"epochs": 3, "batch_size": 8, "lr": 0.05, "schedule": "cosine"}
        weights = Path("teachers/resnet14") / run_folder.WEIGHTS
        history = [{"epoch": 1, "train_top1": 50.0, "test_top1": checked_teacher.measure(network, found)}]
        trained = planned(source="train", train=settings)
        meta = {**trained, **run_folder.seen(found), "threads": 3, "code": {"trainer": "earlier"}}
        run_folder.write(weights.parent, network, history, meta)
        assert check(weights) == weights
        planned(source="train", train={**settings, "lr": 0.5})
        message = (
            r"teachers/resnet14: is not as teachers\.resnet14 of params\.yaml has it \(train\.lr was 0\.05, is 0\.5"
        )
        for path in (weights, project / weights):
            with pytest.raises(UserError, match=message + r"\); run 'dvc repro teacher@resnet14'"):
                check(path)
        checkpoints.save(network, project / "a.safetensors")
        adopted = planned(source="a.safetensors", published_top1=0, weights_key="model")
        with pytest.raises(UserError, match=r"source was 'train', is 'a\.safetensors'"):
            check(weights)
        run_folder.write(weights.parent, network, history, {**adopted, **run_folder.seen(found)})
        assert check(weights) == weights
        planned(source="a.safetensors", published_top1=0)
        with pytest.raises(UserError, match="weights_key was 'model', is gone"):
            check(weights)

    def test_a_teacher_of_another_clone(self, project, check, planned):
        """Its folder says that it is what it was there; which accuracy is asked for here is said here."""
        found, network = storage.load(project / "data/digits"), networks.create("resnet14", 10).eval()
        top1 = checked_teacher.measure(network, found)
        meta = {"student": "resnet14", "data": "digits", "source": "train", **run_folder.seen(found)}
        weights = project / "other/teachers/resnet14" / run_folder.WEIGHTS
        run_folder.write(weights.parent, network, [{"epoch": 1, "train_top1": 50.0, "test_top1": top1}], meta)
        checkpoints.save(network, project / "a.safetensors")
        assert check(weights) == weights
        planned(source="a.safetensors")
        assert check(weights) == weights
        planned(source="a.safetensors", published_top1=90)
        with pytest.raises(UserError, match=r"points below the published 90\.00%"):
            check(weights)

    def test_student_alone(self, project):
        code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
        assert code == 0, said
        assert (project / "scratch/cells/resnet14-resnet8-vanilla-base-0/weights.safetensors").is_file()

    def test_data_must_be_there(self, project):
        (project / "data/digits/manifest.json").unlink()
        code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
        assert (code, "run 'dvc repro data'" in said) == (2, True)

    def test_classes_must_be_large_enough(self, project):
        content = yamlfile.read(project / "params.yaml")
        yamlfile.write(project / "params.yaml", {**content, "train": {**content["train"], "per_class": 3}})
        code, said = call(project, "stages.train_one", "--pair", "resnet20-resnet8", "--method", "vanilla")
        assert (code, "error: train.per_class: 3: class '0' has 2 training images" in said) == (2, True), said
        assert not (project / "scratch").exists()

    def test_data_must_be_as_the_params_file_has_them(self, project):
        content = yamlfile.read(project / "params.yaml")
        for change in ({"image_size": 32}, {"train_per_class": 3}):
            yamlfile.write(project / "params.yaml", {**content, "data": {**content["data"], **change}})
            code, said = call(project, "stages.train_one", "--pair", "resnet14-resnet8", "--method", "vanilla")
            assert (code, "is not as section data of the params file has it" in said) == (2, True)

    def test_data_of_an_earlier_plan(self, project, monkeypatch):
        """Stage plan has written the new card; the data set is what dvc.lock says that it was made from."""
        monkeypatch.chdir(project)
        card, made = project / "cards/data.yaml", {"pair": "resnet14-resnet8", "method": "vanilla", "seed": 0}
        of = {**made, "scale": None, "stand": False, "epochs": None}
        yamlfile.write(card, {**params.load("params.yaml").data.model_dump(), "code": {"data": "0"}})
        files = {"deps": card, "outs": project / "data/digits"}
        entries = {kind: [{"path": str(path.relative_to(project)), "hash": "md5"}] for kind, path in files.items()}
        entries["deps"][0]["md5"] = hashlib.md5(card.read_bytes()).hexdigest()
        yamlfile.write(project / "dvc.lock", {"schema": "2.0", "stages": {"plan": {}, "data": entries, "tables": {}}})
        assert single.card("params.yaml", **of)["data"] == "digits"
        yamlfile.write(card, {**yamlfile.read(card), "code": {"data": "1"}})
        with pytest.raises(
            UserError, match=r"was made before cards/data\.yaml became what it is; run 'dvc repro data'"
        ):
            single.card("params.yaml", **of)
        entries["outs"][0]["path"] = "data/pets"
        yamlfile.write(project / "dvc.lock", {"schema": "2.0", "stages": {"data": entries}})
        assert single.card("params.yaml", **of)["data"] == "digits"

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
        assert dkd == cards["train/resnet20-resnet8-dkd-2-True-base-0"]
        at = single.card("params.yaml", method="at", scale=None, stand=False, **options)
        assert at == cards["baseline/resnet20-resnet8-at-base-0"]

    def test_a_cell_of_a_variant(self, project, monkeypatch):
        """Also of a cell that the matrix excludes; others' variants and exceptions do not matter."""
        monkeypatch.chdir(project)
        content = yamlfile.read("params.yaml")
        content["variants"] |= {"t2": {"kd": {"temperature": 2}}, "far": {"train": {"lr": 0.5}, "only": {"seeds": [7]}}}
        content["exclude"] = [{"variants": ["t2"]}]
        content["train"]["exceptions"] = [{"variants": ["t2"], "epochs": 30}]
        yamlfile.write(project / "params.yaml", content)
        cell = {"pair": "resnet20-resnet8", "method": "kd", "scale": "2", "stand": False, "seed": 0, "epochs": None}
        made = single.card("params.yaml", variant="t2", **cell)
        assert made["name"] == "resnet20-resnet8-kd-2-False-t2-0"
        assert (made["recipe"]["temperature"], made["train"]["epochs"]) == (2, 30)
        with pytest.raises(UserError, match=r"--variant 't3': params\.yaml has none of this name, but base, t2, far"):
            single.card("params.yaml", variant="t3", **cell)
        with pytest.raises(UserError, match="--variant t2: changes nothing of this cell"):
            single.card("params.yaml", variant="t2", **{**cell, "method": "dkd"})

    def test_pairs_must_be_known(self):
        with pytest.raises(UserError, match="unknown network 'resnet9'"):
            single.card("params.yaml", pair="resnet9-resnet8", method="kd", scale=1, stand=False, seed=0, epochs=None)
