"""Exported files of every form compute what the tables measured, say what they are, and are checked before they are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kdcore import networks
from kdcore.data import storage
from kdcore.export import about, exporting, forms, prediction, student, tracing
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training.inference import top1
from tests.export.conftest import KD, SIMKD, measured


class TestForms:
    @pytest.mark.parametrize(("cell", "form"), [*((KD[0], form) for form in forms.SUFFIXES), (SIMKD, forms.TORCH)])
    def test_a_file_reaches_the_tables_accuracy(self, here, exported, form, cell):
        """On all test images, by what the file says alone; a student that ends otherwise is exported with that end."""
        out, checked = exported(cell, form)
        dataset = storage.load(Path("data/digits"))
        classify, said = forms.read(out)
        images = torch.from_numpy(np.array(dataset.test.images)).permute(0, 3, 1, 2)
        logits = classify(prediction.normaliser(said)(images))
        accuracy = float(top1(logits, torch.from_numpy(dataset.test.labels)))
        assert round(accuracy, 4) == measured(cell)["top1"]
        assert 0 < accuracy < 100
        assert (checked.images, checked.of, checked.others) == (len(images), len(images), 0)
        assert round(checked.top1, 4) == measured(cell)["top1"]
        assert checked.difference < 1e-4
        assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.md"]

    @pytest.mark.parametrize("form", forms.SUFFIXES)
    def test_batches_of_any_size(self, exported, form):
        classify, _ = forms.read(exported(KD[0], form)[0])
        images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        for count in (1, 2, 7):
            assert torch.allclose(classify(images[:count]), classify(images)[:count], atol=1e-5)

    @pytest.mark.parametrize(("name", "size"), [("mobilenetv2", 32), ("t2t_vit_7", 64)])
    def test_networks_that_hide_parts_or_ask_for_lengths(self, name, size, tmp_path):
        """And they are as before afterwards."""
        torch.manual_seed(0)
        network = networks.create(name, 10).eval().requires_grad_(False)
        images = torch.randn(3, 3, size, size)
        wanted, kind = network(images).logits, type(network)
        program = tracing.traced(network, size)
        assert torch.allclose(program.module()(images), wanted, atol=1e-5)
        assert type(network) is kind
        assert "len" not in vars(sys.modules[kind.__module__])

    def test_tensors_have_the_names_of_the_package(self, tmp_path):
        """Of a network of timm, which loads them without kdcore."""
        timm = pytest.importorskip("timm")
        described = {
            "vit": {"timm": "vit_tiny_patch16_224", "arguments": {"img_size": 32, "patch_size": 8, "depth": 1}}
        }
        described["vit"] |= {"package": f"timm {timm.__version__}", "pooled": "head", "classifier": "head"}
        torch.manual_seed(0)
        network = networks.create("vit", 10, described=described).eval()
        said = {"format": 1, "cell": "c", "network": "vit", "stem": "small", "networks": described, "image_size": 32}
        said |= {"classes": [*"0123456789"], "mean": [0.5] * 3, "std": [0.5] * 3, "provenance": {}}
        said["preparation"] = {"resize": "both sides", "side": 32, "crop": 32}
        images = torch.randn(2, 3, 32, 32)
        for form in (forms.SAFETENSORS, forms.TORCH):
            file = tmp_path / f"vit{forms.SUFFIXES[form]}"
            forms.write(network, form, file, about.About(said))
            assert torch.allclose(forms.read(file)[0](images), network(images).logits, atol=1e-5)
        own = timm.create_model("vit_tiny_patch16_224", num_classes=10, **described["vit"]["arguments"]).eval()
        own.load_state_dict(load_file(tmp_path / "vit.safetensors"))
        assert torch.equal(own(images), network(images).logits)

    def test_a_file_says_what_it_is(self, here, exported):
        out, _ = exported(KD[1], forms.SAFETENSORS)
        with safe_open(out, framework="pt") as held:
            said = json.loads(held.metadata()[forms.KEY])
        assert (said["cell"], said["network"], said["image_size"]) == (KD[1], "resnet8", 16)
        assert said["classes"] == [str(digit) for digit in range(10)]
        dataset = storage.load(Path("data/digits"))
        assert (said["mean"], said["std"]) == (list(dataset.mean), list(dataset.std))
        made_by, card = said["provenance"], yamlfile.read(f"cards/train/{KD[1]}.yaml")
        for key in ("recipe", "train", "code", "seed", "pair", "method", "data"):
            assert made_by[key] == card[key], key
        assert made_by["commit"] == "0123456"
        assert made_by["teacher"]["network"] == "resnet14"
        assert made_by["weights_sha256"] == measured(KD[1])["weights_sha256"]

    def test_every_form_says_the_same(self, exported):
        said = [forms.read(exported(KD[0], form)[0])[1].content for form in forms.SUFFIXES]
        assert said[0] == said[1] == said[2]


class TestCheck:
    def test_a_file_that_computes_something_else_is_not_put_in_place(self, here, tmp_path, monkeypatch):
        right = forms.write

        def wrong(network, *others):
            network.classifier.bias.data[3] += 0.5
            right(network, *others)
            network.classifier.bias.data[3] -= 0.5

        monkeypatch.setattr(forms, "write", wrong)
        with pytest.raises(UserError, match=r"computes something else than the network: a logit differs by 5\.0e-01"):
            exporting.export(student.find(KD[0]), forms.SAFETENSORS, tmp_path / "a.safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_a_tie_may_fall_otherwise(self):
        logits = torch.tensor([[1.0, 1.0 + 1e-6, 0.0], [3.0, 1.0, 2.0]])
        assert exporting._margins(logits).tolist() == pytest.approx([1e-6, 1.0], abs=1e-7)

    def test_an_interrupted_export_leaves_what_was_there(self, here, tmp_path, monkeypatch):
        out = tmp_path / "a.safetensors"
        exporting.export(student.find(KD[0]), forms.SAFETENSORS, out)
        before = out.read_bytes()
        monkeypatch.setattr(exporting.model_card, "text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exporting.export(student.find(KD[1]), forms.SAFETENSORS, out)
        assert out.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2


def test_reading_a_file_needs_the_library_alone(python):
    """And nothing of the pipeline, which may not be installed."""
    needless = {"dask", "dvc", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "torchvision"}
    loaded = python("import sys; from kdcore.export import forms; print(*sys.modules)").split()
    assert "torch" in loaded
    assert needless & set(loaded) == set()
