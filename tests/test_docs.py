"""The documentation is true: what it names exists, and what it tells to do works."""

import re
import shutil
import subprocess
import sys

import pytest

from kdcore import catalog
from kdcore.system import yamlfile
from tests.project import ROOT, Project, copy_of_project

README = (ROOT / "README.md").read_text()
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "checkpoints/*.md", ".github/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
PAGE = (ROOT / "docs/adding-a-method.md").read_text()
BLOCK = re.compile(r"^`(?P<path>[\w/]+\.py)`:\n\n```python\n(?P<code>.*?)```$", re.DOTALL | re.MULTILINE)
STARTED = "kdcore/methods/tv.py"
"""The method that docs/start.md adds, which tests/test_start.py follows."""
LINK = re.compile(r"\]\((?!https?://)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
COMMAND = re.compile(r"python -m (?P<module>(?:stages|kdcore|benchmarks)[\w.]*)(?P<arguments>[^`#\n|]*)")
MAKE = re.compile(r"\bmake (?P<target>[a-z-]+)\b(?= [A-Z]+=|[`,;)]| {2,}|\n)(?P<variables>(?: [A-Z]+=[^\s`]+)*)")
FILE = re.compile(r"`(?P<path>(?:kdcore|stages|tests|docs|presets|benchmarks)/[\w./-]+|[\w-]+/test_\w+\.py)`")
OUTDATED = {"CHANGELOG.md"}
"""Pages that also speak of what is no more."""


def text_of(page):
    return (ROOT / page).read_text()


def anchors(page):
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for link in LINK.finditer(text_of(page)):
        target = ROOT / page if not link["path"] else (ROOT / page).parent / link["path"]
        assert target.exists(), link[0]
        if link["anchor"]:
            assert link["anchor"] in anchors(target), link[0]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OUTDATED])
def test_commands_exist(page):
    for command in COMMAND.finditer(text_of(page)):
        base = ROOT.joinpath(*command["module"].rstrip(".").split("."))
        source = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__main__.py"
        assert source.is_file(), command[0]
        options = text_of("kdcore/sweep/cli.py" if command["module"] == "stages.sweep" else source)
        for option in re.findall(r"(?<!\S)--[a-z-]+", command["arguments"]):
            assert f'"{option}"' in options, command[0]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = text_of("Makefile")
    for command in MAKE.finditer(text_of(page)):
        assert re.search(rf"^{command['target']}:", makefile, re.MULTILINE), command[0]
        for variable in re.findall(r"([A-Z]+)=", command["variables"]):
            assert f"({variable})" in makefile or f"({variable}," in makefile, command[0]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OUTDATED])
def test_files_exist(page):
    """Those in backticks, the methods that two pages add excepted; tests may be named from tests/ on."""
    added = {*(block["path"] for block in BLOCK.finditer(PAGE)), STARTED}
    for named in FILE.finditer(text_of(page)):
        path = named["path"]
        assert path in added or (ROOT / path).exists() or (ROOT / "tests" / path).exists(), path


def test_the_index_of_the_code_names_what_is_there():
    """`file.py`, `name`: the file defines the name; a bare file lies beside the one before it."""
    index = text_of("docs/architecture.md").split("## Where to find what")[1]
    checked = 0
    for line in index.splitlines():
        file = None
        for name in re.findall(r"`([^`<>]+)`", line.rpartition("? |")[2]):
            if name.endswith(".py"):
                file = ROOT / name if "/" in name else file.parent / name
                assert file.is_file(), line
            elif file and re.fullmatch(r"[\w.]+", name):
                assert re.search(rf"^\s*(def|class) {name.split('.')[-1]}\b", file.read_text(), re.MULTILINE), line
                checked += 1
    assert checked >= 5


def test_the_rooms_stand_in_the_order_that_import_linter_checks():
    layers = re.search(r"^layers = \[(.*?)^\]", text_of("pyproject.toml"), re.DOTALL | re.MULTILINE)[1]
    wanted = [set(re.findall(r"kdcore\.(\w+)", line)) for line in reversed(layers.strip().splitlines())]
    rows = re.search(r"\| in `kdcore/` .*?\n\n", text_of("docs/architecture.md"), re.DOTALL)[0].splitlines()[2:]
    said = [set(re.findall(r"`(\w+)(?:/|\.py)`", row.split(" | ")[0])) for row in rows if row]
    order = {name: place for place, names in enumerate(said) for name in names}
    assert set().union(*said) == set().union(*wanted)
    assert [order[min(names)] for names in wanted] == sorted(order[min(names)] for names in wanted)


def test_every_environment_variable_is_listed():
    sources = [*ROOT.glob("kdcore/**/*.py"), *ROOT.glob("stages/*.py"), ROOT / "Makefile"]
    read = {name for path in sources for name in re.findall(r"\bKDCORE_[A-Z_]+\b", path.read_text())}
    assert set(re.findall(r"^\| `(KDCORE_[A-Z_]+)`", text_of("docs/environment.md"), re.MULTILINE)) == read


def test_the_index_links_every_page():
    linked = {link["path"] for link in LINK.finditer(text_of("docs/README.md"))}
    assert {path.name for path in ROOT.glob("docs/*.md")} - linked == {"README.md"}


def test_the_version_is_one():
    version = re.search(r'^version = "(.*)"', text_of("pyproject.toml"), re.MULTILINE)[1]
    assert yamlfile.read(ROOT / "CITATION.cff")["version"] == version
    assert re.search(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)[1] == version


