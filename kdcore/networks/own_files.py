"""Find the files of the user's own that a module needs, so that an edit of any of them is noticed."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kdcore.system.files import is_installed

PACKAGE = __name__.partition(".")[0]
STANDARD = Path(sysconfig.get_paths()["stdlib"])


def own_files(*modules: str) -> dict[str, Path]:
    """Find the files of modules, and those that they import, directly or not, and that are neither installed packages'
    (which have versions), nor Python's own, nor kdcore's (which have fingerprints). Nothing is imported for that.

    Args:
        modules: dotted names. They are imported already, with all that they import at their top.

    Returns:
        Dotted name -> file. Code that is loaded by name, or from no file, is not among them.
    """
    found: dict[str, Path] = {}
    waiting = [name for module in modules for name in _with_packages(module)]
    for name in waiting:
        file = None if name in found else _file_of(name)
        if file is not None and (name in modules or _is_own(name, file)):
            found[name] = file
            waiting += _imports(name, file)
    return found


def _is_own(name: str, file: Path) -> bool:
    is_ours = f"{name}.".startswith((f"{PACKAGE}.", "__main__."))
    return not (is_ours or is_installed(file) or STANDARD in file.parents)


def _with_packages(name: str) -> Iterator[str]:
    """A module, and the packages that it is in, which Python runs first."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file_of(name: str) -> Path | None:
    """The file of a module; None where there is none, as where `from a import b` names a function b."""
    above, _, last = name.rpartition(".")
    if name in sys.modules:
        places = [getattr(sys.modules[name], "__file__", None)]
    elif above:
        places = [folder / place for folder in _folders(above) for place in (f"{last}/__init__.py", f"{last}.py")]
    else:
        spec = importlib.util.find_spec(name)
        places = [None if spec is None else spec.origin]
    files = (Path(place) for place in places if place is not None)
    return next((file for file in files if file.suffix == ".py" and file.is_file()), None)


def _folders(package: str) -> list[Path]:
    """Where the modules of a package are; nowhere if it is none."""
    above, _, last = package.rpartition(".")
    if package in sys.modules:
        found = getattr(sys.modules[package], "__path__", [])
    elif above:
        found = [folder / last for folder in _folders(above)]
    else:
        spec = importlib.util.find_spec(package)
        found = (spec and spec.submodule_search_locations) or []
    return [Path(folder) for folder in found]


def _imports(name: str, file: Path) -> Iterator[str]:
    """The modules that a file imports, or may import, and the packages that they are in."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a file that is only imported in a function which never runs
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top, as where a file serves as a module of a package and alone
                continue
            named = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for one in named:
            yield from _with_packages(one)
