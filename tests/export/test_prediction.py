"""Image files are seen as test images are, and the page's code and the commands do what they say."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.dataset import Encoded
from kdcore.data.feed import unaugmented
from kdcore.data.sources import digits
from kdcore.data.sources.folders import index_images
from kdcore.export import about, exporting, forms, prediction, student
from kdcore.networks.input_affine import Normalisation
from kdcore.results import evaluation
from kdcore.system.errors import UserError
from kdcore.training.inference import predict
from tests.export.conftest import CPU, KD, PAIR, measured
from tests.pipeline.test_stages import call
from tests.project import ROOT


class TestPrediction:
    def test_test_images_as_files(self, here, exported, tmp_path):
        """Those that evaluation has seen give its predictions, whatever the form of the file."""
        dataset = storage.load(Path("data/digits"))
        cell = student.find(KD[0])
        wanted = predict(cell.network(dataset), dataset.test, dataset, CPU)[:3].double().softmax(dim=1)
        files = [tmp_path / f"{i}.png" for i in range(3)]
        for file, image in zip(files, dataset.test.images, strict=False):
            Image.fromarray(np.array(image)).save(file)
        for given in (KD[0], str(exported(KD[0], forms.ONNX)[0])):
            classify, said = exporting.opened(given)
            found = prediction.best(classify, said, prediction.read(files, said.preparation))
            for classes, chances in zip(found, wanted, strict=True):
                assert [int(name) for name, _ in classes] == chances.topk(5).indices.tolist()
                assert [chance for _, chance in classes] == pytest.approx(chances.topk(5).values.tolist(), abs=1e-6)

    def test_other_sizes_are_resized_as_the_data_sets_images_are(self, tmp_path):
        """Those of a folder that is decoded once, and those of one that is decoded as it is seen."""
        drawn = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        for split in ("train", "test"):
            (tmp_path / split / "a").mkdir(parents=True)
            Image.fromarray(drawn).save(tmp_path / split / "a/1.png")
        file = tmp_path / "test/a/1.png"
        encoded = index_images({"a": [file]}, tmp_path)
        dataset = replace(digits.fetch(source="embedded", image_size=16, train_per_class=1), test=encoded)
        how = about.preparation(dataset)
        assert (how.resize, how.side, how.crop) == ("shorter side", 18, 16)
        (seen,) = unaugmented(encoded, dataset, CPU)
        normalise = prediction.normaliser(about.About({"mean": dataset.mean, "std": dataset.std}))
        assert isinstance(encoded, Encoded)
        assert torch.equal(normalise(prediction.read([file], how)), seen)
        whole_image = prediction.read([file], about.Preparation(resize="both sides", side=16, crop=16))
        resized = Image.fromarray(drawn).resize((16, 16), Image.Resampling.BILINEAR)
        assert torch.equal(whole_image[0], torch.from_numpy(np.array(resized)).permute(2, 0, 1))

    @pytest.mark.parametrize(("how", "said"), [
        (("both sides", 16, 16), "resized to 16 x 16 pixels (bilinear)"),
        (("both sides", 256, 224), "resized to 256 x 256 pixels (bilinear); then the middle of 224 x 224 pixels"),
        (("shorter side", 8, 8), "its shorter side resized to 8 pixels (bilinear)"),
    ])  # fmt: skip
    def test_preparation_in_words(self, how, said):
        assert about.Preparation(resize=how[0], side=how[1], crop=how[2]).text == said

    @pytest.mark.parametrize(("content", "said"), [
        (b"no image", "cannot be read as an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (None, "cannot be read as an image"),
    ])  # fmt: skip
    def test_files_that_are_no_images(self, tmp_path, content, said):
        if content is not None:
            (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UserError, match=f"a.png: {said}"):
            prediction.read([tmp_path / "a.png"], about.Preparation(resize="both sides", side=16, crop=16))


@pytest.mark.parametrize(("image", "said"), [
    (np.full((16, 16), 900, np.uint16), "1 of 2 images have 16 bits, of which the higher 8 count; a network that was "
     "trained with data.scale_16bit has seen others"),
    (np.full((16, 16, 4), 90, np.uint8), "1 of 2 images are partly transparent, and their transparency is dropped; a "
     "network that was trained with data.background has seen others"),
    (np.full((16, 16, 3), 90, np.uint8), ""),
])  # fmt: skip
def test_images_that_a_data_set_may_read_otherwise_are_said(tmp_path, image, said, capsys):
    image[0, 0] = 200
    for name, pixels in (("a", image), ("b", np.zeros((16, 16, 3), np.uint8))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    prediction.read(files, about.Preparation(resize="both sides", side=16, crop=16))
    assert capsys.readouterr().err.partition(":")[0] == said


DOC = (ROOT / "docs/export.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", [forms.TORCH, forms.ONNX, forms.SAFETENSORS])
def test_the_pages_code_word_by_word(exported, tmp_path, monkeypatch, capsys, form):
    """Only tensors need kdcore; for the other two it cannot be imported."""
    code = dict(zip((forms.TORCH, forms.ONNX, forms.SAFETENSORS), BLOCKS, strict=True))[form]
    shutil.copy(exported(KD[0], form)[0], tmp_path)
    dataset = storage.load(Path("data/digits"))
    Image.fromarray(np.array(dataset.test.images[0])).save(tmp_path / "image.png")
    best = predict(student.find(KD[0]).network(dataset), dataset.test, dataset, CPU)[0].argmax()
    monkeypatch.chdir(tmp_path)
    if form != forms.SAFETENSORS:
        monkeypatch.setitem(sys.modules, "kdcore", None)
    capsys.readouterr()
    exec(compile(code, "docs/export.md", "exec"), {})
    assert capsys.readouterr().out.strip() == ("torch.Size([1, 10])" if form == forms.SAFETENSORS else str(int(best)))
    assert len(code.split("\n\n")[1].splitlines()) <= 10


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["torch", "onnx"])
def test_the_pages_pixels_are_those_of_predict(tmp_path, monkeypatch, block):
    """Of crops that leave an odd rest, and of greys of 16 bits with the page's line for them."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    lines = [line for line in block.splitlines() if line.startswith(("side, crop", "image = ", "part = ", "pixels = "))]
    assert len(lines) == 4
    deep = np.random.default_rng(0).integers(0, 1 << 16, (20, 30), dtype=np.uint16)
    higher = "Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))"
    assert f"`{higher}`" in DOC
    grey = lines[1].replace('Image.open("image.png")', higher.replace("image", 'Image.open("image.png")'))
    names = {"np": np, "Image": Image, "pil_to_tensor": pil_to_tensor}
    for pixels, opened in ((drawn, lines[1]), (deep, grey)):
        Image.fromarray(pixels).save("image.png")
        for side, crop in ((16, 16), (18, 15), (17, 14), (18, 12)):
            made = {**names, "about": {"preparation": {"side": side, "crop": crop}}}
            exec("\n".join([lines[0], opened, *lines[2:]]), made)
            expected = prediction.read(
                [Path("image.png")], about.Preparation(resize="both sides", side=side, crop=crop)
            )
            np.testing.assert_allclose(np.asarray(made["pixels"]), expected.numpy() / 255, atol=1e-6)


