"""Find the workspace that an experiment came from, and the inputs that only lie there.

`dvc exp run --temp` and DVC's queue copy what git tracks into a folder below <workspace>/.dvc/tmp/exps, and run the
pipeline there. What git ignores stays behind: own checkpoints, folders of images, downloads.
"""

import os
from pathlib import Path

from kdcore.system.git import git

EXPERIMENTS = (".dvc", "tmp", "exps")
"""Below a workspace: where DVC makes the temporary folders of its experiments."""


def origin() -> Path | None:
    """Return the project's folder that the experiment in the current folder came from; None outside an experiment's
    temporary folder.
    """
    parts = Path.cwd().parts
    for i in range(len(parts) - len(EXPERIMENTS), 0, -1):
        if parts[i : i + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:i])
    return None


def find(path: Path) -> Path:
    """Find an input that a person names by a path relative to the project.

    In an experiment's temporary folder, what is not there is taken from the workspace; and so is a folder of which git
    tracks a part alone, because the temporary folder has only that part.

    Args:
        path: the path, which may be absolute.

    Returns:
        The path where the input is; the given one where it is in neither.
    """
    workspace = origin()
    if workspace is None or path.is_absolute():
        return path
    there = workspace / path
    if not os.path.lexists(there):
        return path
    return path if os.path.lexists(path) and not _is_part(path, there) else there


def _is_part(path: Path, there: Path) -> bool:
    """Whether a folder lacks files that its counterpart in the workspace has, and git does not track."""
    return path.is_dir() and bool(git("ls-files", "--others", "--directory", "--", ".", folder=there))
