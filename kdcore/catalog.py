"""The methods, networks and scales that a params file may name, read from the sources without importing torch.

A file in `kdcore/networks` offers the networks named by its literal `NETWORKS`; a file in `kdcore/methods` is one
method, with literals `KIND` and `PARAMETERS`. Adding a network or a method is adding such a file, nothing else.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdcore.system.errors import UserError, shown, suggest

PACKAGE = Path(__file__).parent
KINDS = ("logit", "feature")
DOMAINS = ("> 0", ">= 0", ">= 1", "[0, 1)", "integer >= 1")
CHOICES: dict[str, list[Any]] = {
    "ACROSS": ["samples", "batch"],
    "VIEWS": [["weak"], ["weak", "strong"]],
    "DECOUPLINGS": [["sdd"], ["sdd", "fusion_as_published"]],
}
"""Optional literals of a method's file and their values. The first value is the default; a feature method may set
ACROSS alone.
"""
LITERALS = ("KIND", "PARAMETERS", *CHOICES, "NETWORKS")
COMMON = {"ce_weight": ">= 0", "kd_weight": ">= 0", "warmup": ">= 0"}
"""Hyper-parameters of every method: the weights of cross-entropy and of its loss, and the epochs over which the latter
rises.
"""
DECOUPLED = ("complementary_weight", "decoupling")
"""Hyper-parameters of per-sample logit methods where the scale has more than the global region (`kdcore.scales`)."""
COLUMNS = ("epoch", "lr", "loss", "ce", "train_top1", "test_top1")
"""Columns of every training history, beside one per method."""
VANILLA = "vanilla"
"""The baseline that distils nothing: the student trained alone."""
NAME = re.compile("[a-z][a-z0-9_]*")
"""Pattern of the names of methods, networks and data sets."""
PLUS = "+"
"""Joins the terms of a sum, such as crd+kd."""
PYRAMIDS: dict[int, tuple[int, ...]] = {1: (1,), 2: (1, 2), 4: (1, 2, 4)}
"""Scale that is a number -> its pyramid levels; level m cuts a map into m x m regions."""


@dataclass(frozen=True)
class MethodEntry:
    """One file of `kdcore/methods`."""

    name: str
    kind: str
    """ "logit": takes any M and stand. "feature": takes neither."""
    parameters: dict[str, str | list[Any]]
    """Keyword of its loss, or of its adapter -> the values allowed: one of `DOMAINS`, or a list of choices."""
    across: str
    """ "samples": one loss per sample. "batch": its loss relates the samples of a batch."""
    views: tuple[str, ...]
    """How each image is shown to both networks: "weak" is the usual augmentation."""
    decouplings: tuple[str, ...]
    """How a loss per sample may be decoupled over regions: by SDD, or as published with mistakes (`kdcore.scales`)."""
    title: str
    """First paragraph of the file: name, authors, paper."""

    @property
    def module(self) -> str:
        """Dotted name of the file."""
        return f"kdcore.methods.{self.name}"


@dataclass(frozen=True)
class NetworkEntry:
    """One network of a file of `kdcore/networks`."""

    name: str
    module: str
    arguments: dict[str, Any]
    """Keyword arguments for the file's `build`."""


@cache
def methods() -> dict[str, MethodEntry]:
    """Find all distillation methods; returns name -> entry."""
    return {path.stem: _method(path) for path in _sources("methods")}


@cache
def networks() -> dict[str, NetworkEntry]:
    """Find all networks; returns canonical name -> entry."""
    entries: dict[str, NetworkEntry] = {}
    for path in _sources("networks"):
        module = f"kdcore.networks.{path.stem}"
        for name, arguments in _literals(path).get("NETWORKS", {}).items():
            _check_name(path, name)
            if name in entries:
                raise UserError(f"{path}: network {name!r} is offered by {entries[name].module} already")
            entries[name] = NetworkEntry(name, module, arguments)
    return entries


