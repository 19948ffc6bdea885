"""What a sweep would do: in closed form, and as DVC then really does it."""

import fnmatch
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdcore.matrix.cell import Cell
from kdcore.sweep import forecast
from kdcore.sweep.display import console, duration, listed
from kdcore.sweep.dry_run import Lookup, Outlook, difference, hash_of_folder
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.sweep.forecast import ROWS, SHOWN, Forecast, Line, Training, condensed, named, run_order
from kdcore.sweep.schedule import Schedule, State
from kdcore.system import yamlfile
from tests import sweeps
from tests.project import SHORT, TRAINED
from tests.sweeps import PAIR, cell

ASK = """
import json
from pathlib import Path
from kdcore.matrix import params
from kdcore.sweep import forecast
from kdcore.sweep.schedule import Estimates
from kdcore.sweep.dvc_pipeline import Pipeline
found = forecast.make(Pipeline(Path.cwd()), params.load("params.yaml"), Estimates([]), jobs=1)
print(json.dumps({line.step: [line.outlook.value, line.reason] for line in found.lines}))
"""
VANILLA = f"baseline@{PAIR}-vanilla-base-0"
KD = [f"train@{cell('kd', scale)}" for scale in (1, 2)]
DKD = [f"train@{cell('dkd', scale)}" for scale in (1, 2)]
CELLS = [VANILLA, *KD, *DKD]
EVALUATE = f"evaluate@{PAIR}"
STEPS = {"plan", "data", "teacher@resnet14", "pairs", *CELLS, EVALUATE, "tables"}
TO_RUN, CACHED, BLOCKED, UP_TO_DATE = (outlook.value for outlook in SHOWN)


# In closed form


@given(st.from_regex(r"[-+.0-9a-fEox_:]{1,18}", fullmatch=True))
@example("._")
@example("-0o7")
@example("0o_")
@example("1_0e5")
def test_cards_read_the_same_in_every_version_of_yaml(text):
    content = {"code": text, "values": [1, 2.5, 1e-5, 1e20, -3, True, None]}
    for read in (yamlfile.read, yamlfile.read_written):
        assert _read_back(content, read) == content


def _read_back(content, read):
    path = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    path = path / f"kdcore-{hashlib.md5(repr(content).encode()).hexdigest()}.yaml"
    try:
        yamlfile.write(path, content)
        assert path.read_text() == yamlfile.text(content)
        return read(path)
    finally:
        path.unlink()


def test_differences_of_cards_are_concrete():
    old = {"name": "a", "recipe": {"temperature": 4.0, "kd_weight": 9.0}, "code": {"method": {"dkd": "12"}}, "seed": 0}
    assert difference(old, old) == ""
    assert difference({**old, "commit": "abc", "torch": "2.11"}, old) == ""
    assert difference(old, {**old, "recipe": {"temperature": 3.0, "kd_weight": 9.0}}) == "recipe.temperature 4.0 -> 3.0"
    assert difference(old, {**old, "code": {"method": {"dkd": "13"}}}) == "code.method.dkd changed"
    assert difference(old, {**old, "recipe": {"temperature": 4.0}}) == "recipe.kd_weight 9.0 -> none"
    assert difference(old, {**old, "threads": 2}) == "threads none -> 2"
    assert difference(old, {**old, "seed": list(range(100))}) == "seed changed"
    many = {**old, "recipe": {"temperature": 1, "kd_weight": 2, "x": 3, "y": 4, "z": 5}}
    assert difference(old, many) == (
        "recipe.temperature 4.0 -> 1, recipe.kd_weight 9.0 -> 2, recipe.x none -> 3, 2 more"
    )


def test_many_differences_of_one_part_are_one():
    old, new = ({"recipes": {f"cell-{cell}": {"x": value} for cell in range(20)}, "seed": 0} for value in (1, 2))
    assert difference(old, {**new, "seed": 1}) == "recipes changed, seed 0 -> 1"