@pytest.mark.usefixtures("here")
def test_an_exported_file_says_of_which_images_and_network_it_is(exported, tmp_path, capsys):
    """Also where a params file has another normalisation than it was trained with."""
    file, _ = exported(KD[0], forms.SAFETENSORS)
    dataset = storage.load(Path("data/digits"))
    other = replace(dataset, mean=(0.0,) * 3, std=(1.0,) * 3)
    for images in (dataset, other):
        found, _ = evaluation.evaluate_checkpoint("resnet8", file, images, CPU)
        assert found["top1"] == measured(KD[0])["top1"]
    assert "sees images normalised by mean" in capsys.readouterr().err
    network = networks.create("resnet8", 10)
    images = Normalisation(other.mean, other.std)
    with pytest.raises(UserError, match="holds a normalisation of images, the record of an export, with mean"):
        checkpoints.load(file, network, images=images)
    shifted = replace(dataset, classes=[*dataset.classes[1:], dataset.classes[0]])
    with pytest.raises(UserError, match="lists the classes in another order than the data set, in classes: its output"):
        evaluation.evaluate_checkpoint("resnet8", file, shifted, CPU)
    described = {"small8": {"zoo": "resnet8", "image_size": 16}}
    evaluation.evaluate_checkpoint("small8", file, dataset, CPU, described=described)
    assert "was trained as resnet8, which may see images otherwise than small8" in capsys.readouterr().err


@pytest.mark.usefixtures("changed")
def test_an_average_in_the_folder_of_a_run_has_the_normalisation_of_the_run(capsys):
    folder = Path("runs") / PAIR / KD[0]
    shutil.copy(folder / "weights.safetensors", folder / "ema.safetensors")
    other = replace(storage.load(Path("data/digits")), mean=(0.0,) * 3, std=(1.0,) * 3)
    found, _ = evaluation.evaluate_checkpoint("resnet8", folder / "ema.safetensors", other, CPU)
    assert found["top1"] == measured(KD[0])["top1"]


@pytest.mark.slow
def test_commands(here, tmp_path):
    out = tmp_path / "a.safetensors"
    code, said = call(here, "stages.export", KD[0], "--to", "safetensors", "--out", str(out))
    assert code == 0, said
    assert f"top-1 {measured(KD[0])['top1']:.2f} %" in said
    dataset = storage.load(Path("data/digits"))
    Image.fromarray(np.array(dataset.test.images[0])).save(tmp_path / "image.png")
    code, said = call(here, "stages.predict", str(out), str(tmp_path / "image.png"))
    assert (code, said.count("%")) == (0, 5), said
    code, said = call(here, "stages.predict", KD[0], "params.yaml")
    wanted = "error: params.yaml: cannot be read as an image (cannot identify an image in it); name a PNG"
    assert (code, said[: len(wanted)]) == (2, wanted)
    code, said = call(here, "stages.export", "resnet", "--to", "torch")
    assert (code, said.startswith("error: 'resnet': is no cell of the matrix")) == (2, True), said


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_cell_of_the_pipeline(finished, tmp_path):
    """Its exported file has the accuracy of the tables."""
    cell = "resnet14-resnet8-dkd-2-False-base-0"
    out = tmp_path / "a.onnx"
    said = finished.run("python", "-m", "stages.export", cell, "--to", "onnx", "--out", str(out))
    table = (finished.folder / "tables/digits.md").read_text()
    [row] = re.findall(r"^\| DKD \+ SDD \[1,2\] +\| +([\d.]+)", table, re.MULTILINE)
    assert f"top-1 {float(row):.2f} %" in said
