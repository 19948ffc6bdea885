"""Folder scratch/: what a machine keeps for itself, outside DVC's outputs (which DVC deletes before a stage runs)."""

import glob
import secrets
from pathlib import Path

FOLDER = Path("scratch")


def replace(path: Path, text: str) -> None:
    """Write a file as a whole: a reader sees the old text or the new one, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not named by process number: machines that share the folder have the same ones.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what processes that were killed while they wrote it have left."""
    for left in (path, *path.parent.glob(f".{glob.escape(path.name)}.*")):
        left.unlink(missing_ok=True)
