"""Inputs and outputs of jobs that run where this project's files are not: they travel through the DVC remote.

DVC's command line fetches what a stage made; here a stage's inputs are fetched, and its outputs given, without it being
in the dvc.lock of the clone in which it runs.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage, create_stage
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile

from kdcore.sweep.dvc_pipeline import PROJECT_FILE, Item, reasons
from kdcore.sweep.mend import mend_locks
from kdcore.sweep.processes import Outcome
from kdcore.system.errors import RunError

_IN_TURN = threading.Lock()
"""DVC's repositories are not made for threads."""


@dataclass(frozen=True)
class Parcel:
    """What a job elsewhere needs.

    Args:
        inputs: its dependencies, all in the remote.
        outputs: the paths that it makes.
        code: of the project, see `code_of`.
    """

    inputs: tuple[Item, ...]
    outputs: tuple[str, ...]
    code: str


@dataclass(frozen=True)
class Delivery:
    """How a job ended; and what it made, where that lies in the DVC remote alone."""

    outcome: Outcome
    is_apart: bool = False
    """Whether it ran where the sweep does not see its log."""
    made: list[Item] | None = None


def code_of(folder: Path) -> str:
    """A digest of the code in a project's folder, by which two clones know that they are equal."""
    digest = hashlib.sha256()
    for path in sorted(path for package in ("kdcore", "stages") for path in (folder / package).rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Post:
    """A clone's way to the DVC remote.

    Args:
        folder: of the clone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, items: Sequence[Item]) -> None:
        """Bring files that lie in this clone's cache to the remote.

        Raises:
            RunError: there is no remote, or it cannot be reached.
        """
        with self._stage(items) as stage:
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.push(objects)

    def fetch(self, items: Sequence[Item]) -> None:
        """Bring files from the remote to their places in this clone.

        Raises:
            RunError: there is no remote, it cannot be reached, or has them not.
        """
        with self._stage(items) as stage:
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.pull(objects)
            stage.checkout(force=True)

    def send_made(self, paths: Sequence[str]) -> list[Item]:
        """Bring outputs that lie in their places in this clone to the remote; returns what they are.

        Raises:
            RunError: one is missing, there is no remote, or it cannot be reached.
        """
        with self._stage([{"path": path} for path in paths]) as stage:
            stage.save_outs()
            stage.commit()
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.push(objects)
            return [dict(item) for item in to_single_stage_lockfile(stage)["outs"]]

    @contextmanager
    def _stage(self, items: Sequence[Item]) -> Iterator[PipelineStage]:
        """A stage that has these files as outputs, as DVC's run cache makes them; in no dvc.yaml."""
        with _IN_TURN:
            try:
                repo = Repo(str(self.folder), _wait_for_lock=True)
                with repo.lock, repo.scm_context(quiet=True):
                    mend_locks(repo)
                    paths = [item["path"] for item in items]
                    stage = create_stage(PipelineStage, repo=repo, path=PROJECT_FILE, cmd="none", outs=paths)
                    StageLoader.fill_from_lock(stage, {"outs": list(items)})
                    yield stage
            except DvcException as error:
                raise RunError(f"the DVC remote of {self.folder}: {reasons(error)}") from error
