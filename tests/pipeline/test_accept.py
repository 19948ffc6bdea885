"""Results kept where a change of code leaves their numbers alone (`python -m stages.accept`), with DVC."""

import json

import pytest

from tests.project import SHORT

PAIR = "resnet14-resnet8"
DKD = [f"train@{PAIR}-dkd-{scale}-False-base-0" for scale in (1, 2)]
REASON = "a sum in another order of writing, with the same result"
ACCEPT = ("python", "-m", "stages.accept")

pytestmark = pytest.mark.pipeline


@pytest.fixture
def edited(project):
    """The finished matrix, after an edit of dkd that changes no number."""
    project.edit("kdcore/methods/dkd.py", "return alpha * tckd + beta * nckd", "return beta * nckd + alpha * tckd")
    return project


def meta(project, stage):
    return json.loads((project.folder / "runs" / PAIR / stage.partition("@")[2] / "meta.json").read_text())


def test_accepted_cells_are_not_trained_and_keep_the_reason(edited):
    weights = {stage: edited.digest(f"runs/{PAIR}/{stage.partition('@')[2]}/weights.safetensors") for stage in DKD}
    old = meta(edited, DKD[0])["code"]
    said = edited.run(*ACCEPT)
    assert [line for line in said.splitlines() if line.startswith("train@")] == [
        f"{stage}: fingerprints alone: method" for stage in DKD
    ]
    assert "2 can be accepted; say why with --reason" in said
    assert edited.stale() == set(DKD)
    assert "2 accepted" in edited.run(*ACCEPT, "--reason", REASON)
    (entry,) = meta(edited, DKD[0])["accepted"]
    assert (entry["reason"], entry["from"], entry["to"]) == (REASON, old, meta(edited, DKD[0])["code"])
    assert not edited.ran(edited.dvc("repro")) & set(DKD)
    assert {
        stage: edited.digest(f"runs/{PAIR}/{stage.partition('@')[2]}/weights.safetensors") for stage in DKD
    } == weights
    assert REASON in (edited.folder / "tables/digits.md").read_text()
    assert REASON in (edited.folder / "tables/cells.csv").read_text()
    assert "0 can be accepted" in edited.run(*ACCEPT)
    assert edited.dvc("status").strip() == "Data and pipelines are up to date."


@pytest.mark.slow
def test_only_the_named_cells(edited):
    edited.run(*ACCEPT, DKD[1].partition("@")[2], "--reason", REASON)
    assert "accepted" not in meta(edited, DKD[0])
    assert edited.stale() & set(DKD) == {DKD[0]}


@pytest.mark.slow
def test_killed_before_dvc_recorded_it(edited):
    """The same call goes on; nothing is accepted twice."""
    killed = (
        "from kdcore.training import accept\n"
        "accept._dvc_commit = lambda *_: (_ for _ in ()).throw(SystemExit(9))\n"
        "from stages import accept as stage\n"
        f"stage.main('--reason', {REASON!r})\n"
    )
    edited.run("python", "-c", killed, code=9)
    assert edited.stale() >= set(DKD)
    assert "2 accepted" in edited.run(*ACCEPT, "--reason", REASON)
    assert len(meta(edited, DKD[0])["accepted"]) == 1
    assert not edited.stale() & set(DKD)


@pytest.mark.slow
def test_values_that_differ_are_refused(edited):
    edited.set(methods_config={"dkd": {"alpha": 3}})
    said = edited.run(*ACCEPT, DKD[0].partition("@")[2], "--reason", REASON, code=2)
    assert "cannot be accepted: recipe.alpha was 1, is 3" in said
    assert "0 can be accepted" in edited.run(*ACCEPT, "--reason", REASON)
    assert edited.stale() >= set(DKD)


@pytest.mark.slow
def test_another_teacher_is_refused(edited):
    edited.set(teachers={"resnet14": {"source": "train", "train": {**SHORT, "lr": 0.03}}})
    edited.dvc("repro", "pairs")
    said = edited.run(*ACCEPT)
    assert f"{DKD[0]}: will be made again: pairs/{PAIR}.safetensors is modified" in said
    assert "0 can be accepted" in said


def test_other_results_than_dvc_has_recorded_are_refused(project):
    """Those of another teacher, left behind; or edited by hand."""
    cell = project.folder / "runs" / PAIR / DKD[0].partition("@")[2]
    history = (cell / "history.csv").read_text()
    (cell / "history.csv").write_text(history.replace("\n6,", "\n6,0.9", 1))
    said = project.run(*ACCEPT, "--reason", REASON)
    assert f"{DKD[0]}: will be made again: runs/{PAIR}/{cell.name} is modified" in said
    assert "0 can be accepted" in said
    (cell / "history.csv").write_text(history)
    project.edit("kdcore/methods/dkd.py", "return alpha * tckd + beta * nckd", "return beta * nckd + alpha * tckd")
    (cell / ".ipynb_checkpoints").mkdir()  # which DVC does not see
    project.run(*ACCEPT, "--reason", REASON)
    text = (cell / "meta.json").read_text()
    (cell / "meta.json").write_text(text.replace('"computed_in": "float32"', '"computed_in": "bfloat16"'))
    assert "0 can be accepted" in project.run(*ACCEPT, "--reason", REASON)
    (cell / "meta.json").write_text(text)
    (cell / "weights.safetensors").write_bytes(b"others")
    assert "0 can be accepted" in project.run(*ACCEPT, "--reason", REASON)


def test_damaged_results_stop_no_other_cell(edited):
    (edited.folder / "runs" / PAIR / DKD[0].partition("@")[2] / "meta.json").write_text("{")
    said = edited.run(*ACCEPT, "--reason", REASON)
    assert "meta.json: is damaged" in said
    assert "1 accepted" in said


@pytest.mark.parametrize(("arguments", "message"), [
    (["--reason", " "], "--reason: is empty"),
    (["resnet14-resnet8-dkd-1-False-base-1", "--reason", "x"], "is no teacher or cell with results that DVC"),
])  # fmt: skip
def test_bad_input(edited, arguments, message):
    assert message in edited.run(*ACCEPT, *arguments, code=2)
