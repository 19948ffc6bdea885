"""What a trained network was made from beside its card, data set and teacher, and whether both are the same now.

DVC tells that too, but only to those who ask it, which takes seconds.
"""

from functools import cache
from pathlib import Path
from typing import Any

from kdcore.system.files import file_sha256
from kdcore.system.workspace import MANIFEST
from kdcore.training.run_folder import WEIGHTS

KEY = "made_from"
"""Of meta.json: the sha256 of the data set's manifest and, under `teacher`, of the teacher's weights."""
DATA, TEACHERS = Path("data"), Path("teachers")


def describe(manifest: str, teacher: str | None = None) -> dict[str, Any]:
    """Return the part of meta.json that says what a network was made from.

    Args:
        manifest: sha256 of the data set's manifest, which holds the checksums of its arrays.
        teacher: that of the weights of its teacher; None for a network that was trained alone.
    """
    return {KEY: {"data": manifest, **({"teacher": teacher} if teacher else {})}}


class PresentInputs:
    """The data sets and teachers that are there now; each is read once."""

    def __init__(self) -> None:
        self._sum = cache(lambda path: file_sha256(path) if path.is_file() else None)

    def changed(self, meta: dict[str, Any]) -> str:
        """Say which of the two is another one than a network was made from.

        Args:
            meta: content of the meta.json of a cell or teacher.

        Returns:
            The reason; "" where both are the same, or missing, or the record does not say.
        """
        known = meta.get(KEY, {})
        data, teacher = meta.get("data", ""), str(meta.get("pair", "")).partition("-")[0]
        if self._differs(known.get("data"), DATA / data / MANIFEST):
            return f"the data set {data} is another one since"
        if self._differs(known.get("teacher"), TEACHERS / teacher / WEIGHTS):
            return f"the weights of its teacher {teacher} are others since"
        return ""

    def _differs(self, known: str | None, file: Path) -> bool:
        now = None if known is None else self._sum(file)
        return now is not None and now != known
