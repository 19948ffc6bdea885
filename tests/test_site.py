"""The documentation as a site: it builds without a warning, names all that is public, and needs no other host."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from kdcore import catalog
from kdcore.matrix import params
from tests import chromium, reference
from tests.project import ROOT, copy_of_project

sys.path.append(str(ROOT / "docs/build"))
import draw
import params_page

NEEDED = ("mkdocs", "material", "mkdocstrings_handlers.python")
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
PAGES = (
    "index", "start", "concepts", "params", "adding-a-method", "reference/params", "reference/methods",
    "reference/commands", "reference/api", "results/run", "files/params.yaml",
)  # fmt: skip
SECONDS = 30
TAGS = """
a article b blockquote body br button code div em footer form h1 h2 h3 h4 h5 h6 head header hr html i img input label li
link main meta nav ol p path pre script small span strong sub sup svg table tbody td th thead title tr ul
"""
"""What pages are made of. Another one is a text, such as <name>, that was taken for a tag and is not seen."""
SOURCES = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
"""Tag -> the attribute that names a file which a page loads by itself."""


@pytest.mark.parametrize("name", draw.PICTURES)
def test_pictures_are_as_they_are_drawn(name):
    """After a change of docs/build/draw.py: run it."""
    assert (ROOT / "docs/images" / name).read_text() == draw.PICTURES[name]()


def test_every_key_has_a_meaning():
    """A key without a text below its field stops the page."""
    page = params_page.render()
    assert set(re.findall(r"^\| `([\w<>.]+)` \|", page, re.MULTILINE)) - {"<method>", "..."} == params_page.keys()
    assert {*params.Params.model_fields} <= params_page.keys()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and how long it took."""
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        lacks = f"make docs installs {', '.join(missing)}"
        pytest.fail(lacks) if reference.REQUIRED else pytest.skip(lacks)
    folder = tmp_path_factory.mktemp("site")
    begun = os.times().children_user
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    assert os.times().children_user - begun < SECONDS
    return folder


def build(project, folder):
    """As `make docs` does. Never with --quiet, which keeps --strict from seeing warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def _is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


class Page(HTMLParser):
    """What a test needs of a page: texts, anchors, and what it loads by itself."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.ids, self.loaded, self.tags = [], set(), [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids.add(given.get("id"))
        if given.get(SOURCES.get(tag)):
            self.loaded.append(given[SOURCES[tag]])

    def handle_data(self, data):
        self.texts.append(data.strip())


def page(site, name):
    return Page((site / f"{name}.html").read_text(encoding="utf-8"))


