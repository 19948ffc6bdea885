"""What cannot be exported or read is refused, and the message says what to do."""

import json
import re
import shutil
from pathlib import Path

import pytest

from kdcore.export import about, exporting, forms, student
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import write_json
from tests.export.conftest import ALONE, KD, PAIR


class TestRefused:
    def test_an_unknown_cell(self, here):
        with pytest.raises(UserError, match=rf"'{PAIR}-kd-1-False-base-7': is no cell of the matrix\. Did you mean "):
            student.find(f"{PAIR}-kd-1-False-base-7")
        with pytest.raises(UserError, match="is no cell of the matrix"):
            student.find("../../params")

    def test_a_stage_may_be_named_too(self, here):
        assert student.find(f"train@{KD[0]}").name == student.find(KD[0]).name == KD[0]
        with pytest.raises(UserError, match="is no cell of the matrix"):
            student.find(f"baseline@{KD[0]}")

    def test_no_plan(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="holds no cards of cells; run 'dvc repro'"):
            student.find(KD[0])

    def test_a_cell_that_is_left_out(self, changed):
        yamlfile.write(Path(f"cards/baseline/{PAIR}-simkd-base-1.yaml"), {"name": "x", "pair": PAIR, "left_out": True})
        with pytest.raises(UserError, match="is left out of the matrix"):
            student.find(f"{PAIR}-simkd-base-1")

    def test_a_cell_that_is_not_trained(self, changed):
        shutil.rmtree(f"runs/{PAIR}/{KD[0]}")
        with pytest.raises(UserError, match=f"is not trained yet; run 'dvc repro train@{KD[0]}'"):
            student.find(KD[0])

    def test_a_cell_of_another_card(self, changed):
        file = Path(f"cards/train/{KD[0]}.yaml")
        card = yamlfile.read(file)
        yamlfile.write(file, {**card, "recipe": {**card["recipe"], "temperature": 2}})
        with pytest.raises(UserError, match="is of another card; run 'dvc repro'"):
            student.find(KD[0])

    def test_a_cell_of_other_code(self, changed):
        for file, read, write in (
            (Path(f"cards/train/{KD[0]}.yaml"), yamlfile.read, yamlfile.write),
            (Path(f"runs/{PAIR}/{KD[0]}/meta.json"), lambda path: json.loads(path.read_text()), write_json),
        ):
            content = read(file)
            write(file, {**content, "code": {**content["code"], "trainer": "0" * 16}})
        with pytest.raises(UserError, match=r"is stale: the code has changed since \(trainer\); run 'dvc repro train@"):
            student.find(KD[0])

    @pytest.mark.parametrize(("file", "said"), [
        ("teachers/resnet14/weights.safetensors", "the weights of its teacher resnet14 are others since"),
        ("data/digits/manifest.json", "the data set digits is another one since"),
    ])  # fmt: skip
    def test_a_cell_of_another_teacher_or_data_set(self, changed, file, said):
        assert student.find(KD[0]).name == KD[0]
        Path(file).write_bytes(Path(file).read_bytes() + b" ")
        with pytest.raises(UserError, match=f"is stale: {said}; run 'dvc repro train@{KD[0]}'"):
            student.find(KD[0])
        assert (student.find(ALONE).name == ALONE) if "teachers" in file else True

    def test_a_cell_of_which_params_yaml_says_otherwise_of_its_teacher_since(self, changed):
        content = yamlfile.read("params.yaml")
        taught = {**content["teachers"]["resnet14"]["train"], "lr": 0.3}
        yamlfile.write(Path("params.yaml"), {**content, "teachers": {"resnet14": {"source": "train", "train": taught}}})
        with pytest.raises(UserError, match=r"is stale: params\.yaml says otherwise of its teacher resnet14 since"):
            student.find(KD[0])
        assert student.find(ALONE).name == ALONE

    def test_a_cell_of_which_params_yaml_says_otherwise_since(self, changed):
        content = yamlfile.read("params.yaml")
        yamlfile.write(Path("params.yaml"), {**content, "train": {**content["train"], "epochs": 9, "milestones": [3]}})
        with pytest.raises(UserError, match=r"is stale: params\.yaml says otherwise since; run 'dvc repro train@"):
            student.find(KD[0])

    def test_missing_packages(self, monkeypatch):
        monkeypatch.setattr(forms, "NEEDED", ("onnx", "no_such_package"))
        with pytest.raises(
            UserError, match=r"needs no_such_package, not installed here; run pip install -e '\.\[export\]'"
        ):
            forms.check_installed(forms.ONNX)
        forms.check_installed(forms.TORCH)

    @pytest.mark.parametrize(("out", "said"), [
        ("a.pt2", "ends in .onnx"),
        ("nowhere/a.onnx", "there is no folder nowhere"),
        (f"runs/{PAIR}/a.onnx", "lies in runs/, which the pipeline writes"),
    ])  # fmt: skip
    def test_files_that_cannot_be_written(self, here, out, said):
        with pytest.raises(UserError, match=re.escape(said)):
            exporting.target(KD[0], forms.ONNX, Path(out))

    @pytest.mark.parametrize(("name", "content", "said"), [
        ("a.safetensors", b"", "is damaged"),
        ("a.pt2", b"PK\3\4", "is damaged"),
        ("a.onnx", b"x", "is damaged"),
        ("a.pth", b"x", "is no exported student; the names of those end in .safetensors, .pt2, .onnx"),
        ("b.onnx", None, "there is no such file"),
    ])  # fmt: skip
    def test_files_that_cannot_be_read(self, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(said)):
            forms.read(tmp_path / name)

    def test_weights_that_say_nothing_of_themselves(self, here):
        with pytest.raises(
            UserError, match=r"does not say what it is; name a file that 'python -m stages\.export' wrote"
        ):
            forms.read(student.find(KD[0]).weights)

    @pytest.mark.parametrize(("text", "said"), [
        ("[", "is damaged"),
        ("{}", "is damaged (format: Field required)"),
        ('{"format": 2}', "is of format 2, and 1 is read here; export the cell again"),
    ])  # fmt: skip
    def test_what_a_file_says_is_checked(self, text, said):
        with pytest.raises(UserError, match=re.escape(said)):
            about.About.parse(text, Path("a.onnx"))
