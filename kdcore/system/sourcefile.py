"""Read Python files without importing them: their literals, and what their functions take."""

import ast
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kdcore.system.errors import UserError


def parsed(path: Path) -> ast.Module:
    """Parse a file; a syntax error is the user's."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error


def read_literals(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Read the values that a file gives to these names at its top level; names that it lacks are left out.

    Raises:
        UserError: a value is no literal.
    """
    return literals_of(parsed(path), path, names)


def literals_of(tree: ast.Module, path: Path, names: Collection[str]) -> dict[str, Any]:
    """Do what `read_literals` does, with a file that is parsed already."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in names:
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError as error:
                    raise UserError(f"{path}, line {node.lineno}: {target.id} must be a literal") from error
    return found


def keywords(node: Any) -> tuple[set[str], set[str]]:
    """List the keyword-only arguments of a function, and those of them without a default."""
    if not isinstance(node, ast.FunctionDef):
        return set(), set()
    names = [argument.arg for argument in node.args.kwonlyargs]
    defaults = dict(zip(names, node.args.kw_defaults, strict=True))
    return set(names), {name for name, default in defaults.items() if default is None}


def takes(node: Any, count: int) -> bool:
    """Whether a function may be called with so many positional arguments."""
    most, optional = len(node.args.posonlyargs) + len(node.args.args), len(node.args.defaults)
    return most - optional <= count and (most >= count or node.args.vararg is not None)


def functions_of(tree: ast.Module, name: str) -> set[str]:
    """List the names of the functions that a class of a file defines; empty where there is no such class."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name for found in classes for node in found.body if isinstance(node, ast.FunctionDef)}
