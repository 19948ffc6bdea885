"""What the project knows, read from its sources without importing them (so without importing torch).

A file in `kdcore/networks` offers the networks named by its literal `NETWORKS`; a file in `kdcore/methods` is one
method, with literals `KIND` and `PARAMETERS`. Adding a network or a method is adding such a file, nothing else.
"""

import ast
import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdcore.errors import UserError

PACKAGE = Path(__file__).parent
KINDS = ("logit", "feature")
DOMAINS = ("> 0", ">= 0")
VANILLA = "vanilla"
"""The baseline that distils nothing: the student trained alone."""


@dataclass(frozen=True)
class MethodEntry:
    """One file of `kdcore/methods`."""

    name: str
    kind: str
    """ "logit": takes any M and stand. "feature": takes neither."""
    parameters: dict[str, str | list[str]]
    """Per keyword of its loss the values allowed: "> 0", ">= 0" or a list of choices."""

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
    """Keywords of the file's `build`."""


@cache
def methods() -> dict[str, MethodEntry]:
    """All distillation methods by name."""
    entries = {}
    for path in _sources("methods"):
        literals = _literals(path)
        parameters = literals.get("PARAMETERS")
        if literals.get("KIND") not in KINDS or not isinstance(parameters, dict):
            raise UserError(f"{path}: a method needs KIND, one of {', '.join(KINDS)}, and PARAMETERS, a dictionary")
        for name, domain in parameters.items():
            if domain not in DOMAINS and not isinstance(domain, list):
                raise UserError(f"{path}: PARAMETERS[{name!r}] is {domain!r}. Allowed: {DOMAINS} or a list of choices")
        entries[path.stem] = MethodEntry(path.stem, literals["KIND"], literals["PARAMETERS"])
    return entries


@cache
def networks() -> dict[str, NetworkEntry]:
    """All networks by canonical name."""
    entries: dict[str, NetworkEntry] = {}
    for path in _sources("networks"):
        module = f"kdcore.networks.{path.stem}"
        for name, arguments in _literals(path).get("NETWORKS", {}).items():
            if name in entries:
                raise UserError(f"{path}: network {name!r} is offered by {entries[name].module} already")
            entries[name] = NetworkEntry(name, module, arguments)
    return entries


def check_known(name: object, known: list[str], what: str) -> None:
    """Raise a ValueError that suggests the nearest known name and lists all, unless the name is known."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}.{hint} Allowed: {', '.join(known)}")


def check_pair(pair: object) -> None:
    """Raise a ValueError unless this is teacher-student, two known networks."""
    if not isinstance(pair, str) or pair.count("-") != 1:
        raise ValueError(f"{pair!r} must be teacher-student with exactly one '-', e.g. resnet56-resnet20")
    for network in pair.split("-"):
        check_known(network, list(networks()), "network")


def logit_methods() -> list[str]:
    """Names that `methods` of params.yaml may hold."""
    return [entry.name for entry in methods().values() if entry.kind == "logit"]


def baselines() -> list[str]:
    """Names that `baselines` of params.yaml may hold."""
    return [VANILLA, *(entry.name for entry in methods().values() if entry.kind == "feature")]


def _sources(package: str) -> list[Path]:
    return sorted(path for path in (PACKAGE / package).glob("*.py") if not path.name.startswith("_"))


def _literals(path: Path) -> dict[str, Any]:
    """What a file binds to KIND, PARAMETERS and NETWORKS at its top level."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in ("KIND", "PARAMETERS", "NETWORKS"):
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError as error:
                    raise UserError(f"{path}, line {node.lineno}: {target.id} must be a literal") from error
    return found
