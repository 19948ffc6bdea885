"""What MkDocs calls while it builds the site (mkdocs.yml): pages are added that no file in docs/ holds, and links are
led to where their targets stand on the site.

The files in docs/ are written for a git host, and link to files outside docs/. The site has a copy of each of these.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import api_page
import commands_page
import methods_page
import params_page
import results_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
GENERATED = {
    "reference/params.md": params_page.render,
    "reference/methods.md": methods_page.render,
    "reference/commands.md": commands_page.render,
    "reference/api.md": api_page.render,
    "results/run.md": results_page.render,
}
"""Page of the site -> the function that writes its Markdown."""
MOVED = {
    "README.md": "README.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tables/digits.md": "results/run.md",
    "tables/report.html": "results/report.html",
}
"""File of the repository -> its place on the site, where that is not below `COPIES`. The README's is the first page."""
COPIES = "files"
LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")
BLOCK = re.compile(r"^( *)(`{3,}).*?^\1\2`*$", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml"}
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
_came_from: dict[str, str] = {}
"""Page of the site -> the file of the repository that it shows, for links that are relative to it."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages, and a copy of every file that a page links to."""
    _came_from.clear()
    _came_from.update({file.src_uri: f"docs/{file.src_uri}" for file in files if file.is_documentation_page()})
    for uri, render in GENERATED.items():
        files.append(File.generated(config, uri, content=render()))
    for source in ("CONTRIBUTING.md", "CHANGELOG.md", "tables/report.html"):
        _add(files, config, source)
    for picture in sorted(ROOT.glob("tables/figures/*.png")):
        files.append(File.generated(config, f"results/figures/{picture.name}", content=picture.read_bytes()))
    waiting = list(_came_from)
    for uri in waiting:
        known = files.get_file_from_path(uri)
        for target in _targets(known.content_string if known else "", _came_from[uri]):
            if files.get_file_from_path(_place(target)) is None and (ROOT / target).is_file():
                waiting += _add(files, config, target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the places of their targets on the site. Links in blocks of code are text."""
    uri = page.file.src_uri
    source = _came_from.get(uri)
    if source is None:
        return markdown

    def led(link: re.Match[str]) -> str:
        place = _place(posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"])))
        return f"]({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{link['anchor'] or ''})"

    return _outside_code(markdown, lambda text: LINK.sub(led, text))


def _outside_code(markdown: str, change: Any) -> str:
    """Apply a function to what lies between blocks of code."""
    parts, end = [], 0
    for block in BLOCK.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def _targets(markdown: str, source: str) -> list[str]:
    """List the files of the repository that a page links to."""
    found: list[str] = []

    def note(text: str) -> str:
        found.extend(link["path"] for link in LINK.finditer(text))
        return text

    _outside_code(markdown, note)
    return [posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) for path in found]


def _place(source: str) -> str:
    """Where a file of the repository stands on the site."""
    if source in MOVED or (source.startswith("docs/") and not source.startswith("docs/build/")):
        return MOVED.get(source) or source.removeprefix("docs/")
    return f"{COPIES}/{source}" if source.endswith(".md") else f"{COPIES}/{source}.md"


def _add(files: Files, config: MkDocsConfig, source: str) -> list[str]:
    """Add a copy of a file: Markdown as a page of its own, a page as it is, other texts as a block of code.

    Returns:
        The pages whose links lead on.
    """
    place, text = _place(source), (ROOT / source).read_text(encoding="utf-8")
    if source.endswith(".md"):
        files.append(File.generated(config, place, content=text))
        _came_from[place] = source
        return [place]
    if not place.endswith(".html"):
        fence = "`" * (2 + max((len(run) for run in re.findall("`+", text)), default=1) or 3)
        text = f"{HIDDEN}# {source}\n\n{fence}{LANGUAGES.get(Path(source).suffix, '')}\n{text}\n{fence}\n"
    files.append(File.generated(config, place, content=text))
    return []
