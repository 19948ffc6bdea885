"""YAML files, read by the rules that DVC reads them by: version 1.2, and no key twice."""

import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from kdcore.system.errors import UserError, shown

MOST_BYTES, MOST_VALUES = 1 << 16, 5000
"""Limits of a file that a person writes; presets have a thirtieth of it."""
MOST_ALIASES = 100
"""Limit of any file: each alias may stand for all values of the file, but for no other alias."""
DEEPEST = 100
"""Lists and mappings inside each other, in any file; libyaml, which is written in C, crashes at some thousands."""
LONGEST_NUMBER = 1000
"""Characters of a whole number; Python prints none of more than 4300 digits."""
LONGEST_PROBLEM = 300
"""Characters of what the library says that a message may hold."""
TAG = "tag:yaml.org,2002:"
KEPT = [f"{TAG}{name}" for name in ("null", "merge", "timestamp")]
"""What YAML 1.2 takes for no text, as 1.1 does."""


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader with the numbers and truth values of YAML 1.2: 5e-4 is a number, and off is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag in KEPT]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: Any) -> None:
        """Refuse a key that is named twice, then merge what the key << names."""
        keys = set()
        for key, _ in () if getattr(node, "is_checked", False) else node.value:
            if (key.tag, str(key.value)) in keys:
                raise _problem(f'found duplicate key "{key.value}"', key)
            keys.add((key.tag, str(key.value)))
        node.is_checked = True  # merged keys, which others may override, are among its own from here on
        super().flatten_mapping(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Make a value of a node; where that fails, say what does not fit its tag, and where."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # its kind depends on the tag
            raise _problem(f"{shown(node.value)} is no {node.tag.removeprefix(TAG)} ({error})", node) from error

    def whole_number(self, node: Any) -> int:
        """Read 12, 012, 1_000, 0b11, 0o17 or 0xff."""
        text = self.construct_scalar(node).replace("_", "")
        if len(text) > LONGEST_NUMBER:
            raise _problem(f"a number of {len(text):,} characters; {LONGEST_NUMBER:,} are allowed", node)
        return int(text, {"b": 2, "o": 8, "x": 16}.get(text.lstrip("+-")[1:2], 10))


_Loader.add_constructor(f"{TAG}int", _Loader.whole_number)
for _name, _first, _pattern in (
    ("bool", "tTfF", "true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", "[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)"),
    ("float", "-+0123456789", r"[-+]?[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"),
    ("float", "-+.", r"[-+]?\.[0-9_]+([eE][-+][0-9]+)?"),
    ("float", "-+.", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    _Loader.add_implicit_resolver(TAG + _name, re.compile(f"({_pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Quotes text that version 1.2 takes for a number, and 1.1 does not: one fingerprint in a thousand is like 12e4."""


_Dumper.add_implicit_resolver(
    f"{TAG}float",
    re.compile(r"[-+]?((\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|0o[0-7_]+)$"),
    list("-+.0123456789"),
)


def read(path: Path | str, *, bounded: bool = False) -> dict[str, Any]:
    """Read the mapping that a file holds.

    Args:
        path: of the file.
        bounded: refuse more than `MOST_BYTES` and `MOST_VALUES`, which nobody writes by hand.

    Raises:
        UserError: no such file, not UTF-8, not YAML, a duplicate key, or no mapping; names the file and the line.
    """
    path = Path(path)
    try:
        content = _text(path, bounded=bounded)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse(content, str(path), bounded=bounded)


read_written = read


def parse(content: str, where: str, *, bounded: bool = False) -> dict[str, Any]:
    """Read the mapping that a text holds; `where` names its origin in messages. Otherwise like `read`."""
    try:
        _check(content, MOST_VALUES if bounded else sys.maxsize)
        found = yaml.load(content, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise UserError(f"{where}{_explain(error)}") from error
    if not isinstance(found, dict):
        what = {type(None): "nothing", str: "text"}.get(type(found), f"a {type(found).__name__}")
        raise UserError(f"{where}: must hold keys and values (key: value), not {what}")
    return found


def _check(content: str, most_values: int) -> None:
    """Refuse, before any value is made, what is too large, too deep, or would grow when its aliases are written out."""
    anchors: list[str | None] = []  # of the collections that have begun and not ended
    values = aliases = 0
    events: Iterable[Any] = yaml.parse(content, Loader=yaml.CSafeLoader)
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchors.pop()
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and any(anchors):
            raise _problem(f"the alias *{event.anchor} stands inside what another alias may name; write it out", event)
        values, aliases = values + isinstance(event, yaml.NodeEvent), aliases + is_alias
        for number, most, what in (
            (values, most_values, "values"),
            (aliases, MOST_ALIASES, "aliases"),
            (len(anchors), DEEPEST, "lists and mappings inside each other"),
        ):
            if number > most:
                raise _problem(f"more than {most:,} {what}", event)


def _problem(what: str, place: Any) -> yaml.YAMLError:
    return ConstructorError(None, None, what, place.start_mark)


def _explain(error: yaml.YAMLError) -> str:
    """Say where a file is no YAML, and why."""
    if isinstance(error, yaml.reader.ReaderError):
        return f": is not valid YAML: character {error.position + 1} is {error.character:#04x}; remove it"
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error)[:LONGEST_PROBLEM]
    hint = "indent with spaces, and quote text" if "cannot start any token" in problem else "mend it there"
    return (
        f", line {mark.line + 1}: is not valid YAML: {problem}; {hint}" if mark else f": is not valid YAML: {problem}"
    )


def _text(path: Path, *, bounded: bool) -> str:
    """Read a file's text. A pipe or a device is refused: reading might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: cannot be read (it is a folder, a pipe or a device); name a file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1 if bounded else -1)
    if bounded and len(content) > MOST_BYTES:
        size = max(path.stat().st_size, len(content))
        raise UserError(f"{path}: has {size:,} bytes; at most {MOST_BYTES:,} are allowed")
    return content.decode("utf-8")


def text(content: dict[str, Any]) -> str:
    """Write a mapping of plain values as YAML, its keys in their order."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def write(path: Path, content: dict[str, Any]) -> None:
    """Write what `text` makes of a mapping into a file; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(content), encoding="utf-8")
