"""What dvc.lock records of one stage."""

import re
from pathlib import Path

from kdcore.system import yamlfile

LOCK = Path("dvc.lock")


def recorded(stage: str) -> dict[str, str]:
    """Read which files a stage has read and written, as DVC knows them. Its entry is read alone, for with those of all
    cells it takes seconds.

    Args:
        stage: its name as DVC shows it: data, train@resnet20-resnet8-kd-1-False-base-0.

    Returns:
        Path -> md5, empty for a file without one; nothing where dvc.lock is missing or does not know the stage.

    Raises:
        UserError: the entry is no YAML.
    """
    if not LOCK.is_file():
        return {}
    found = re.search(rf"^  {re.escape(stage)}:\n(?:   .*\n)+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        return {}
    entry = yamlfile.parse(found[0], str(LOCK))[stage]
    return {one["path"]: one.get("md5", "") for kind in ("deps", "outs") for one in entry.get(kind, ())}
