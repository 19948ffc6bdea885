"""A clone of the project in which workers run stages of one sweep, and keep everything else out meanwhile."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.rwlock import rwlock
from filelock import FileLock

from kdcore.sweep import FOLDER
from kdcore.sweep.dvc_pipeline import reasons
from kdcore.sweep.mend import mend_locks
from kdcore.system.errors import UserError

SERVED = Path(FOLDER) / "served"
"""The file that says which sweep a clone serves; each of its workers holds a shared lock of it."""


class Clone:
    """Keeps a clone for the workers of one sweep. Stages read their inputs from fixed places in it, where another sweep
    or a `dvc repro` would put other files. What keeps it vanishes with this process.

    Args:
        folder: the clone's.
        sweep: a name that no other sweep has.
        root: the sweep's folder, to be shown.
    """

    def __init__(self, folder: Path, sweep: str, root: str) -> None:
        self.folder, self.sweep, self.root = folder, sweep, root
        self.locks: ExitStack | None = None

    def keep(self) -> str:
        """Keep the clone; returns why that cannot be done now, or nothing."""
        if self.locks is None:
            with ExitStack() as locks:
                try:
                    locks.enter_context(self._of_one_sweep())
                    locks.enter_context(self._out_of_dvc())
                except (UserError, OSError) as error:
                    return str(error)
                self.locks = locks.pop_all()
        return ""

    def release(self) -> None:
        """Leave the clone to others."""
        if self.locks is not None:
            self.locks.close()
            self.locks = None

    @contextmanager
    def _of_one_sweep(self) -> Iterator[None]:
        """Share the clone with workers of the same sweep.

        Raises:
            UserError: it serves another sweep.
        """
        path = self.folder / SERVED
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            with FileLock(path.with_suffix(".lock")):  # one worker at a time looks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.truncate(0)
                    file.write(f"{self.sweep}\n{self.root}\n")
                    file.flush()
                except BlockingIOError:
                    file.seek(0)
                    sweep, root = file.read().splitlines()
                    if sweep != self.sweep:
                        remedy = "wait for that sweep, or start this worker in a clone of its own"
                        raise UserError(f"{self.folder} serves another sweep, that of {root}: {remedy}") from None
                fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _out_of_dvc(self) -> Iterator[None]:
        """Keep other DVC commands, and sweeps of the clone itself, from changing any of its files.

        Raises:
            UserError: one of them is at work.
        """
        with ExitStack() as lock:
            try:
                repo = Repo(str(self.folder))
                hardlink = repo.config["core"].get("hardlink_lock", False)
                who = f"a Dask worker for the sweep of {self.root}"
                with repo.lock:  # a `dvc repro` between two stages holds no other one
                    mend_locks(repo)
                    # Readers share it; whoever would write any path below is told to wait.
                    lock.enter_context(rwlock(repo.tmp_dir, repo.fs, who, [repo.root_dir], [], hardlink))
            except DvcException as error:
                blocker = " ".join(reasons(error).partition("\n\n")[0].split())
                raise UserError(f"another command of DVC is at work in {self.folder}: {blocker}") from error
            yield
