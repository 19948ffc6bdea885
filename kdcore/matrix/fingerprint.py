"""Fingerprints of source code, by which a cell knows when the code that determines it has changed.

A fingerprint covers a module and, followed through its imports inside kdcore, every module that it uses. Only
statements count: comments, docstrings and formatting do not. Packages count with the modules inside them, since Python
runs them first. Plug-ins (methods and networks) are loaded by name at run time, so they are in nobody's imports and
have fingerprints of their own; nothing else may load code by name.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "kdcore"
ROOT = Path(__file__).parents[2]


PLUG_INS = ("kdcore.methods", "kdcore.networks", "kdcore.data.sources")


def fingerprint(module: str, *, only_network: str | None = None, follow: bool = True, root: Path = ROOT) -> str:
    """Hash of the statements of a module and of all that it imports inside the package.

    Args:
        module: dotted name, e.g. "kdcore.methods.dkd".
        only_network: count this entry of the module's `NETWORKS` instead of the whole table, so that a new member
            of a family changes nothing for the others.
        follow: whether to count what the module imports.
        root: the folder that holds the package.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(module, root)) if follow else [module]:
        tree = _statements(_path(name, root))
        if only_network and name == module:
            _keep_network(tree, only_network)
        digest.update(f"{name} {_canonical(tree)}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str, root: Path = ROOT) -> set[str]:
    """The module and all modules of the package that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name, root))
            if "." in name:
                waiting.append(name.rpartition(".")[0])
    return found


def _path(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _imports(module: str, root: Path) -> Iterator[str]:
    """Modules of the package that a module's import statements name."""
    for node in ast.walk(ast.parse(_path(module, root).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{module}, line {node.lineno}: relative imports are not followed; name {PACKAGE}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        by_name = any(name == "importlib" or name.startswith("importlib.import") for name in names)
        if by_name and module not in PLUG_INS:
            raise ValueError(f"{module}, line {node.lineno}: code loaded by name is not followed; import it")
        yield from (name for name in names if name.split(".")[0] == PACKAGE and _path(name, root).is_file())


def _statements(path: Path) -> ast.Module:
    """A file's syntax tree without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
        elif isinstance(node, ast.JoinedStr):  # Python 3.12.0 and 3.12.1 add empty parts
            node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return tree


def _canonical(node: object) -> str:
    """A syntax tree as text that is the same in every Python: fields that are empty are left out, for later versions
    add such fields.
    """
    if isinstance(node, ast.AST):
        fields = (f"{name}={_canonical(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(part) for part in node)}]"
    return repr(node)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _keep_network(tree: ast.Module, network: str) -> None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == "NETWORKS":
                node.value = ast.Constant(repr(ast.literal_eval(node.value)[network]))