def test_the_readme_is_short_and_its_picture_small():
    assert len(README.splitlines()) <= 130
    assert (ROOT / "docs/images/report.png").stat().st_size <= 300_000


def test_the_readme_shows_the_table_of_the_default_run():
    """After a run that changed figures: copy the lines from tables/digits.md."""
    block = re.search(r"<!-- results -->\n(.*?)<!-- /results -->", README, re.DOTALL)[1].split("\n")
    table = text_of("tables/digits.md").splitlines()
    assert [line for line in block if line not in table] == []
    assert "| Teacher " in "\n".join(block)


def test_the_readmes_path_leads_to_a_matrix(followed, tmp_path):
    """Its sections of params.yaml, with the method that docs/adding-a-method.md adds."""
    section = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "sections.yaml").write_text("\n".join(line[3:] for line in section.splitlines()))
    changed = {**yamlfile.read(ROOT / "params.yaml"), **yamlfile.read(tmp_path / "sections.yaml")}
    yamlfile.write(followed.folder / "mine.yaml", changed)
    checked = followed.run(sys.executable, "-m", "stages.plan", "--check", "mine.yaml")
    cells, *missing = checked.splitlines()
    assert cells == "mine.yaml: 30 cells"
    assert [re.findall(r"/data/\w+(?:\.\w+)?", line) for line in missing] == [["/data/pets"], ["/data/teacher.pth"]]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the project in which steps 1 to 3 of the page were taken."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    copy_of_project(folder)
    for block in BLOCK.finditer(PAGE):
        assert not (folder / block["path"]).exists()
        (folder / block["path"]).write_text(block["code"])
    recipe = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    recipes = folder / "data/recipes.yaml"
    recipes.write_text(recipes.read_text().replace("  methods:\n", f"  methods:\n{recipe}", 1))
    return Project(folder)


def test_a_method_is_its_file_and_its_test():
    assert [block["path"] for block in BLOCK.finditer(PAGE)] == ["kdcore/methods/afd.py", "tests/test_afd.py"]


@pytest.mark.slow
def test_its_tests_and_style_pass(followed):
    followed.run(sys.executable, "-m", "pytest", "-q", "tests/test_afd.py")
    files = ["kdcore/methods/afd.py", "tests/test_afd.py"]
    followed.run("ruff", "check", *files)
    followed.run("ruff", "format", "--check", *files)


def test_it_is_listed_with_its_values(followed):
    listed = followed.run(sys.executable, "-m", "stages.methods")
    assert "afd" in listed
    assert "embedding = 128 (integer >= 1)" in listed
    assert "arXiv:2102.02973" in listed


@pytest.mark.slow
@pytest.mark.pipeline
def test_it_trains_in_every_form(followed, project):
    """In the project whose tiny matrix has been run, its cells are all that is new, sums included."""
    for file in ("kdcore/methods/afd.py", "data/recipes.yaml"):
        shutil.copy(followed.folder / file, project.folder / file)
    baselines = yamlfile.read(project.folder / "params.yaml")["baselines"]
    project.set(methods=["kd", "dkd", "afd+kd"], baselines=[*baselines, "afd"], scales=[1, 2], stand=[False])
    ran = project.ran(project.sweep("--jobs", "2"))
    new = {f"train@resnet14-resnet8-afd+kd-{scale}-False-base-0" for scale in (1, 2)}
    new.add("baseline@resnet14-resnet8-afd-base-0")
    assert {name for name in ran if name.startswith(("train@", "baseline@", "teacher@"))} == new
    table = (project.folder / "tables/digits.md").read_text()
    assert "| AFD " in table
    assert "| AFD+KD + SDD [1,2]" in table


def listing(*names):
    return subprocess.run(
        [sys.executable, "-m", "stages.methods", *names], cwd=ROOT, check=False, capture_output=True, text=True
    )


def test_every_method_is_in_the_list_by_kind():
    """And no line is wider than 100 columns."""
    listed = listing().stdout
    by_kind = dict(zip(catalog.KINDS, listed.split("Feature methods, for section baselines"), strict=True))
    for entry in catalog.methods().values():
        assert re.search(rf"^{entry.name}$", by_kind[entry.kind], re.MULTILINE), entry.name
    assert max(map(len, listed.splitlines())) <= 100


@pytest.mark.parametrize(("name", "remarks"), [
    ("kd", []),
    ("mlkd", ["relates the images of a batch", "trained on weak and strong views of each image"]),
    ("catkd", ["gives the student another end", "needs a final feature map, a linear classifier"]),
    ("simkd", ["published without cross-entropy", "gives the student another end",
               "needs a final feature map, a linear classifier"]),
    ("revision", ["relates the images of a batch", "its loss contains cross-entropy"]),
    ("ofd", ["needs feature maps before their ReLU"]),
])  # fmt: skip
def test_the_list_says_what_is_special(name, remarks):
    """Each remark begins a line of its own, which may be folded."""
    about = " ".join(line.strip() for line in listing(name).stdout.partition("\n\n")[2].splitlines())
    special = re.match(r".*?((?: - [^=]+)?) \w+ = ", about)[1]
    assert special.split(" - ")[1:] == remarks


def test_list_of_some():
    listed = listing("crd+kd").stdout
    assert re.search(r"^crd$", listed, re.MULTILINE)
    assert "negatives = 16384 (integer >= 1)" in listed
    assert "reviewkd" not in listed
    unknown = listing("kdd")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: unknown method 'kdd'. Did you mean kd?")
