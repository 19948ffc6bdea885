"""Repair the two files that DVC writes in place: half of one, left by a kill, makes every later DVC command fail.

No result is lost: DVC's run cache knows what has been made, and a process that has ended holds no lock.
"""

import json
from pathlib import Path
from typing import Any

from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.lock import make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA
from dvc.utils.serialize import ParseError
from dvc.utils.strictyaml import YAMLFileCorruptedError, YAMLValidationError
from voluptuous import Invalid

from kdcore.sweep.dvc_pipeline import LOCK_FILE, opened, reasons
from kdcore.system.errors import UserError
from kdcore.system.files import replace_text
from kdcore.system.git import git

SWEEPS = ("stages/sweep.py", "stages/tune.py")
"""The scripts that hold DVC's locks while they work."""
CONFLICT = b"<<<<<<< "
"""Marks a conflict that git could not merge."""


def mend(root: Path, *, is_idle: bool) -> list[str]:
    """Repair what a killed DVC command left half-written, or a killed sweep locked.

    Args:
        root: the project's folder.
        is_idle: whether no sweep and no search is at work there; the caller holds `journal.LOCK`, so that none begins.

    Returns:
        Lines that say what was repaired.

    Raises:
        UserError: there is no DVC project there, or git left a conflict in dvc.lock.
    """
    try:
        with opened(root) as repo:
            return [*mend_locks(repo, is_idle=is_idle), *mend_record(repo)]
    except DvcException as error:
        raise UserError(f"{root}: {reasons(error)}") from error


def mend_locks(repo: Repo, *, is_idle: bool = False) -> list[str]:
    """Remove DVC's list of locked paths if it cannot be read; returns a line that says so. What sweeps and searches
    have locked is taken out where none is at work: DVC asks whether there is a process of that number, and in a
    container, or after the machine was started anew, another one has it.
    """
    path = Path(repo.tmp_dir) / RWLOCK_FILE
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(path.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):
        try:
            held = SCHEMA(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return []
        except (ValueError, Invalid):
            path.unlink()
            return [f"{path}: was left half-written by a command of DVC that was killed; removed"]
        if is_idle:
            write = {key: one for key, one in held["write"].items() if not _is_of_sweep(one)}
            read = {key: [one for one in ones if not _is_of_sweep(one)] for key, ones in held["read"].items()}
            left = {"write": write, "read": {key: ones for key, ones in read.items() if ones}}
            if left != held:
                replace_text(path, json.dumps(left))
    return []


def _is_of_sweep(holder: dict[str, Any]) -> bool:
    """Say whether a sweep or a search has locked a path: by the command that DVC notes, a script and its options."""
    return holder["cmd"].partition(" ")[0].endswith(SWEEPS)


def mend_record(repo: Repo) -> list[str]:
    """Restore dvc.lock from the last commit if it cannot be read; returns a line that says so.

    Raises:
        UserError: git left a conflict in it.
    """
    path = Path(repo.root_dir) / LOCK_FILE
    try:
        Lockfile(repo, str(path)).load()
    except (ParseError, YAMLFileCorruptedError, YAMLValidationError) as error:
        damaged = path.read_bytes()
        if CONFLICT in damaged:
            advice = f"'git checkout --ours {LOCK_FILE}' or '--theirs' settles it: DVC's cache knows what was made"
            raise UserError(f"{path}: holds a conflict that git could not merge; {advice}") from error
        kept = Path(repo.tmp_dir) / f"{LOCK_FILE}.damaged"
        kept.write_bytes(damaged)
        committed = _committed(path)
        if committed is None:
            path.unlink()
        else:
            replace_text(path, committed)
        state = "gone" if committed is None else "as in the last commit"
        return [
            f"{path}: was left half-written by a command of DVC that was killed ({kept} keeps it); "
            f"it is {state} now, and what was made since comes from DVC's cache"
        ]
    return []


def _committed(path: Path) -> str | None:
    """Return a file's contents in the last commit; None where it is not in it."""
    return git("show", f"HEAD:./{path.name}", folder=path.parent)
