"""No value of params.yaml becomes part of a shell's command, unless it is a name of letters, digits, _, + and -."""

import ast
import re
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdcore import catalog
from kdcore.matrix import params
from kdcore.matrix.section import LISTS
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT, TINY, TRAINED, Project, copy_of_project

SAFE = re.compile("[A-Za-z0-9][A-Za-z0-9_+-]*")
"""What means nothing to a shell, leads to no other folder, and is no option."""
SHIPPED = yamlfile.read(PARAMS)
SOURCES = sorted(path for folder in ("kdcore", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
SHELLS = {
    "os.system", "os.popen", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "eval", "exec",
}  # fmt: skip
MODULES = {"os", "subprocess", "pty"}
"""Whose functions are called by their full names, so that they are found here."""
HOSTILE = [
    "a;rm -rf x", "../x", "a\nb", "$(id)", "`id`", "a b", "-x", "", "a|b", "a&b", "a>b", "a'b", 'a"b', "a\\b", "~", "*",
]  # fmt: skip


def sins(tree):
    """What hands text to a shell, or to Python, or might do so unseen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (f"from {node.module} import {name.name}" for name in node.names if name.name[0].islower())
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            by_shell = any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords)
            of_text = bool(node.args) and isinstance(node.args[0], ast.JoinedStr | ast.BinOp | ast.Constant)
            if name in SHELLS or by_shell or (name.startswith("subprocess.") and of_text):
                yield ast.unparse(node)


@pytest.mark.parametrize("code", [
    "subprocess.run(command, shell=True)", "subprocess.Popen(command, shell=by_shell)", "subprocess.run(f'ls {name}')",
    "subprocess.check_output('ls ' + name)", "os.system(command)", "os.popen('ls')", "subprocess.getoutput(command)",
    "subprocess.getstatusoutput('ls')", "eval(text)",
])  # fmt: skip
def test_a_shell_would_be_found(code):
    assert list(sins(ast.parse(f"def f(name):\n    return [{code}]")))


@pytest.mark.parametrize("code", ["subprocess.run(['ls', name], shell=False)", "os.execv(path, [path, name])"])
def test_a_list_is_no_shell(code):
    assert not list(sins(ast.parse(code)))


def test_no_code_calls_a_shell():
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): list(sins(ast.parse(path.read_text()))) for path in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == {}


def interpolated(text):
    return set(re.findall(r"\$\{(.*?)\}", text))


def test_commands_hold_names_alone():
    """Of cells, pairs and teachers; paths also those of data sets and of sets of corrupted images. Whatever else comes
    needs a check of its own.
    """
    stages = yamlfile.read(ROOT / "dvc.yaml")["stages"]
    templates = [stage.get("do", stage) for stage in stages.values()]
    assert set.union(*(interpolated(stage["cmd"]) for stage in templates)) == {"key", "item", "item.pair"}
    paths = [
        path if isinstance(path, str) else next(iter(path))
        for stage in templates
        for path in (*stage["deps"], *stage["outs"])
    ]
    assert set.union(*map(interpolated, paths)) == {
        "key", "item", "item.pair", "item.set", "item.target", "data.name",
    }  # fmt: skip
    axes = [stage["foreach"] for stage in stages.values() if "foreach" in stage]
    axes += [axis for stage in stages.values() for axis in stage.get("matrix", {}).values()]
    assert set.union(*map(interpolated, axes)) == {
        "teachers", "pairs", "methods", "scales", "stand", "variants", "seeds", "baselines", *LISTS,
    }  # fmt: skip


def spoiled(names):
    """Names, with any text inside, before or behind, or any text instead."""
    parts = st.tuples(
        st.sampled_from(names), st.integers(0, 20), st.one_of(st.text(max_size=3), st.sampled_from(HOSTILE))
    )
    return st.one_of(
        st.text(max_size=12), st.sampled_from(HOSTILE), parts.map(lambda of: of[0][: of[1]] + of[2] + of[0][of[1] :])
    )


LISTED = {"robustness": ["corruptions"], "transfer": ["stl10"], "diagnostics": ["resnet20-resnet8"]}
PAIRS = spoiled(["resnet20-resnet8", "wrn_16_2-wrn_16_1"])
METHODS = spoiled(["kd", "dkd", "crd+kd"])
CHANGES = st.one_of(
    st.builds(dict, pairs=st.lists(PAIRS, min_size=1, max_size=2)),
    st.builds(dict, methods=st.lists(METHODS, min_size=1, max_size=2)),
    st.builds(dict, baselines=st.lists(spoiled(["at", "vanilla", "at+sp"]), min_size=1, max_size=2)),
    st.builds(dict, scales=st.lists(st.one_of(st.integers(), spoiled(["L2", "L1_4"])), min_size=1, max_size=2)),
    st.builds(
        dict, seeds=st.lists(st.one_of(st.integers(), st.text(max_size=4), st.booleans()), min_size=1, max_size=2)
    ),
    st.builds(
        dict, stand=st.lists(st.one_of(st.booleans(), st.integers(), st.text(max_size=4)), min_size=1, max_size=2)
    ),
    *(st.builds(dict, **{key: st.lists(spoiled([*of]), min_size=1, max_size=2)}) for key, of in LISTED.items()),
    spoiled(["tiny_imagenet", "mine"]).map(
        lambda name: {"transfer": [name], "targets": {name: {"name": "pets", "source": "folder:x", "image_size": 16}}}
    ),
    spoiled(["resnet20", "vgg13"]).map(lambda name: {"teachers": {**SHIPPED["teachers"], name: TRAINED}}),
    spoiled(["pets", "digits", "a1"]).map(
        lambda name: {"data": {"name": name, "source": "folder:images", "image_size": 16}}
    ),
)


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES)
@example({"pairs": ["resnet20-resnet8\n"]})
@example({"data": {"name": "pets\n", "source": "folder:images", "image_size": 16}})
@example({"seeds": [0, 1]})
def test_names_that_reach_a_command_are_safe(changes):
    try:
        matrix = params.Params.model_validate({**SHIPPED, **changes})
    except ValidationError:
        return
    names = [name for cell in matrix.cells() for name in (cell.name, cell.pair)]
    names += [name for key in LISTS for name in getattr(matrix, key)]
    assert all(SAFE.fullmatch(name) for name in [*names, *matrix.pairs, *matrix.teachers, matrix.data.name])


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("axis", ["pairs", "methods", "baselines", "scales", "seeds", "teachers", "data.name", *LISTS])
def test_hostile_names_are_refused(axis, name):
    changes = {
        "pairs": {"pairs": [f"{name}-resnet8"]},
        "teachers": {"teachers": {**SHIPPED["teachers"], name: TRAINED}},
        "data.name": {"data": {"name": name, "source": "folder:images", "image_size": 16}},
    }.get(axis, {axis: [name]})
    with pytest.raises(ValidationError):
        params.Params.model_validate({**SHIPPED, **changes})


@pytest.mark.parametrize("name", ["a;b", "a b", "../x", "A", "1a", "a\n", ""])
def test_names_of_plug_ins(tmp_path, name):
    with pytest.raises(UserError, match="must be of lower-case letters, digits and _, a letter first"):
        catalog._check_name(tmp_path / "x.py", name)


def test_a_plug_in_of_such_a_name_is_refused(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "kdcore/methods", tmp_path / "methods")
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/x.py").write_text('NETWORKS = {"a;touch ran": {}}')
    shutil.copyfile(ROOT / "kdcore/methods/kd.py", tmp_path / "methods/a;touch ran.py")
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path)
    for known in (catalog.methods.__wrapped__, catalog.networks.__wrapped__):
        with pytest.raises(UserError, match="the name 'a;touch ran' must be of lower-case letters"):
            known()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell") / "project"
    copy_of_project(folder)
    project = Project(folder)
    project.run("git", "init", "-q")
    project.set(**TINY)
    return project


@pytest.mark.pipeline
@pytest.mark.parametrize("changes", [
    {"pairs": ["a;touch ran-resnet8"]},
    {"pairs": ["$(touch ran)-resnet8"]},
    {"data": {**TINY["data"], "name": "../docs"}},
])  # fmt: skip
def test_dvc_runs_nothing_of_them(clone, changes):
    clone.set(**{**TINY, **changes})
    said = clone.dvc("repro", code=255)
    assert "error: params.yaml: " in said
    assert clone.ran(said) == {"plan"}
    assert not (clone.folder / "ran").exists()
    assert (clone.folder / "docs/extending.md").is_file()
