"""Fingerprints of source code, by which a cell knows when the code that determines its numbers has changed.

A fingerprint covers a module and everything that it imports from kdcore, except `NUMBERLESS`, and from the user's own
modules beside it: files and packages of the folder that holds kdcore. Ignored are comments, docstrings, formatting,
annotations, what a `raise` statement raises, and conditions that only raise: a finished cell never raised. Packages
count with the modules inside them, since Python runs them first; kdcore/__init__.py, which hands out what other modules
define, counts as if it were empty. Plug-ins (methods, networks and data sets) are loaded by name at run time, so they
are in nobody's imports and have fingerprints of their own; nothing else may load code by name.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from kdcore.system.errors import UserError
from kdcore.system.files import is_installed

PACKAGE = "kdcore"
ROOT = Path(__file__).parents[2]
PLUG_INS = ("kdcore.methods", "kdcore.networks", "kdcore.data.sources")
NUMBERLESS = {
    "kdcore.system": "errors, files and signals",
    "kdcore.catalog": "finds methods and networks, which have fingerprints of their own; a wrong keyword fails",
    "kdcore.methods.contract": "declares what methods get by keyword, and computes nothing",
    "kdcore.networks.contract": "declares what networks return by keyword, and computes nothing",
    "kdcore.networks.own_files": "finds files, whose checksums stand in the cards",
    "kdcore.checkpoints": "reads weights, which DVC compares by their bytes",
    "kdcore.state_dicts": "finds weights in what was read",
    "kdcore.matrix": "says what is computed; its values stand in the cards",
    "kdcore.fetch": "downloads files, which are compared by checksums",
    "kdcore.data.storage": "keeps arrays, which DVC compares by their bytes",
    "kdcore.training.finite": "ends a run or leaves it as it is",
    "kdcore.training.kept": "keeps what a method has computed, bit for bit",
    "kdcore.training.teacher_cache": "keeps what the teacher would say, bit for bit",
}
"""Modules and packages that change no number, and so count in no cell's fingerprint -> the reason."""

CHANGING = (
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "next",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
)
"""Calls that change the object which they are called on, or given; so do torch's methods that end in _."""


BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""The fields of statements that hold other statements."""
BLOCKED = (ast.Module, ast.stmt, ast.excepthandler, ast.match_case)


def fingerprint(module: str, *, only_network: str | None = None, everything: bool = False, root: Path = ROOT) -> str:
    """A hash of the statements of a module, and of all that it imports inside the package.

    Args:
        module: dotted name, e.g. "kdcore.methods.dkd".
        only_network: count this entry of the module's `NETWORKS` instead of the whole table, so that a new member
            of a family changes nothing for the others.
        everything: count modules that change no number too, for what is written as text.
        root: the folder that holds the package.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(module, root, everything=everything)):
        source = _source(name, root)
        if only_network and name == module:
            tree = _statements(ast.parse(source))
            _keep_network(tree, only_network)
            digest.update(f"{name} {_canonical(tree)}\n".encode())
        else:
            digest.update(f"{name} {_facts(source).statements}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str, root: Path = ROOT, *, everything: bool = False) -> set[str]:
    """The module and all modules of the package, or beside it, that it imports, directly or not, except `NUMBERLESS`.

    Args:
        module: dotted name.
        root: the folder that holds the package.
        everything: follow modules that change no number too.
    """
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached or (not everything and _is_numberless(name)):
            continue
        reached.add(name)
        waiting.extend(_imports(name, root, everything=everything))
        above = name
        while above := above.rpartition(".")[0]:
            if _path(above, root).is_file():
                waiting.append(above)
    return reached


def _is_numberless(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in NUMBERLESS)


def _path(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _source(module: str, root: Path) -> str:
    """The code of a module. That of `PACKAGE` itself is none: it imports for those who use kdcore as a library, and no
    cell uses what it hands out.
    """
    return "" if module == PACKAGE else _path(module, root).read_text(encoding="utf-8")


def _imports(module: str, root: Path, *, everything: bool) -> Iterator[str]:
    """Modules of the package, or beside it, that a module's counted code uses, or that it imports at all.

    Raises:
        UserError: it imports what cannot be followed.
    """
    facts = _facts(_source(module, root))
    for line, level, names in facts.imports:
        if level and module.split(".", maxsplit=1)[0] == PACKAGE:
            raise UserError(
                f"{_path(module, root)}, line {line}: relative imports are not followed, so it would not be noticed "
                "when what they import changes; name the whole module"
            )
        by_name = names == ("importlib",) or any(name.startswith("importlib.import") for name in names)
        if by_name and module not in PLUG_INS:
            raise UserError(
                f"{_path(module, root)}, line {line}: code that is loaded by name is not followed, so it would not be "
                "noticed when it changes; import it"
            )
    used = [name for _, _, names in facts.imports for name in names] if everything else facts.used
    package = module if _path(module, root).name == "__init__.py" else module.rpartition(".")[0]
    for name in used:
        try:
            full = resolve_name(name, package)
        except ImportError:  # above the top of the user's packages
            continue
        if (full.split(".")[0] == PACKAGE or _is_users(root)) and _path(full, root).is_file():
            yield full


@cache
def _is_users(root: Path) -> bool:
    """Whether the folder that holds the package is a project, and none of installed packages, which have versions."""
    return not is_installed(root) and not any(root.glob("*.dist-info"))


@dataclass(frozen=True)
class _Facts:
    """What a fingerprint needs to know of a file."""

    imports: tuple[tuple[int, int, tuple[str, ...]], ...]
    """Line, level and modules of every import statement."""
    used: tuple[str, ...]
    """The modules that its counted code uses."""
    statements: str
    """Its counted code, in a form that is the same in every Python."""


@cache
def _facts(source: str) -> _Facts:
    """Read a file once in a process, however many fingerprints it is a part of."""
    tree = ast.parse(source)
    imports = [
        (node.lineno, getattr(node, "level", 0), tuple(_named_modules(node))) for node in _import_statements(tree)
    ]
    counted = _statements(tree)
    used = tuple(name for node in _import_statements(counted) for name in _named_modules(node))
    return _Facts(tuple(imports), used, _canonical(counted))


def _import_statements(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """List the import statements of a file, those inside others too; expressions, most of a tree, hold none."""
    waiting = [tree]
    for node in waiting:
        for block in BLOCKS:
            waiting.extend(getattr(node, block, ()) if isinstance(node, BLOCKED) else ())
    return [node for node in waiting if isinstance(node, ast.Import | ast.ImportFrom)]


def _named_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import statement names, or may name: `from a import b` names a and perhaps a.b."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        return [base, *(f"{base}{'.' if node.module else ''}{name}" for name in names)] if names else []
    return names


def _statements(tree: ast.Module) -> ast.Module:
    """Leave in a file's syntax tree only what could change a number: without imports that only the rest needs, and with
    the others in one order.
    """
    tree = _Counted().visit(tree)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in _import_statements(tree):
        node.names = [
            alias for alias in node.names if {alias.name, alias.asname or alias.name.split(".")[0]} & {*used, "*"}
        ]
    imports = [part for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom)]
    others = [part for part in tree.body if not isinstance(part, ast.Import | ast.ImportFrom)]
    tree.body = sorted((part for part in imports if part.names), key=_canonical) + others
    return tree


class _Counted(ast.NodeTransformer):
    """Removes from a syntax tree what changes no number of a cell that ends without an error."""

    def __init__(self) -> None:
        self.tries = 0
        """How many `try` blocks surround the statement: a check in one may decide what is computed."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(getattr(node, "body", None), list) and not node.body:  # type: ignore[attr-defined]
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings, and texts below names."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep that an error is raised; and which one, only where it may be caught."""
        return self.generic_visit(node) if self.tries else ast.Raise()

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Drop checks that only raise, and imports for type checkers."""
        if ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse:
            return None
        only_raises = all(isinstance(part, ast.Raise) for part in node.body) and not node.orelse
        return None if only_raises and not self.tries and not _acts(node.test) else self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """Keep the checks of a block whose errors may be caught."""
        self.tries += 1
        self.generic_visit(node)
        self.tries -= 1
        return node

    def visit_TryStar(self, node: ast.AST) -> ast.AST:
        """Keep the checks of a block whose errors may be caught in groups (Python 3.11 and later)."""
        self.tries += 1
        self.generic_visit(node)
        self.tries -= 1
        return node

    def visit_With(self, node: ast.With) -> ast.AST:
        """Keep the checks of a block whose errors `suppress` may catch."""
        catches = any("suppress" in ast.unparse(item.context_expr) for item in node.items)
        self.tries += catches
        self.generic_visit(node)
        self.tries -= catches
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Drop annotations, but keep the names of declarations: their order is that of a dataclass's arguments."""
        if node.value is None:
            return ast.Expr(node.target)
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value, type_comment="declared"))

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Drop the annotation of an argument."""
        return ast.arg(arg=node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drop the annotation of what a function returns."""
        node.returns = None
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Drop the empty parts that Python 3.12.0 and 3.12.1 add to formatted texts."""
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return self.generic_visit(node)


def _acts(test: ast.expr) -> bool:
    """Whether a condition may do more than look: it assigns, changes an object in place, or draws."""
    calls = [part for part in ast.walk(test) if isinstance(part, ast.Call)]
    names = [ast.unparse(call.func).rpartition(".")[2] for call in calls]
    draws = any(keyword.arg == "generator" for call in calls for keyword in call.keywords)
    return (
        draws
        or any(isinstance(part, ast.NamedExpr) for part in ast.walk(test))
        or any(name in CHANGING or name.endswith("_") or name.startswith("rand") for name in names)
    )


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


def _keep_network(tree: ast.Module, network: str) -> None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NETWORKS":
            node.value = ast.Constant(repr(ast.literal_eval(node.value)[network]))
