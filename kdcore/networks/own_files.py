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


def own_files(module: str) -> dict[str, Path]:
    """Find the file of a module, and those that it imports, directly or not, and that are neither installed packages'
    (which have versions), nor Python's own, nor kdcore's (which have fingerprints).

    Args:
        module: dotted name. It is imported already, with all that it imports at its top.

    Returns:
        Dotted name -> file, the module's own first. Code that is loaded by name, or from no file, is not among them.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    for name in waiting:
        file = None if name in found else _file_of(name)
        if file is not None and (name == module or _is_own(name, file)):
            found[name] = file
            waiting += _imports(name, file)
    return found


def _is_own(name: str, file: Path) -> bool:
    return not (is_installed(file) or STANDARD in file.parents or f"{name}.".startswith(f"{PACKAGE}."))


def _file_of(name: str) -> Path | None:
    """The file of a module; None where there is no such module, as where `from a import b` names a function b."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, AttributeError, ValueError):  # what is above it is no package, or is not installed
            return None
        origin = spec.origin if spec is not None else None
    file = None if origin is None else Path(origin)
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def _imports(name: str, file: Path) -> Iterator[str]:
    """The modules that a file imports, or may import, and the packages that they are in."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            bases = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            bases = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for one in bases:
            parts = one.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
