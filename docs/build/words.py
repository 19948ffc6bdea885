"""Texts of the code as Markdown: what stands there for itself must not be read as markup."""

import re


def plain(text: str) -> str:
    """Escape tags and links outside `code`, and join lines."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("[", "\\[") for part in parts)
