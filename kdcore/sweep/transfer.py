"""Move inputs and outputs of stages that run in another clone of the project through the DVC remote.

DVC's command line moves what dvc.lock lists. A stage that runs in a clone is not in that clone's dvc.lock, so this
module makes a stage of its own out of the files.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.stage import PipelineStage, create_stage
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile

from kdcore.sweep.dvc_pipeline import PROJECT_FILE, Item, opened, reasons
from kdcore.sweep.mend import mend_locks
from kdcore.sweep.processes import Outcome
from kdcore.system.errors import RunError

CODE = ("kdcore", "stages")
"""Packages whose code computes results."""
_IN_TURN = threading.Lock()
"""DVC's repositories are not made for threads."""


@dataclass(frozen=True)
class Parcel:
    """What a clone needs to run a stage.

    Args:
        inputs: the stage's dependencies, all in the remote.
        outputs: the paths that it makes.
    """

    inputs: tuple[Item, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Delivery:
    """How a stage ended."""

    outcome: Outcome
    is_apart: bool = False
    """Whether it ran in a clone, where the sweep cannot read its log."""
    outputs: list[Item] | None = None
    """Its outputs, where they lie in the DVC remote alone."""


def code_of(folder: Path, *packages: str) -> str:
    """Digest the code in a project's folder; two clones with one digest compute the same.

    Args:
        folder: the project's.
        packages: the digest is of these; without any, of kdcore and stages.
    """
    digest = hashlib.sha256()
    for path in sorted(path for package in packages or CODE for path in (folder / package).rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Post:
    """Sends files of a clone to the DVC remote, and fetches files from it.

    Args:
        folder: the clone's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, items: Sequence[Item]) -> None:
        """Send files from this clone's cache to the remote.

        Raises:
            RunError: there is no remote, or it cannot be reached.
        """
        with self._stage(items) as stage:
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.push(objects)

    def fetch(self, items: Sequence[Item]) -> None:
        """Fetch files from the remote to their places in this clone.

        Raises:
            RunError: there is no remote, it cannot be reached, or lacks a file.
        """
        with self._stage(items) as stage:
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.pull(objects)
            for out in stage.outs:  # the stage's own checkout would hide what fails, and lock out other workers here
                out.checkout(force=True)

    def check(self, items: Sequence[Item]) -> None:
        """See that files which a stage has read are still those that were fetched for it.

        Raises:
            RunError: one is not; the message names all.
        """
        with self._stage(items) as stage:
            changed = [out.def_path for out in stage.outs if not out.exists or out.changed_checksum()]
        if changed:
            raise RunError(f"{', '.join(changed)}: changed in {self.folder} while the stage read it; run it again")

    def send_outputs(self, paths: Sequence[str]) -> list[Item]:
        """Send outputs from their places in this clone to the remote; returns their entries for dvc.lock.

        Raises:
            RunError: one is missing, there is no remote, or it cannot be reached.
        """
        with self._stage([{"path": path} for path in paths]) as stage:
            stage.save_outs()
            for out in stage.outs:
                out.commit()
            for objects in stage.get_used_objs().values():
                stage.repo.cloud.push(objects)
            return [dict(item) for item in to_single_stage_lockfile(stage)["outs"]]

    @contextmanager
    def _stage(self, items: Sequence[Item]) -> Iterator[PipelineStage]:
        """Make a stage with these files as outputs, in no dvc.yaml, as DVC's run cache does."""
        with _IN_TURN:
            try:
                with opened(self.folder) as repo, repo.scm_context(quiet=True):
                    mend_locks(repo)
                    paths = [item["path"] for item in items]
                    stage = create_stage(PipelineStage, repo=repo, path=PROJECT_FILE, cmd="none", outs=paths)
                    StageLoader.fill_from_lock(stage, {"outs": list(items)})
                    yield stage
            except DvcException as error:
                raise RunError(f"the DVC remote of {self.folder}: {reasons(error)}") from error
