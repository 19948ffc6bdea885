"""What dvc.lock records of one stage."""

import re
from pathlib import Path

from kdcore.system import yamlfile

LOCK = Path("dvc.lock")


def recorded(stage: str, content: str | None = None) -> dict[str, str]:
    """Read which files a stage has read and written, as DVC knows them. Its entry is read alone, for with those of all
    cells it takes seconds.

    Args:
        stage: its name as DVC shows it: data, train@resnet20-resnet8-kd-1-False-base-0.
        content: of a dvc.lock; None for the one here.

    Returns:
        Path -> md5, empty for a file without one; nothing where dvc.lock is missing or does not know the stage.

    Raises:
        UserError: the entry is no YAML.
    """
    if content is None:
        content = LOCK.read_text(encoding="utf-8") if LOCK.is_file() else ""
    found = re.search(rf"^  {re.escape(stage)}:\n(?:   .*\n)+", content, re.MULTILINE)
    if found is None:
        return {}
    entry = yamlfile.parse(found[0], str(LOCK))[stage]
    return {one["path"]: one.get("md5", "") for kind in ("deps", "outs") for one in entry.get(kind, ())}


def read_cards(content: str) -> dict[str, str]:
    """List the cards that stages have read, of the content of a dvc.lock: path -> md5."""
    return dict(re.findall(r"^    - path: (cards/\S+)\n      hash: md5\n      md5: (\w+)$", content, re.MULTILINE))