def terms(name: str) -> list[MethodEntry]:
    """List the methods that a name in the matrix stands for: none for vanilla, one, or those of a sum such as crd+kd.

    Raises:
        ValueError: an unknown name; a sum that names a method twice, or not the feature methods first, each kind by
            alphabet (so that no experiment has two names).
    """
    if name == VANILLA:
        return []
    known = methods()
    names = name.split(PLUS)
    for part in names:
        if part not in known and len(names) > 1:
            check_known(part, list(known), f"method in {shown(name)}:")
        check_known(part, [VANILLA, *known], "method")
    in_order = sorted(set(names), key=lambda part: (known[part].kind == "logit", part))
    if names != in_order:
        raise ValueError(
            f"{shown(name)} must be written {PLUS.join(in_order)}: feature methods first, each method once"
        )
    return [known[part] for part in names]


def kind(name: str) -> str:
    """ "logit" for a logit method and for a sum that has one among its terms, else "feature"; raises like `terms`."""
    return "logit" if any(entry.kind == "logit" for entry in terms(name)) else "feature"


def check_method(name: str, wanted: str) -> None:
    """Raise a ValueError unless the name is of this kind, "logit" or "feature"; vanilla counts as a feature method."""
    if PLUS not in name and name not in (VANILLA, *methods()):
        check_known(name, logit_methods() if wanted == "logit" else baselines(), "method")
    if kind(name) != wanted:
        if wanted == "logit":
            raise ValueError(f"{name!r} is no logit method and takes no scales and no stand; name it in baselines")
        raise ValueError(f"{name!r} is a logit method; name it in methods")


def check_known(name: object, known: list[str], what: str) -> None:
    """Raise a ValueError that suggests the nearest known name and lists all, unless the name is known."""
    if name not in known:
        raise ValueError(f"unknown {what} {shown(name)}.{suggest(name, known)} Allowed: {', '.join(known)}")


def check_pair(pair: object, teachers: Iterable[str] = ()) -> None:
    """Raise a ValueError unless this is teacher-student: a network, or one of these teachers, and a network.

    Args:
        pair: the value to check.
        teachers: names of teachers that may be no networks' names.
    """
    if not isinstance(pair, str) or pair.count("-") != 1:
        raise ValueError(f"{shown(pair)} must be teacher-student with exactly one '-', e.g. resnet56-resnet20")
    teacher, student = pair.split("-")
    named = [name for name in teachers if NAME.fullmatch(name)]
    check_known(teacher, [*networks(), *named], "network or teacher" if teachers else "network")
    check_known(student, list(networks()), "network")


def logit_methods() -> list[str]:
    """The single methods that `methods` of params.yaml may hold."""
    return [entry.name for entry in methods().values() if entry.kind == "logit"]


def baselines() -> list[str]:
    """The single methods that `baselines` of params.yaml may hold."""
    return [VANILLA, *(entry.name for entry in methods().values() if entry.kind == "feature")]


def _sources(package: str) -> list[Path]:
    folder = PACKAGE / package
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_") and path.stem != "contract")


def _check_name(path: Path, name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{path}: the name {shown(name)} goes into file names and command lines; take lower-case letters, digits "
            "and _, a letter first"
        )


