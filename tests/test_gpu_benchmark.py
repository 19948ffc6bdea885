"""The benchmark that people with a GPU run, in miniature on whatever device there is."""

import json

import pytest

from benchmarks import common, gpu


@pytest.mark.slow
def test_it_measures_all_that_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common.lay_out(tmp_path, common.Case("resnet8-resnet8", (1, 2)), count=128, test=64)
    monkeypatch.setattr(gpu, "DATA", "noise")
    monkeypatch.setattr(gpu, "MOST_EPOCHS", 3)
    monkeypatch.setattr(gpu, "REPETITIONS", 1)
    gpu.main("resnet8-resnet8", "1,2", "384", "1,2", "100000")
    (file,) = tmp_path.glob("benchmarks/results/gpu-resnet8-resnet8-M1_2-*.json")
    found = json.loads(file.read_text())
    for what in ("images_per_second", "bytes"):
        assert found[what].keys() == set(gpu.loops())
        assert all(value > 0 for value in found[what].values())
    assert all(step["operators"] > 100 for step in found["steps"].values())
    assert found["slots"].keys() == {"1", "2"}
    assert len(found["learnt"]["top1 of every epoch"]) == found["learnt"]["epochs"] == 3
    page = file.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert all(f"| {name} " in page for name in gpu.loops())


def test_it_says_what_is_missing_for_an_accuracy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = common.Case("resnet8-resnet8", (1,))
    assert "data/noise/manifest.json and pairs/resnet8-resnet8.safetensors" in str(gpu.learnt(case, "noise", 1.0, 1.0))
    common.lay_out(tmp_path, case, count=64, test=1)
    assert "an epoch takes about 64 s, and 1 s are left" in str(gpu.learnt(case, "noise", 1.0, 1.0))
