"""Write a grid of variants into a params file: one for each combination of values, with the file's comments kept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from kdcore.matrix import params, selection
from kdcore.matrix.cards import resolve_recipes
from kdcore.matrix.cell import BASE
from kdcore.matrix.variants import LONGEST_NAME
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown
from kdcore.system.files import replace_text

USAGE = "kd.temperature=2,4,8, or train.lr=0.1,0.2"
Content = dict[str, Any]


def axes(arguments: Sequence[str]) -> dict[tuple[str, ...], list[Any]]:
    """Read the axes of a grid.

    Args:
        arguments: a key and its values each, "kd.temperature=2,4,8"; the first part of the key is a method or "train".

    Returns:
        The parts of each key -> its values.

    Raises:
        UserError: one of them is written otherwise, or a key is given twice.
    """
    found: dict[tuple[str, ...], list[Any]] = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        path = tuple(key.split("."))
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise UserError(f"{shown(argument)}: the values are no YAML; write {USAGE}") from error
        if len(path) < 2 or not all(path) or not values or None in values:
            raise UserError(f"{shown(argument)}: must be a method's parameter, or a setting, and its values: {USAGE}")
        if path in found:
            raise UserError(f"{key}: is given twice; write all of its values behind one =")
        found[path] = values
    return found


def grid(of: dict[tuple[str, ...], list[Any]], only: Content) -> dict[str, Content]:
    """Make a variant of every combination of values.

    Args:
        of: from `axes`.
        only: the selector of the cells that they are for; empty where they are for all that they change.

    Returns:
        Name, made of parameters and values -> content.

    Raises:
        UserError: a name would be too long, or that of two combinations.
    """
    made: dict[str, Content] = {}
    for values in product(*of.values()):
        content: Content = {"only": only} if only else {}
        for path, value in zip(of, values, strict=True):
            inner = content
            for part in path[:-1]:
                inner = inner.setdefault(part, {})
            inner[path[-1]] = value
        name = "_".join(f"{path[-1]}{_in_name(value)}" for path, value in zip(of, values, strict=True))
        if len(name) > LONGEST_NAME:
            raise UserError(f"{name}: is too long for a variant's name; vary fewer keys at a time")
        if name in made:
            raise UserError(f"{name}: two combinations of these values have this name; give each value once")
        made[name] = content
    return made


def _in_name(value: Any) -> str:
    """Write a value with letters, digits and _ alone: 0.5 as 0_5, -1 as m1."""
    text = str(value).replace("-", "m").replace("+", "")
    return re.sub(r"\W+", "_", text).strip("_")


@dataclass(frozen=True)
class Addition:
    """Variants that are about to be written into a params file."""

    file: str
    variants: dict[str, Content]
    """Those that are new to the matrix."""
    repeated: dict[str, str]
    """Variants that are left out, because all of their cells are trained as those of another one: name -> that one."""
    before: int
    """How many cells the matrix has without them."""
    after: int

    @classmethod
    def of(cls, file: str, made: dict[str, Content], *, published_recipes: dict[str, Any]) -> "Addition":
        """Check variants against a matrix.

        Args:
            file: path of the params file.
            made: name -> content.
            published_recipes: content of data/recipes.yaml.

        Raises:
            UserError: one of them is wrong, or the file has one of that name.
        """
        there = yamlfile.read(file, bounded=True).get("variants") or {}
        before = params.load(file)
        for name, content in made.items():
            if there.get(name, content) != content:
                raise UserError(
                    f"{file}: variants.{name}: is there already, with other content: {_flow(there[name])}; rename "
                    "that one, remove it, or vary other values"
                )
        matrix = params.load(file, variants={**there, **made})
        resolved = resolve_recipes(matrix, published_recipes, file)
        same = {name: name for name in made if name in there}
        same |= {name: other for name, other in selection.repeated(matrix, resolved).items() if name in made}
        same |= dict.fromkeys(
            made.keys() - {cell.variant for cell in matrix.points() if matrix.is_declared(cell)}, BASE
        )
        new = {name: content for name, content in made.items() if name not in same}
        if not new:
            there_is = ", ".join(sorted({*same.values()}))
            raise UserError(
                f"{file}: all of these values are there already ({there_is}), or no cell of the matrix uses them; vary "
                "others"
            )
        counts = []
        for one in (before, params.load(file, variants={**there, **new})):
            cells = resolve_recipes(one, published_recipes, file)
            selection.check(one, cells, file)
            counts.append(len(cells) - len(selection.copies(one, cells)))
        return cls(file, new, same, *counts)

    def text(self) -> str:
        """Say what is added."""
        lines = [f"{name}: {_flow(content)}" for name, content in self.variants.items()]
        lines += [
            f"{name}: left out, {'it is there' if other == name else f'no cell would differ from those of {other}'}"
            for name, other in self.repeated.items()
        ]
        lines += [f"{self.file}: {self.before} cells become {self.after}; leave single ones out with `exclude`"]
        return "\n".join(lines)

    def write(self) -> None:
        """Write them into the file, whose comments stay."""
        path = Path(self.file)
        replace_text(path, inserted(path.read_text(encoding="utf-8"), self.variants))


def inserted(text: str, variants: dict[str, Content]) -> str:
    """Return the text of a params file with more variants behind those that it has.

    Args:
        text: valid YAML with a section `variants`.
        variants: name -> content; of names that it does not have.
    """
    root: Any = yaml.compose(text)
    section = next(value for key, value in root.value if key.value == "variants")
    lines = "".join(f"  {name}: {_flow(content)}\n" for name, content in variants.items())
    if section.flow_style:
        entries = (text[key.start_mark.index : value.end_mark.index] for key, value in section.value)
        block = "".join(f"  {entry}\n" for entry in entries)
        return f"{text[: section.start_mark.index].rstrip()}\n{block}{lines.rstrip()}{text[section.end_mark.index :]}"
    end = text.find("\n", _end(section))
    before, rest = (text, "") if end < 0 else (text[:end], text[end + 1 :])
    return f"{before}\n{lines}{rest}"


def replaced(text: str, name: str, content: Content) -> str:
    """Return the text of a params file with another content of a variant that it has; all else stays.

    Args:
        text: valid YAML with a section `variants`.
        name: one of them.
        content: the new one.
    """
    root: Any = yaml.compose(text)
    section = next(value for key, value in root.value if key.value == "variants")
    value = next(value for key, value in section.value if key.value == name)
    return f"{text[: value.start_mark.index].rstrip()} {_flow(content)}{text[_end(value) :]}"


def removed(text: str, name: str) -> str:
    """Return the text of a params file without the lines of a variant that it has; all else stays.

    Args:
        text: valid YAML with a section `variants` in block style, as `inserted` leaves it.
        name: one of them.
    """
    root: Any = yaml.compose(text)
    section = next(value for key, value in root.value if key.value == "variants")
    key, value = next((key, value) for key, value in section.value if key.value == name)
    start, end = text.rfind("\n", 0, key.start_mark.index) + 1, text.find("\n", _end(value))
    return text[:start] + (text[end + 1 :] if end >= 0 else "")


def _end(node: yaml.Node) -> int:
    """Return where a node ends in the text; the mark of a block is behind comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _flow(content: Content) -> str:
    return yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10**6).strip()
