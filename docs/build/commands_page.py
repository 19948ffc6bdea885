"""The page that lists every command with its options, read from the scripts without importing them."""

import ast
import importlib
import re
from pathlib import Path

from words import plain

ROOT = Path(__file__).parents[2]
INTRODUCTION = """# Commands

Made from the Makefile and from the scripts in `stages/`. [Day by day](../day-by-day.md) says which one to use when,
[environment variables](../environment.md) what a machine can set. All but `make` assume `source .venv/bin/activate`.

| exit code | means |
|:--|:--|
| 0 | done |
| 1 | a run failed by itself |
| 2 | bad input, or a folder that may not be written; nothing was done |
| 70 | an error that nobody foresaw |
| 71 | memory did not suffice |
| 74 | the disk is full |
| 128 and more | a signal ended it |
"""
OPTIONS_IN = {"sweep": ["kdcore/sweep/cli.py"], "tune": ["kdcore/sweep/cli.py:add_workers"]}
"""Command -> the file, or a function in it, that has its options, where its script does not."""


def render() -> str:
    """Write the page in Markdown."""
    parts = [INTRODUCTION, "## make\n", "| target | does |\n|:--|:--|"]
    for target, about in re.findall(r"^([a-z-]+):.*?## (.*)$", _read("Makefile"), re.MULTILINE):
        parts.append(f"| `make {target}` | {about} |")
    commands, of_pipeline = ["\n## python -m stages\n"], ["## Stages of the pipeline\n", OF_PIPELINE]
    for path in sorted((ROOT / "stages").glob("[a-z]*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if about.startswith(("Stage ", "Stages ")) and "--" not in about:
            of_pipeline.append(f"| `{path.stem}` | {plain(about.partition(': ')[2])} |")
        else:
            heading = f"### `python -m stages.{path.stem}` {{ #{path.stem} }}\n"
            commands += [heading, f"{plain(about)}\n", _options(path.stem)]
    return "\n".join([*parts, *commands, *of_pipeline]) + "\n"


OF_PIPELINE = "DVC and sweeps call these scripts; `dvc.yaml` says when.\n\n| script | does |\n|:--|:--|"


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _options(command: str) -> str:
    lines = []
    for place in [f"stages/{command}.py", *OPTIONS_IN.get(command, [])]:
        path, _, function = place.partition(":")
        tree = ast.parse(_read(path))
        scope = next((node for node in tree.body if getattr(node, "name", None) == function), tree)
        for call in ast.walk(scope):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
                names = ", ".join(f"`{_text(name, tree)}`" for name in call.args)
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                lines.append(
                    f"| {names} | {plain(_text(given['help'], tree)) if 'help' in given else ''}{_default(given)} |"
                )
    return "\n".join(["| option | says |", "|:--|:--|", *lines, ""]) if lines else ""


def _default(given: dict[str | None, ast.expr]) -> str:
    """Say what is there without the option, where that is a plain value which the help does not name."""
    default = given.get("default")
    is_said = "default" in ast.unparse(given["help"]) if "help" in given else False
    if not isinstance(default, ast.Constant) or default.value is None or is_said:
        return ""
    return f" (default: `{default.value!s}`)"


def _text(node: ast.expr, tree: ast.Module) -> str:
    """What an expression of a text is: a literal, a constant of this module or of another one, or a mixture of them."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.FormattedValue) else part for part in node.values)
        return "".join(_text(part, tree) for part in parts)
    if isinstance(node, ast.Name):
        assigned = (part for part in tree.body if isinstance(part, ast.Assign) and _names(part.targets[0], node.id))
        return str(ast.literal_eval(next(assigned).value))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return str(getattr(importlib.import_module(_module(node.value.id, tree)), node.attr))
    raise ValueError(f"{ast.unparse(node)}: the page of commands cannot tell this text; make it a constant")


def _names(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _module(name: str, tree: ast.Module) -> str:
    """The dotted name of what a module imports under a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return f"{node.module}.{name}"
    raise ValueError(f"{name} is not imported")
