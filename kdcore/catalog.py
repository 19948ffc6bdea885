"""The methods, networks and scales that a params file may name, read from the sources without importing torch.

A file in `kdcore/networks` offers the networks named by its literal `NETWORKS`; a file in `kdcore/methods` is one
method, with literals `KIND` and `PARAMETERS`. Adding a network or a method is adding such a file, nothing else.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.sourcefile import functions_of, keywords, literals_of, parsed, read_literals, takes

PACKAGE = Path(__file__).parent
KINDS = ("logit", "feature")
DOMAINS = ("> 0", ">= 0", ">= 1", "[0, 1)", "[0, 1]", "integer >= 1")
CHOICES: dict[str, list[Any]] = {
    "ACROSS": ["samples", "batch"],
    "VIEWS": [["weak"], ["weak", "strong"]],
    "DECOUPLINGS": [["sdd"], ["sdd", "fusion_as_published"]],
    "CROSS_ENTROPY": ["beside", "inside", "none"],
}
"""Optional literals of a method's file and their values. The first value is the default; a feature method may set
ACROSS and CROSS_ENTROPY alone.
"""
OF_ALL = ("ACROSS", "CROSS_ENTROPY")
TARGETS = ("soft", "dominant", "refused")
PARTS = {
    "stages": "feature maps of stages",
    "preacts": "feature maps before their ReLU",
    "final_map": "a final feature map",
    "classifier": "a linear classifier",
}
"""What a network may lack (LACKS in its file), and a method may need (NEEDS in its file), beside the logits and the
pooled vector that every network has.
"""
ROLES = ("student", "teacher")
LITERALS = (
    *("KIND", "PARAMETERS", *CHOICES, "TARGET", "NEEDS", "NEEDS_WITH", "LEAST_STAGES"),
    *("NETWORKS", "LACKS", "IMAGE_SIZE"),
)
COMMON: dict[str, str | list[Any]] = {
    "ce_weight": ">= 0",
    "kd_weight": ">= 0",
    "warmup": ">= 0",
    "schedule": ["constant", "cosine", "steps"],
    "decay_from": "[0, 1)",
}
"""Hyper-parameters of every method: the weights of cross-entropy and of its loss, the epochs over which the latter
rises, and how it changes after that (see `kdcore.methods._schedule`).
"""
DECOUPLED = ("complementary_weight", "consistent_weight", "decoupling")
"""Hyper-parameters of per-sample logit methods where the scale has more than the global region (`kdcore.scales`)."""
UNSAID: dict[str, Any] = {"consistent_weight": 1.0, "schedule": "constant", "decay_from": 0.0}
"""Hyper-parameters that are in a recipe only where they differ from this value, which is that of most publications."""
COLUMNS = ("epoch", "lr", "loss", "ce", "train_top1", "val_top1", "test_top1", "ema_val_top1", "ema_test_top1")
"""Columns of every training history, beside one per method."""
VANILLA = "vanilla"
"""The baseline that distils nothing: the student trained alone."""
NAME = re.compile("[a-z][a-z0-9_]*")
"""Pattern of the names of methods, networks and data sets."""
PLUS = "+"
"""Joins the terms of a sum, such as crd+kd."""
PYRAMIDS: dict[int, tuple[int, ...]] = {1: (1,), 2: (1, 2), 4: (1, 2, 4)}
"""Scale that is a number -> its pyramid levels; level m cuts a map into m x m regions."""

_NAMED: ContextVar[tuple[str, ...]] = ContextVar("_NAMED", default=())


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
    cross_entropy: str
    """ "beside": cross-entropy is added to its loss. "inside": its loss contains a part of it. "none": it is published
    without. In the latter two, `ce_weight` is the weight of another one beside it, 0 as published."""
    needs: tuple[str, ...]
    """Which of `PARTS` it needs of both networks, and, as "student.stages", of one of them."""
    needs_with: dict[str, dict[str, list[str]]]
    """Keyword -> value -> what it needs besides with this value, as in `needs`."""
    least_stages: int
    """How many maps of stages it needs, with the stem's, where it needs any."""
    replaces_student: bool
    """Whether its adapter gives the student another end, with which it is trained, evaluated and saved."""
    target: str
    """What its `target` is where images are mixed: "soft": it has none. "dominant": the class of the image with the
    larger share. "refused": it cannot do with mixed images."""
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
    lacks: tuple[str, ...] = ()
    """Which of `PARTS` it does not have."""
    image_size: int | None = None
    """Height and width, in pixels, of the images that it was published for, where its file says so."""


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
        literals = read_literals(path, LITERALS)
        lacks = _listed(path, "LACKS", literals, [*PARTS])
        image_size = literals.get("IMAGE_SIZE")
        if image_size is not None and not (type(image_size) is int and image_size > 0):
            raise UserError(f"{path}: IMAGE_SIZE is {image_size!r}. Allowed: whole pixels above 0")
        for name, arguments in literals.get("NETWORKS", {}).items():
            _check_name(path, name)
            if name in entries:
                raise UserError(f"{path}: network {name!r} is offered by {entries[name].module} already")
            entries[name] = NetworkEntry(name, module, arguments, lacks, image_size)
    return entries


