"""JSON files that stages hand to each other."""

import json
from pathlib import Path
from typing import Any

from kdcore.errors import UserError


def read(path: Path) -> dict[str, Any]:
    """The mapping that a file holds.

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run 'dvc repro'") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); run 'dvc checkout' or 'dvc repro'") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged (no keys and values); run 'dvc checkout' or 'dvc repro'")
    return content


def text(content: dict[str, Any]) -> str:
    """What `write` writes."""
    return json.dumps(content, indent=1) + "\n"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping of plain values."""
    path.write_text(text(content), encoding="utf-8")
