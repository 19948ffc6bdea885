"""Turn what pydantic says of a wrong params file into sentences for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, get_args

from pydantic import ValidationError

from kdcore import catalog
from kdcore.matrix.data_section import KNOWN, OWN
from kdcore.matrix.section import LISTS, Section
from kdcore.matrix.train_recipe import MAPPING, WORD
from kdcore.system.errors import SHOWN, UserError, named, shown, suggest

TAGS = ("int", "str", OWN, *KNOWN, WORD, MAPPING)
"""What pydantic puts into the path of a problem beside keys: the member of a union that it tried."""
DATA_OPTIONS = MappingProxyType({"name": "--dataset", "source": "--source", "image_size": "--image-size"})
"""Key of section data -> its option, for commands that measure."""
PATTERNS = {f"^{catalog.NAME.pattern}$": "must be of lower-case letters, digits and _, a letter first"}
"""Pattern of a value -> what it asks for, in words."""
MOST_PROBLEMS = 20
"""The most problems that one message lists."""


@contextmanager
def explained(where: str, options: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Turn pydantic's validation error inside the block into a `UserError` in our own words.

    Args:
        where: the file or the options that hold the values, for messages.
        options: key -> the command line's option that it comes from, which messages name instead.

    Raises:
        UserError: lists up to `MOST_PROBLEMS` problems, and how many more there are.
    """
    try:
        yield
    except ValidationError as error:
        found = ({**problem, "keys": _keys(error.title, problem["loc"])} for problem in error.errors())
        problems = list(dict.fromkeys(_located(problem, where, options) for problem in found))
        raise UserError(shortened(problems)) from error


def shortened(problems: list[str]) -> str:
    """Join up to `MOST_PROBLEMS` problems, a line each, and say how many more there are."""
    more = len(problems) - MOST_PROBLEMS
    rest = [f"and {more:,} more"] if more > 0 else []
    return "\n".join([*problems[:MOST_PROBLEMS], *rest])


def _located(problem: Any, where: str, options: Mapping[str, str]) -> str:
    """Describe a problem, and where it is: in a file, or in an option of the command line."""
    first = str(next((part for part in problem["loc"] if part not in TAGS), ""))
    if first not in options:
        no_option = "; there is no option for it: name a params file that has it with --params"
        is_missing = problem["type"] == "missing" and options is DATA_OPTIONS
        return f"{where}: {first}: is missing{no_option}" if is_missing else f"{where}: {describe(problem, where)}"
    if problem["type"] == "extra_forbidden":
        return f"{options[first]} {shown(problem['input'])}: this data set takes none; leave it out"
    return f"{options[first]}: {describe({**problem, 'loc': ()}, where)}"


def _as_list(key: str, given: Any, where: str) -> str:
    """Say how a list is written: with this value, and behind -S too, where it is one line of text."""
    text = json.dumps(given) if isinstance(given, bool) else str(given)
    if not isinstance(given, bool | int | float | str) or len(text) > SHOWN or not text.isprintable() or not text:
        return " ([a, b, ...])"
    is_set_by_s = "params.yaml" in where and "[" not in key
    behind_s = f" (-S '{key}=[{text}]')" if is_set_by_s else ""
    name = key.rpartition(".")[2]
    return f"; write {name}{': ' if name else ''}[{text}]{behind_s}"


def _keys(root: str, path: Sequence[Any]) -> list[str]:
    """List the keys that may stand where a path of keys ends; none if that is not known.

    Args:
        root: name of the section that was read.
        path: keys, numbers in lists, and tags of unions, from there on.
    """
    found = list({section for section in _below(Section) if section.__name__ == root})
    if len(found) != 1:
        return []
    for part in path[:-1]:
        inside = [section.model_fields[part].annotation for section in found if part in section.model_fields]
        found = [section for annotation in inside for section in _sections(annotation)] or found
    return sorted({key for section in found for key in section.model_fields})


def _below(section: type[Section]) -> Iterator[type[Section]]:
    for one in section.__subclasses__():
        yield one
        yield from _below(one)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Yield the sections that a type is made of: those in a list, a mapping or a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def describe(problem: Any, where: str) -> str:
    """Say which key is wrong, its value, and what is allowed.

    Args:
        problem: one of the `errors()` of a validation error; `keys`, beside what it has, lists the allowed ones.
        where: the file or the options that hold the value.
    """
    key = ""
    for part in problem["loc"]:
        if part not in TAGS:
            key += f"[{part}]" if isinstance(part, int) else f".{named(part)}" if key else named(part)
    key = key.removesuffix(".[key]")
    message = PATTERNS.get(problem.get("ctx", {}).get("pattern"), problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "extra_forbidden":
        known = problem.get("keys", [])
        hint = suggest(problem["loc"][-1], known, 2) or f" It may be {', '.join(known)}." if known else ""
        message = f"unknown key; remove it or correct its name{hint and '.' + hint}"
    elif problem["type"] == "missing":
        none = f"add the line '{key}: []', which asks for none"
        message = f"is missing; {none if key in LISTS else 'give it a value'}"
    elif problem["type"] in ("dict_type", "model_type"):
        none = "; write {} for none" if problem["input"] is None else ""
        message = f"{shown(problem['input'])}: must be keys and values (key: value){none}"
    elif problem["type"] == "list_type":
        message = f"{shown(problem['input'])}: must be a list{_as_list(key, problem['input'], where)}"
    elif problem["type"] != "value_error":
        message = f"{shown(problem['input'])}: {message}"
    return f"{key}: {message}" if key else message