@pytest.mark.slow
class TestBuilt:
    def test_every_key_of_params_stands_on_its_page(self, site):
        shown = page(site, "reference/params")
        assert params_page.keys() <= set(shown.texts)
        assert {*params_page.TITLES} <= shown.ids

    def test_every_method_stands_on_its_page(self, site):
        shown = page(site, "reference/methods")
        text = " ".join(shown.texts)
        for entry in catalog.methods().values():
            assert entry.name in shown.ids
            assert f"{entry.module}.loss(" in text
            assert all(f" {parameter} " in text for parameter in entry.parameters)

    def test_every_command_and_option_stands_on_its_page(self, site):
        shown = page(site, "reference/commands")
        for path in (ROOT / "stages").glob("[a-z]*.py"):
            assert {path.stem, f"python -m stages.{path.stem}"} & set(shown.texts), path
            options = re.findall(r'add_argument\("(-[\w-]+)"', path.read_text())
            assert set(options) <= set(shown.texts), path
        assert {"--cluster", "--slots-per-gpu", "make docs"} <= set(shown.texts)

    def test_every_environment_variable_stands_on_its_page(self, site):
        sources = [*ROOT.glob("kdcore/**/*.py"), *ROOT.glob("stages/*.py")]
        read = {name for path in sources for name in re.findall(r"\bKDCORE_[A-Z_]+\b", path.read_text())}
        assert read <= set(page(site, "environment").texts)

    def test_the_library_stands_on_its_page(self, site):
        names = {"kdcore.objective.build", "kdcore.scales.decouple", "kdcore.standardize.standardize"}
        assert names | {"kdcore.networks.create"} <= page(site, "reference/api").ids

    def test_nothing_is_loaded_from_another_host(self, site):
        pages = [*site.rglob("*.html")]
        assert len(pages) > 30
        for path in pages:
            shown = Page(path.read_text(encoding="utf-8"))
            assert [name for name in shown.loaded if re.match(r"(\w+:)?//", name)] == [], path
            assert path.name == "report.html" or shown.tags <= set(TAGS.split()), path
        for path in site.rglob("*.css"):
            named = re.findall(r"""(?:@import|url\()\s*["']?([^"')]+)""", path.read_text(encoding="utf-8"))
            assert [name for name in named if re.match(r"(\w+:)?//", name)] == [], path

    def test_it_stops_at_broken_links_and_pages_that_the_menu_lacks(self, site, tmp_path):
        copy_of_project(tmp_path)
        shutil.copytree(ROOT / "tables", tmp_path / "tables")
        text = "# Forgotten\n\n[a](nowhere.md) [b](params.md#nothing) [c](../nothing.py)\n"
        (tmp_path / "docs/forgotten.md").write_text(text)
        built = build(tmp_path, tmp_path / "site")
        assert built.returncode == 1
        for said in ("forgotten.md", "nowhere.md", "#nothing", "nothing.py"):
            assert re.search(rf"WARNING.*{re.escape(said)}|^ +- {said}", built.stderr, re.MULTILINE), said

    def test_the_run_has_its_page_and_figures(self, site):
        assert (site / "results/report.html").read_bytes() == (ROOT / "tables/report.html").read_bytes()
        assert "KD + SDD [1,2] + stand" in page(site, "results/run").texts
        assert len([*site.glob("results/figures/*.png")]) >= 3


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """Chromium, which opens the site's files."""
    with chromium.driven(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def seen_as(browser, scheme, width="wide"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    across, down = WIDTHS[width]
    metrics = {"width": across, "height": down, "deviceScaleFactor": 1, "mobile": width == "narrow"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize(("scheme", "width"), [("light", "wide"), ("dark", "narrow")])
    def test_pages_open_without_an_error_and_fit(self, site, browser, scheme, width):
        seen_as(browser, scheme, width)
        for name in PAGES:
            browser.get((site / f"{name}.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= WIDTHS[width][0], name
            assert browser.get_log("browser") == [], name
            loaded = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
            assert [one for one in loaded if not one.startswith("file:")] == []
            shown = browser.execute_script("return document.body.getAttribute('data-md-color-scheme')")
            assert shown == {"light": "default", "dark": "slate"}[scheme]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_pictures_follow_the_page(self, site, browser, scheme):
        """A reader may choose a dark page on a light system; a picture asks the page, by `color-scheme`."""
        seen_as(browser, scheme)
        browser.get((site / "concepts.html").as_uri())
        said = "return getComputedStyle(document.querySelector('img[src$=\"regions.svg\"]')).colorScheme"
        assert browser.execute_script(said) == scheme

    def test_the_search_finds_a_page_of_a_file(self, site, browser):
        """Workers, which the search runs in, do not start from files."""
        from selenium.webdriver.support.wait import WebDriverWait

        seen_as(browser, "light")
        browser.get((site / "start.html").as_uri())
        browser.execute_script("document.querySelector('[data-md-component=search-query]').focus()")
        browser.switch_to.active_element.send_keys("milestones")
        results = "return [...document.querySelectorAll('.md-search-result__link')].map((link) => link.href).join()"
        WebDriverWait(browser, 10).until(lambda _: "params.html" in browser.execute_script(results))
        assert browser.get_log("browser") == []


def test_a_job_by_a_plain_script_is_the_sweep(tmp_path):
    """The script of docs/cluster.md runs in the folder that it was submitted from, and becomes the sweep itself."""
    (script,) = re.findall(r"```bash\n(#!.*?sweep --slots.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "python").write_text('#!/bin/sh\necho "$PPID $PWD $*"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={tmp_path}:$PATH\n")
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)}
    ran = subprocess.run(
        [shutil.which("bash"), "-c", script], env=environment, capture_output=True, text=True, check=True, cwd="/"
    )
    assert ran.stdout.split(maxsplit=1) == [str(os.getpid()), f"{tmp_path} -m stages.sweep --slots-per-gpu 2\n"]
