"""YAML files, read the way DVC reads them: version 1.2, duplicate keys refused."""

from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kdcore.errors import UserError


def read(path: Path | str) -> dict[str, Any]:
    """The mapping that a file holds.

    Raises:
        UserError: no such file, not UTF-8, not YAML, a duplicate key, or no mapping.
    """
    path = Path(path)
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise UserError(f"{path}: is not valid YAML: nested too deeply") from error
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}{line}: is not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values, not {type(content).__name__}")
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping of plain values, its keys in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
