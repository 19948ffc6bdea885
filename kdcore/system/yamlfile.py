"""YAML files, read the way DVC reads them: version 1.2, duplicate keys refused."""

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner, ScannerError

from kdcore.system.errors import UserError, shown

MOST_BYTES, MOST_VALUES = 1 << 16, 5000
"""Of a file that a person writes, its aliases written out; presets have a thirtieth of it."""
DEEPEST = 100
LONGEST_NUMBER = 1000
"""Digits; Python prints no integers of more than 4300."""
LONGEST_PROBLEM = 300
"""Characters of what the library says."""
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Scanner(Scanner):
    """Refuses brackets in brackets by their depth: the library needs the square of it, and then gives up."""

    def fetch_flow_collection_start(self, *arguments: Any, **options: Any) -> None:
        """An opening bracket."""
        if self.flow_level == DEEPEST:
            raise ScannerError(None, None, f"brackets in more than {DEEPEST} brackets", self.reader.get_mark())
        super().fetch_flow_collection_start(*arguments, **options)


class _Composer(Composer):
    """Refuses a document by its size with all aliases written out, before anything is made of it."""

    most: int | None = None
    """Values that it may hold; None for any number."""

    def get_single_node(self) -> Any:
        """The document."""
        node = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: Node, counted: dict[int, int | None]) -> int:
        """How many values a node stands for; what aliases name is walked through once.

        Args:
            node: the one asked for.
            counted: of those walked through, by their identity; None of those that hold this one.
        """
        found = counted.setdefault(id(node), None)
        if found is not None:
            return found
        if isinstance(node, ScalarNode):
            if len(node.value) > LONGEST_NUMBER and str(node.tag).endswith((":int", ":float")):
                raise _problem(node, f"a number of {len(node.value):,} characters; {LONGEST_NUMBER:,} are allowed")
            total = 1
        else:
            parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
            if isinstance(node, MappingNode) and not all(isinstance(key, ScalarNode) for key, _ in node.value):
                raise _problem(node, "a key that is a list, or keys and values; a key is a name or a number")
            if any(id(part) in counted and counted[id(part)] is None for part in parts):
                raise _problem(node, "an alias that holds itself")
            total = 1 + sum(self._count(part, counted) for part in parts)
        if self.most is not None and total > self.most:
            raise _problem(node, f"{total:,} values, aliases written out; at most {self.most:,} are allowed")
        counted[id(node)] = total
        return total


class _Bounded(_Composer):
    """As of files that a person writes."""

    most = MOST_VALUES


class _Constructor(SafeConstructor):
    """Says of every value that its tag does not fit where it stands."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A node's value."""
        try:
            return super().construct_object(node, deep)
        except (YAMLError, RecursionError):
            raise
        except Exception as error:  # what the library raises depends on the tag
            raise _problem(node, f"{shown(node.value)} is no {str(node.tag).rpartition(':')[2]} ({error})") from error


def _problem(node: Any, what: str) -> MarkedYAMLError:
    return ConstructorError(None, None, what, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that version 1.2 takes for a number, and 1.1 does not: one fingerprint in a thousand is like 12e4."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|0o[0-7]+$"),
    list("-+.0123456789"),
)


def read(path: Path | str, *, bounded: bool = False) -> dict[str, Any]:
    """The mapping that a file holds.

    Args:
        path: of the file.
        bounded: refuse more than `MOST_BYTES` and `MOST_VALUES`, which nobody writes by hand.

    Raises:
        UserError: no such file, not UTF-8, not YAML, a duplicate key, or no mapping.
    """
    path = Path(path)
    try:
        content = _text(path, bounded=bounded)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse(content, str(path), bounded=bounded)


def parse(content: str, where: str, *, bounded: bool = False) -> dict[str, Any]:
    """The mapping that a text is; `where` it is from, for messages. Otherwise as `read`."""
    loader = YAML(typ="safe", pure=True)
    loader.Scanner = _Scanner
    loader.Composer = _Bounded if bounded else _Composer
    loader.Constructor = _Constructor
    try:
        found = loader.load(content)
    except RecursionError as error:
        raise UserError(f"{where}: is not valid YAML: nested too deeply; a few levels are enough") from error
    except YAMLError as error:
        raise UserError(f"{where}{_explain(error)}") from error
    if not isinstance(found, dict):
        what = {type(None): "nothing", str: "text"}.get(type(found), f"a {type(found).__name__}")
        raise UserError(f"{where}: must hold keys and values (key: value), not {what}")
    return found


def _explain(error: YAMLError) -> str:
    """Where a file is no YAML, and why."""
    where = getattr(error, "problem_mark", None)
    line = f", line {where.line + 1}" if where else ""
    if isinstance(error, ReaderError):
        return f": is not valid YAML: character {error.position + 1} is {error.character:#04x}; remove it"
    problem = str(getattr(error, "problem", None) or error)[:LONGEST_PROBLEM]
    hint = "; indent with spaces" if "'\\t'" in problem else "; mend it there" if line else ""
    return f"{line}: is not valid YAML: {problem}{hint}"


def _text(path: Path, *, bounded: bool) -> str:
    """What a file holds. A pipe or a device is none: reading might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: cannot be read (it is a folder, a pipe or a device); name a file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1 if bounded else -1)
    if bounded and len(content) > MOST_BYTES:
        raise UserError(
            f"{path}: has {max(path.stat().st_size, len(content)):,} bytes; at most {MOST_BYTES:,} are allowed"
        )
    return content.decode("utf-8")


def read_written(path: Path) -> dict[str, Any]:
    """As `read`, ten times faster, of a file that `write` has written.

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_FAST)  # noqa: S506
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is damaged; run 'dvc repro plan'") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values, not {type(content).__name__}")
    return content


def text(content: dict[str, Any]) -> str:
    """What `write` writes."""
    dumped = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return str(dumped)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping of plain values, its keys in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(content), encoding="utf-8")