def _method(path: Path) -> MethodEntry:
    _check_name(path, path.stem)
    literals = _literals(path)
    parameters = literals.get("PARAMETERS")
    if literals.get("KIND") not in KINDS or not isinstance(parameters, dict):
        raise UserError(f"{path}: a method needs KIND, one of {', '.join(KINDS)}, and PARAMETERS, a dictionary")
    for name, domain in parameters.items():
        if domain not in DOMAINS and not isinstance(domain, list):
            raise UserError(f"{path}: PARAMETERS[{name!r}] is {domain!r}. Allowed: {DOMAINS} or a list of choices")
    for name, allowed in CHOICES.items():
        of_all = literals["KIND"] == "logit" or name == "ACROSS"
        if literals.get(name, allowed[0]) not in allowed[: None if of_all else 1]:
            raise UserError(f"{path}: {name} is {literals[name]!r}. Allowed: {allowed}; feature methods have none")
    reserved = [name for name in parameters if name in (*COMMON, *DECOUPLED)]
    if reserved or path.stem in (*COLUMNS, VANILLA):
        raise UserError(f"{path}: the name {reserved[0] if reserved else path.stem} means something else; take another")
    across, views, decouplings = (literals.get(name, allowed[0]) for name, allowed in CHOICES.items())
    tree = _parsed(path)
    _check_code(path, tree, literals["KIND"], set(parameters), across)
    title = " ".join((ast.get_docstring(tree) or path.stem).split("\n\n")[0].split())
    return MethodEntry(path.stem, literals["KIND"], parameters, across, tuple(views), tuple(decouplings), title)


def _check_code(path: Path, tree: ast.Module, kind: str, parameters: set[str], across: str) -> None:
    """Refuse a method's file that lacks what it must define, or whose keywords are not its PARAMETERS."""
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    adapter = defined.get("Adapter")
    wanted = ["loss"] if kind == "logit" or adapter else ["loss", "distill"]
    for name in wanted:
        if name not in defined:
            instead = " (or a class Adapter)" if name == "distill" else ""
            raise UserError(f"{path}: a {kind} method needs a function {name}{instead}; see kdcore/methods/contract.py")
    called: ast.AST = defined[wanted[-1]]
    if isinstance(adapter, ast.ClassDef):
        called = next((node for node in adapter.body if getattr(node, "name", "") == "__init__"), adapter)
        if kind == "logit" and (across == "batch" or "standardize" in _keywords(defined["loss"])[0]):
            raise UserError(f"{path}: an Adapter goes with a logit loss of single samples that leaves stand to others")
    known, needed = _keywords(called)
    owner = getattr(called, "name", path.stem)
    wrong = sorted((parameters - known) | (needed - parameters - {"standardize"}))
    if wrong:
        raise UserError(
            f"{path}: PARAMETERS and the keyword arguments of {owner} must be the same, but "
            f"{', '.join(wrong)} is in one of them alone"
        )


def _keywords(node: Any) -> tuple[set[str], set[str]]:
    """List the keyword-only arguments of a function, and those of them without a default."""
    if not isinstance(node, ast.FunctionDef):
        return set(), set()
    names = [argument.arg for argument in node.args.kwonlyargs]
    defaults = dict(zip(names, node.args.kw_defaults, strict=True))
    return set(names), {name for name, default in defaults.items() if default is None}


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error


def _literals(path: Path) -> dict[str, Any]:
    """Read the values that a file gives to the names in `LITERALS` at its top level."""
    found = {}
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in LITERALS:
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError as error:
                    raise UserError(f"{path}, line {node.lineno}: {target.id} must be a literal") from error
    return found


def levels(scale: object) -> tuple[int, ...]:
    """List the pyramid levels that a scale names: 4 -> (1, 2, 4), "L1_4" -> (1, 4), "L2" -> (2,).

    Raises:
        ValueError: for anything but 1, 2, 4 or "L" and a rising, "_"-separated choice of them.
    """
    if isinstance(scale, int) and not isinstance(scale, bool) and scale in PYRAMIDS:
        return PYRAMIDS[scale]
    if isinstance(scale, str) and scale.startswith("L"):
        parts = scale[1:].split("_")
        if set(parts) <= {"1", "2", "4"} and parts == sorted(set(parts)):
            return tuple(int(part) for part in parts)
    raise ValueError(
        f"{shown(scale)} is no scale. Allowed: 1 for M=[1], 2 for M=[1,2], 4 for M=[1,2,4], "
        "or a rising set of levels such as L2, L4, L1_4"
    )