@contextmanager
def naming(names: Iterable[str]) -> Iterator[None]:
    """Add the networks that a params file names itself to `network_names`, while the file is read and checked."""
    before = _NAMED.set(tuple(names))
    try:
        yield
    finally:
        _NAMED.reset(before)


def network_names() -> list[str]:
    """List the networks that may be named: those of the zoo, and those of the params file that is being read."""
    return [*networks(), *(name for name in _NAMED.get() if name not in networks())]


def lacks(name: str, described: Mapping[str, Any]) -> tuple[str, ...]:
    """List which of `PARTS` a network does not have.

    Args:
        name: of a network of the zoo, or of those that are described.
        described: name -> description of those that a params file names (see `kdcore.networks.describing`).
    """
    found = described.get(name)
    if found is None or "zoo" in found:
        return networks()[name if found is None else found["zoo"]].lacks
    return tuple(part for part in PARTS if not found.get(part))


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
    replacing = [part for part in names if known[part].replaces_student]
    if len(replacing) > 1:
        raise ValueError(
            f"{shown(name)}: {' and '.join(replacing)} each give the student another end; name one of them"
        )
    return [known[part] for part in names]


def check_needs(
    teacher: str, student: str, method: str, *, regions: bool, described: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise a ValueError if one of two networks lacks what a method needs.

    Args:
        teacher: name of the teacher's network.
        student: name of the student's network.
        method: a method, a sum or vanilla.
        regions: whether the scale has more regions than the whole image.
        described: see `lacks`.
    """
    for entry in terms(method):
        for role, network in (("teacher", teacher), ("student", student)):
            own = {part.removeprefix(f"{role}.") for part in entry.needs}
            wanted = own | ({"final_map", "classifier"} if regions and entry.kind == "logit" else set())
            for part in lacks(network, described):
                if part in wanted:
                    why = f"{entry.name} needs" if part in own else "scales above 1 need"
                    raise ValueError(f"{why} {PARTS[part]}, which the {role}'s network {network} does not have")
            count = len(described.get(network, {}).get("stages", ()))
            if "stages" in own and 0 < count < entry.least_stages:
                raise ValueError(
                    f"{entry.name} needs {entry.least_stages} maps of stages at least, with the stem's, and the "
                    f"{role}'s network {network} has {count}; name more of them in networks.{network}.stages"
                )


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
    check_known(teacher, [*network_names(), *named], "network or teacher" if teachers else "network")
    check_known(student, network_names(), "network")


def logit_methods() -> list[str]:
    """The single methods that `methods` of params.yaml may hold."""
    return [entry.name for entry in methods().values() if entry.kind == "logit"]


def baselines() -> list[str]:
    """The single methods that `baselines` of params.yaml may hold."""
    return [VANILLA, *(entry.name for entry in methods().values() if entry.kind == "feature")]


def misshapen(method: MethodEntry, loss: Sequence[int], logits: Sequence[int]) -> UserError:
    """Say that the loss of a logit method has not the shape (B, N), for logits (B, N, C) of N regions."""
    return UserError(
        f"method {method.name}: its loss has shape {tuple(loss)} for logits {tuple(logits)}, and must have "
        f"{tuple(logits[:2])}, images and regions: reduce the classes alone, .sum(dim=-1), not the batch, .mean(); or "
        "set ACROSS = 'batch', if it relates images"
    )


def _sources(package: str) -> list[Path]:
    folder = PACKAGE / package
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_") and path.stem != "contract")


def _check_name(path: Path, name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{path}: the name {shown(name)} must be of lower-case letters, digits and _, a letter first")


def _method(path: Path) -> MethodEntry:
    _check_name(path, path.stem)
    tree = parsed(path)
    literals = literals_of(tree, path, LITERALS)
    parameters = literals.get("PARAMETERS")
    if literals.get("KIND") not in KINDS or not isinstance(parameters, dict):
        raise UserError(f"{path}: a method needs KIND, one of {', '.join(KINDS)}, and PARAMETERS, a dictionary")
    for name, domain in parameters.items():
        if domain not in DOMAINS and not isinstance(domain, list):
            raise UserError(f"{path}: PARAMETERS[{name!r}] is {domain!r}. Allowed: {DOMAINS} or a list of choices")
    for name, allowed in CHOICES.items():
        of_all = literals["KIND"] == "logit" or name in OF_ALL
        if literals.get(name, allowed[0]) not in allowed[: None if of_all else 1]:
            raise UserError(f"{path}: {name} is {literals[name]!r}. Allowed: {allowed}; feature methods have none")
    reserved = [name for name in parameters if name in (*COMMON, *DECOUPLED)]
    if reserved or path.stem in (*COLUMNS, VANILLA):
        raise UserError(f"{path}: the name {reserved[0] if reserved else path.stem} means something else; take another")
    across, views, decouplings, cross_entropy = (literals.get(name, allowed[0]) for name, allowed in CHOICES.items())
    _check_code(path, tree, literals)
    return MethodEntry(
        name=path.stem,
        kind=literals["KIND"],
        parameters=parameters,
        across=across,
        views=tuple(views),
        decouplings=tuple(decouplings),
        cross_entropy=cross_entropy,
        needs=_listed(path, "NEEDS", literals, [*PARTS, *(f"{role}.{part}" for role in ROLES for part in PARTS)]),
        needs_with=literals.get("NEEDS_WITH", {}),
        least_stages=literals.get("LEAST_STAGES", 2),
        replaces_student="as_student" in functions_of(tree, "Adapter"),
        target=_target(path, literals, tree),
        title=" ".join((ast.get_docstring(tree) or path.stem).split("\n\n")[0].split()),
    )


def _listed(path: Path, literal: str, literals: dict[str, Any], allowed: list[str]) -> tuple[str, ...]:
    """Return the parts of a network that a file lists."""
    listed = literals.get(literal, [])
    if not isinstance(listed, list) or not set(listed) <= set(allowed):
        raise UserError(f"{path}: {literal} is {listed!r}. Allowed: a list of {', '.join(allowed)}")
    return tuple(listed)


def _target(path: Path, literals: dict[str, Any], tree: ast.Module) -> str:
    """Return what a method's file says in TARGET; else whether its loss asks for a target, or an adapter reads one."""
    if "TARGET" in literals:
        if literals["TARGET"] not in TARGETS:
            raise UserError(f"{path}: TARGET is {literals['TARGET']!r}. Allowed: {', '.join(TARGETS)}")
        return str(literals["TARGET"])
    losses = [node.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "loss"]
    asked = [one.arg for given in losses for one in given.args[: len(given.args) - len(given.defaults)]]
    read = (node.attr == "target" for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return "dominant" if "target" in asked or any(read) else "soft"


def _check_code(path: Path, tree: ast.Module, literals: dict[str, Any]) -> None:
    """Refuse a method's file that lacks what it must define, or whose arguments are not those it is called with."""
    kind, parameters = literals["KIND"], set(literals["PARAMETERS"])
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    adapter = defined.get("Adapter")
    wanted = ["loss"] if kind == "logit" or adapter else ["loss", "distill"]
    for name in wanted:
        if name not in defined:
            instead = " (or a class Adapter)" if name == "distill" else ""
            raise UserError(f"{path}: a {kind} method needs a function {name}{instead}; see kdcore/methods/contract.py")
    called: ast.AST = defined[wanted[-1]]
    count = 2 * len(literals.get("VIEWS", ["weak"])) + 1
    if kind == "logit" and not adapter and not takes(called, count):
        raise UserError(
            f"{path}: loss must take {count} positional arguments, used or not, of which the last is target"
        )
    if isinstance(adapter, ast.ClassDef):
        called = next((node for node in adapter.body if getattr(node, "name", "") == "__init__"), adapter)
        if kind == "logit" and (literals.get("ACROSS") == "batch" or "standardize" in keywords(defined["loss"])[0]):
            raise UserError(f"{path}: an Adapter goes with a logit loss of single samples that leaves stand to others")
    known, needed = keywords(called)
    if wrong := sorted((parameters - known) | (needed - parameters - {"standardize"})):
        alike = f"PARAMETERS and the keyword arguments of {getattr(called, 'name', path.stem)} must be the same"
        raise UserError(f"{path}: {alike}, but {', '.join(wrong)} is in one of them alone")


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
