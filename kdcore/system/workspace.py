"""Know the workspace of an experiment that DVC runs: inputs that only lie there, and what a failure leaves there.

`dvc exp run --temp` and DVC's queue copy what git tracks into a folder below <workspace>/.dvc/tmp/exps, and run the
pipeline there. What git ignores stays behind: own checkpoints, folders of images, downloads.
"""

import os
from pathlib import Path
from typing import Any

from kdcore.system import yamlfile
from kdcore.system.errors import UserError, named
from kdcore.system.files import expanded
from kdcore.system.git import git

EXPERIMENTS = (".dvc", "tmp", "exps")
"""Below a workspace: where DVC makes the temporary folders of its experiments."""
BASELINE = "DVC_EXP_BASELINE_REV"
"""The variable in which DVC tells the stages of an experiment from which commit it started."""
PARAMS = "params.yaml"
MANIFEST = "manifest.json"
"""In the folder of a data set: the file that holds the checksums of the others."""
MOST_KEYS = 5
ABSENT = object()


def origin() -> Path | None:
    """Return the project's folder that the experiment in the current folder came from; None outside an experiment's
    temporary folder.
    """
    parts = Path.cwd().parts
    for i in range(len(parts) - len(EXPERIMENTS), 0, -1):
        if parts[i : i + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:i])
    return None


def find(path: str | Path) -> Path:
    """Find an input that a person names by a path: relative to the project, absolute, or beginning with ~.

    In an experiment's temporary folder, what is not there is taken from the workspace; and so is what is there in part:
    a link that leads nowhere from there, a folder of which git tracks some files alone, a submodule.

    Args:
        path: the path.

    Returns:
        The path where the input is, ~ written out; the given one where it is in neither.
    """
    path = expanded(path)
    workspace = origin()
    if workspace is None or path.is_absolute():
        return path
    there = workspace / path
    if not os.path.exists(there):  # Path.exists() raises errors for names that are too long
        return path
    return path if os.path.exists(path) and not _is_part(path, there) else there


def _is_part(path: Path, there: Path) -> bool:
    """Whether a folder lacks files that its counterpart in the workspace has."""
    if not path.is_dir():
        return False
    return not any(path.iterdir()) or bool(git("ls-files", "--others", "--directory", "--", ".", folder=there))


def left_in_params() -> str:
    """Say what a failed experiment has left in params.yaml; empty outside an experiment, in a temporary folder, which
    DVC removes, and where the file is as it was committed.
    """
    revision = os.environ.get(BASELINE)
    if revision is None or origin() is not None:
        return ""
    committed = git("show", f"{revision}:./{PARAMS}")
    if committed is None:
        return ""
    try:
        before, now = _flat(yamlfile.parse(committed, PARAMS)), _flat(yamlfile.read(PARAMS, bounded=True))
    except UserError:  # the error that is being told of is about the file itself
        return ""
    changed = [key for key in {**before, **now} if before.get(key, ABSENT) != now.get(key, ABSENT)]
    more = f" and {len(changed) - MOST_KEYS} more" if len(changed) > MOST_KEYS else ""
    return (
        f"{PARAMS} still differs from the commit in {', '.join(changed[:MOST_KEYS])}{more}; where -S changed it, "
        f"'git checkout {PARAMS}' takes that back, and all edits of yours that are not committed"
        if changed
        else ""
    )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings under keys such as train.lr."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{named(key)}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