def test_a_tuple_in_a_card_is_the_list_that_results_hold():
    assert difference({"levels": [1, 2]}, {"levels": (1, 2)}) == ""


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 12))
    ranks = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    needs = {
        str(number): {str(above) for above in range(number) if draw(st.integers(0, 3)) == 0} for number in range(count)
    }
    return needs, {str(number): (rank, number) for number, rank in enumerate(ranks)}


@given(graphs())
def test_rows_stand_in_the_order_in_which_a_sweep_with_one_job_runs_them(graph):
    needs, ranks = graph
    schedule, found = Schedule.of(needs, ranks.__getitem__), []
    while not schedule.is_finished:
        found.append(schedule.ready()[0])
        schedule.settle(found[-1], State.DONE)
    assert run_order(needs, ranks.__getitem__) == found


def test_needs_that_are_not_asked_for_are_in_place():
    assert run_order({"b": {"a"}}, str) == ["b"]


def line(found, outlook=Outlook.TO_RUN, reason="never run", seconds=60.0, size=1000.0):
    return Line(f"{found.stage}@{found.name}", outlook, reason, found, Training(seconds, size))


def matrix(pairs, seeds, methods=("kd", "dkd")):
    return [
        Cell(f"resnet{pair}-resnet8", method, seed, scale, stand)
        for pair in range(pairs)
        for method in methods
        for scale in (1, 2, "L1_4")
        for stand in (False, True)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(("pairs", "seeds", "rows"), [(1, 3, 36), (1, 30, 12), (7, 3, 14), (30, 3, 30), (60, 5, 1)])
def test_a_person_can_read_the_table_of_a_large_matrix(pairs, seeds, rows):
    cells = matrix(pairs, seeds)
    found = condensed([line(cell) for cell in cells])
    assert len(found) == rows <= ROWS
    counts = [int(count.removeprefix("× ") or 1) for _, count, *_ in found]
    assert sum(counts) == len(cells)
    for (pattern, _, state, reason, _), count in zip(found, counts, strict=True):
        assert (state, reason) == ("to run", "never run")
        matched = fnmatch.filter([f"{cell.stage}@{cell.name}" for cell in cells], pattern)
        assert len(matched) == count, "rows of one state are what --glob would choose"


def test_stages_that_fare_differently_never_share_a_row():
    cells = matrix(4, 20)
    lines = [line(cell, *((Outlook.BLOCKED, "b") if cell.stand else (Outlook.TO_RUN, "a"))) for cell in cells]
    assert {(state, reason) for _, _, state, reason, _ in condensed(lines)} == {("blocked", "b"), ("to run", "a")}


def test_the_time_of_a_row_is_the_sum_of_what_is_known():
    first, second = (replace(matrix(1, 1)[0], seed=seed) for seed in (0, 1))
    shown = {1: "60 s", 30: "1 min"}
    for count, seconds in ((1, None), (30, 2.0)):
        lines = [line(replace(first, seed=seed), seconds=seconds) for seed in range(count * 41)]
        (row,) = condensed(lines)
        assert row[4] == ("?" if seconds is None else duration(2.0 * count * 41)), shown
    mixed = [line(replace(second, seed=seed), seconds=None if seed else 90.0) for seed in range(50)]
    assert condensed(mixed)[0][4] == "> 2 min"
    assert condensed([replace(line(first), outlook=Outlook.CACHED)])[0][4] == ""


@pytest.mark.parametrize(
    ("parts", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_in_words(parts, text):
    assert listed(parts) == text


def test_names_of_many_are_a_pattern():
    assert named(["plan"]) == "plan"
    assert named(["train@a-b-kd-1-True-base-0", "train@a-b-kd-2-True-base-0"]) == "train@a-b-kd-*"
    assert named(["evaluate@a-b", "evaluate@c-d"]) == "evaluate@*"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"), (0, "0 s"), (0.2, "1 s"), (59, "59 s"), (59.5, "1 min"), (60, "1 min"), (61, "2 min"),
        (3540, "59 min"), (3541, "1 h"), (3660, "1 h 1 min"), (86399, "1 d"), (86400, "1 d"), (86401, "1 d 1 h"),
        (90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_durations_are_rounded_up(seconds, text):
    assert duration(seconds) == text


def outlooks(*found, cache, jobs=2):
    cells = matrix(1, 10)
    return Forecast([line(cells[number], *of) for number, of in enumerate(found)], jobs, cache)


def test_totals_add_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = outlooks(
        (Outlook.TO_RUN, "", 100.0, 1e6),
        (Outlook.TO_RUN, "", None, None),
        (Outlook.BLOCKED, "", 7200.0, 1e6),
        (Outlook.CACHED, "", 50.0, 1e6),
        (Outlook.UP_TO_DATE, "", 50.0, 1e6),
        cache=tmp_path / "not" / "there" / "yet",
    )
    assert [found.count(outlook, cells=True) for outlook in SHOWN] == [2, 1, 1, 1]
    assert [found.count(outlook, cells=False) for outlook in SHOWN] == [0, 0, 0, 0]
    assert found.seconds(Outlook.TO_RUN) == 50
    assert found.unknown == 1
    (disk,) = found.disks()
    assert disk.needed == 5e6, "what is to come twice, what is cached once"
    time, space = found.totals()[2:]
    assert time == (
        "time: about 50 s, 2 jobs at a time; up to 1 h more where what is blocked must run too; "
        "without 1 of 3, which nothing trained here is like"
    )
    assert space.startswith("disk: at least 5.0 MB for results and DVC's cache, ")


def test_a_disk_that_will_be_full_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    free = shutil.disk_usage(tmp_path).free
    fits = outlooks((Outlook.TO_RUN, "", 1.0, 1e3), cache=tmp_path)
    assert not any("warning" in text for text in fits.totals())
    too_much = outlooks((Outlook.TO_RUN, "", 1.0, free / 2 + 1e9), cache=tmp_path)
    assert too_much.totals()[-1] == f"warning: the disk of {tmp_path} will be full; make space there first"


def test_disks_are_told_apart(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert [disk.needed for disk in forecast.disks([(here, 1), (there / "below", 2)])] == [3]
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **_: _Moved(stat(path), device=1) if path == there else stat(path))
    assert [disk.needed for disk in forecast.disks([(here, 1), (there / "below", 2)])] == [1, 2]


class _Moved:
    def __init__(self, found, device):
        self.st_dev, self.st_mode = device, found.st_mode


def test_nothing_to_do_is_two_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outlooks((Outlook.UP_TO_DATE, "", 1.0, 1.0), cache=tmp_path).show(console())
    assert capsys.readouterr().out.splitlines() == [
        "cells: 0 to run, 0 cached, 0 blocked, 1 up to date",
        "other stages: 0 to run, 0 cached, 0 blocked, 0 up to date",
    ]


# As DVC then does it


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """A project of trivial stages, all of them run."""
    project = sweeps.make(tmp_path_factory.mktemp("forecast") / "project")
    project.dvc("repro")
    project.commit()
    return project


@pytest.fixture
def project(repeated, tmp_path):
    shutil.copytree(repeated.folder, tmp_path / "project", symlinks=True)
    return sweeps.SweepProject(tmp_path / "project")


def ask(project):
    """Step -> state and reason."""
    return json.loads(project.run("python", "-c", ASK).splitlines()[-1])


def states(found):
    return {
        state: {step for step, (of, _) in found.items() if of == state}
        for state in (TO_RUN, CACHED, BLOCKED, UP_TO_DATE)
    }


def check_against_dvc(project):
    """The forecast, once DVC has shown that it is true."""
    found = ask(project)
    of = states(found)
    said = project.dvc("repro").splitlines()
    ran, cached, skipped = (
        {text.split("'")[1] for text in said if text.startswith(start) and end in text}
        for start, end in (("Running stage", ""), ("Stage", "is cached"), ("Stage", "didn't change"))
    )
    assert ran | cached | skipped == set(found)
    assert of[TO_RUN] <= ran
    assert of[CACHED] <= cached
    assert of[UP_TO_DATE] <= skipped
    return found


@pytest.mark.pipeline
def test_a_fresh_clone(tmp_path):
    project = sweeps.make(tmp_path / "project")
    found = check_against_dvc(project)
    assert states(found)[TO_RUN] == set(found) == STEPS
    assert found["plan"][1] == "never run"
    assert found["data"][1] == "never run", "its card is known before it is written"
    assert found["teacher@resnet14"][1] == "never run; data must run first"
    assert found["pairs"][1] == "never run; teacher@resnet14 must run first"
    assert found[KD[0]][1] == "never run; data and teacher resnet14 must run first"
    assert list(found)[:5] == ["plan", "data", "teacher@resnet14", "pairs", VANILLA]


@pytest.mark.pipeline
def test_nothing_changed(project):
    assert states(check_against_dvc(project))[UP_TO_DATE] == STEPS


@pytest.mark.pipeline
def test_another_temperature_there_and_back(project):
    before = (project.folder / "params.yaml").read_text()
    project.set(methods_config={"kd": {"temperature": 2.5}})
    found = check_against_dvc(project)
    assert states(found)[UP_TO_DATE] == {"data", "teacher@resnet14", "pairs", VANILLA, *DKD}
    assert states(found)[TO_RUN] == {"plan", *KD, "tables"}
    assert found["plan"][1] == "params.yaml changed"
    assert found[KD[0]][1].startswith("card: recipe.temperature ")
    assert found[KD[0]][1].endswith(" -> 2.5")
    assert found[EVALUATE] == [BLOCKED, "2 of 5 cells must run first"]
    (project.folder / "params.yaml").write_text(before)
    found = check_against_dvc(project)
    assert found["plan"][0] == TO_RUN, "it is in no run cache"
    assert states(found)[CACHED] == {*KD, EVALUATE}, "an evaluation of cells from the cache is in it too"
    assert found[KD[0]][1].startswith("card: recipe.temperature 2.5 -> ")
    assert found["tables"][0] == TO_RUN, "its output is in git, not in the cache"


@pytest.mark.pipeline
def test_a_seed_more(project):
    project.set(seeds=[0, 1])
    found = check_against_dvc(project)
    new = {step for step in found if step.endswith("-1") and step not in STEPS}
    assert len(new) == 5
    assert states(found)[TO_RUN] == {"plan", *new, EVALUATE, "tables"}
    assert states(found)[UP_TO_DATE] == {"data", "teacher@resnet14", "pairs", *CELLS}
    assert {found[step][1] for step in new} == {"never run"}
    assert found[EVALUATE][1].endswith("; 5 of 10 cells must run first")


@pytest.mark.pipeline
def test_a_pair_more_of_a_known_teacher_leaves_the_others_alone(project):
    project.set(pairs=[PAIR, "resnet14-resnet20"])
    found = check_against_dvc(project)
    assert states(found)[UP_TO_DATE] == {"data", "teacher@resnet14", *CELLS, EVALUATE}
    assert found["pairs"] == [
        TO_RUN,
        "card: pairs ['resnet14-resnet8'] -> ['resnet14-resnet8', 'resnet14-resnet20']",
    ] or (found["pairs"] == [TO_RUN, "card: pairs changed"])
    assert found["baseline@resnet14-resnet20-vanilla-base-0"] == [TO_RUN, "never run"]


@pytest.mark.pipeline
def test_results_that_are_gone_changed_or_not_in_the_cache(project):
    runs = project.folder / "runs" / PAIR
    shutil.rmtree(runs / cell("kd", 1))
    history = runs / cell("kd", 2) / "history.csv"
    history.unlink()  # a link to the cache, perhaps
    history.write_text("epoch,test_top1\n1,99.0\n")
    lock = yamlfile.read(project.folder / "dvc.lock")
    (made,) = lock["stages"][DKD[0]]["outs"]
    files = project.folder / ".dvc" / "cache" / "files" / "md5"
    (files / made["md5"][:2] / made["md5"][2:]).unlink()
    found = check_against_dvc(project)
    assert found[KD[0]] == [CACHED, "its results are gone"]
    assert found[KD[1]] == [CACHED, "its results were changed"]
    assert found[DKD[0]] == [TO_RUN, "its results are not in DVC's cache"]
    assert found[EVALUATE][0] == BLOCKED
    assert states(found)[UP_TO_DATE] == STEPS - {KD[0], KD[1], DKD[0], EVALUATE, "tables"}


@pytest.mark.pipeline
def test_cards_that_are_gone_are_planned_anew(project):
    """DVC has them in its cache, and brings none back: they depend on checkpoints that it may not see."""
    shutil.rmtree(project.folder / "cards")
    found = check_against_dvc(project)
    assert found["plan"] == [TO_RUN, "its results are gone"]
    assert states(found)[UP_TO_DATE] == STEPS - {"plan"}


@pytest.mark.pipeline
def test_other_code(project):
    project.edit("kdcore/methods/dkd.py", "KIND = ", "ANOTHER = 1\nKIND = ")
    found = check_against_dvc(project)
    assert states(found)[TO_RUN] == {"plan", *DKD}
    assert found["plan"][1] == "kdcore changed"
    assert {found[step][1] for step in DKD} == {"card: code.method.dkd changed"}
    project.edit("kdcore/methods/dkd.py", "ANOTHER = 1\n", "ANOTHER = 1  # a remark\n")
    assert states(check_against_dvc(project))[TO_RUN] == {"plan"}


@pytest.mark.pipeline
def test_a_teacher_that_comes_out_the_same_blocks_its_cells_for_nothing(project):
    project.set(teachers={"resnet14": {**TRAINED, "train": {**SHORT, "epochs": 3}}})
    found = check_against_dvc(project)
    assert found["teacher@resnet14"] == [TO_RUN, "card: train.epochs 6 -> 3"]
    assert found["pairs"] == [BLOCKED, "teacher@resnet14 must run first"]
    assert {tuple(found[step]) for step in CELLS} == {(BLOCKED, "teacher resnet14 must run first")}
    assert states(ask(project))[UP_TO_DATE] == STEPS


@pytest.mark.pipeline
def test_a_changed_card_below_a_teacher_that_must_run(project):
    project.set(
        teachers={"resnet14": {**TRAINED, "train": {**SHORT, "epochs": 3}}}, methods_config={"kd": {"temperature": 2.5}}
    )
    found = ask(project)
    assert found[KD[0]][0] == TO_RUN
    assert found[KD[0]][1].startswith("card: recipe.temperature ")
    assert found[KD[0]][1].endswith("; teacher resnet14 must run first")
    assert found[DKD[0]][0] == BLOCKED


@pytest.mark.pipeline
def test_a_missing_file_blocks(project):
    (project.folder / "kdcore/results/report/report.css").unlink()
    found = ask(project)
    assert found["tables"] == [BLOCKED, "kdcore/results/report/report.css is missing"]


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"__pycache__", "tmp", ".git"} & set(path.relative_to(folder).parts)
    }


@pytest.mark.pipeline
def test_a_dry_run_of_a_variant_changes_nothing_and_says_what_a_run_would_do(project):
    before, status = snapshot(project.folder), project.run("git", "status", "--short")
    changes = ["-S", "seeds=[0,1]", "-S", "+methods_config.kd.temperature=2.5", "-S", "scales=[1,2,4]"]
    said = project.sweep("--dry-run", *changes)
    assert snapshot(project.folder) == before
    assert project.run("git", "status", "--short") == status
    assert "cells: 11 to run, 0 cached, 0 blocked, 3 up to date" in said
    assert "unknown, for nothing like what is to be trained was trained here" in said
    project.set(seeds=[0, 1], scales=[1, 2, 4], methods_config={"kd": {"temperature": 2.5}})
    assert project.sweep("-n").splitlines() == said.splitlines()
    found = check_against_dvc(project)
    assert len([step for step in states(found)[TO_RUN] if step.startswith(("train@", "baseline@"))]) == 11


@pytest.mark.pipeline
def test_a_dry_run_of_some_stages(project):
    project.set(seeds=[0, 1])
    said = project.sweep("-n", "--glob", f"train@{PAIR}-kd-*")
    assert "cells: 2 to run, 0 cached, 0 blocked, 2 up to date" in said
    assert "other stages: 1 to run, 0 cached, 0 blocked, 3 up to date" in said
    assert "tables" not in said
    assert "error: nothing: names no stage" in project.sweep("-n", "nothing", code=2)
    assert "params.yaml with -S seeds=[]: seeds: is empty" in project.sweep("-n", "-S", "seeds=[]", code=2)
    assert "--failed: nothing failed" in project.sweep("-n", "--failed", code=2)
    project.behave(**{cell("kd", 1, seed=1): "fail"})
    project.sweep("--jobs", "2", code=1)
    said = project.sweep("-n", "--failed")
    assert f"train@{cell('kd', 1, seed=1)}" in said
    assert "cells: 1 to run, 0 cached, 0 blocked, 9 up to date" in said


@pytest.mark.pipeline
def test_dvc_expands_another_params_file_as_it_expands_the_projects(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.folder)
    own = Pipeline(project.folder)
    shutil.copy(project.folder / "params.yaml", tmp_path)
    other = Pipeline(project.folder, params=tmp_path / "params.yaml")
    assert own.needs == other.needs
    assert own.steps == other.steps
    for step in own.steps:
        stages = own.stages[step], other.stages[step]
        assert len({stage.cmd for stage in stages}) == 1
        assert Lookup(own).recorded_deps(step) == Lookup(other).recorded_deps(step) != {}
        assert Lookup(own).recorded_outs(step) == Lookup(other).recorded_outs(step) != {}


@pytest.mark.pipeline
def test_sums_and_keys_are_dvcs_own(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    pipeline = Pipeline(project.folder)
    lookup = Lookup(pipeline)
    for step in pipeline.steps:
        read, made = lookup.recorded_deps(step), lookup.recorded_outs(step)
        assert {path: lookup.hash_now(step, path) for path in pipeline.dependencies(step)} == read
        assert lookup.trouble(step) == ""
        assert not lookup.has_new_command(step)
        if step in ("plan", "data"):  # their outputs persist
            assert lookup.made_from(step, read) is None
            assert not lookup.is_in_cache(step, made)
        elif step != "tables":
            assert lookup.made_from(step, read) == made
            assert lookup.is_in_cache(step, made)
            assert lookup.made_from(step, dict.fromkeys(read, "0" * 32)) is None
    runs = f"runs/{PAIR}"
    assert hash_of_folder(lookup.files_now(EVALUATE, runs)) == lookup.recorded_deps(EVALUATE)[runs]
    made = lookup.recorded_outs("plan")["cards"]
    assert hash_of_folder(lookup.files_in_cache(made)) == made


@pytest.mark.pipeline
def test_a_teacher_that_comes_out_differently(project):
    project.behave(resnet14="differ")
    project.set(teachers={"resnet14": {**TRAINED, "train": {**SHORT, "epochs": 3}}})
    said = project.sweep("-n", "--jobs", "2")
    assert "card: train.epochs 6 -> 3" in said
    found = check_against_dvc(project)
    assert found["teacher@resnet14"] == [TO_RUN, "card: train.epochs 6 -> 3"]
    assert states(found)[BLOCKED] == {"pairs", *CELLS, EVALUATE}
