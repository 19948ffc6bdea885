"""What DVC knows of the pipeline, looked up without changing anything but DVC's own notes on files it has read.

Keys of the run cache and sums of folders are DVC's own (dvc/stage/cache.py, dvc_data/hashfile/tree.py, of DVC 3.60 to
3.67).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.dependency import Dependency
from dvc.output import Output
from dvc.stage.cache import _get_cache_hash
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

from kdcore.sweep.dvc_pipeline import Pipeline

MD5 = "md5"
Sums = dict[str, str]
"""Path -> md5, which ends with .dir for folders."""


class Lookup:
    """Into dvc.lock, DVC's cache and run cache, and the files of the workspace.

    Args:
        pipeline: whose stages are looked up; none of them has been checked.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def read_before(self, step: str) -> Sums:
        """What a stage's dependencies were when it was last recorded; nothing where it was not."""
        return _sums(self.pipeline.stages[step].deps)

    def made_before(self, step: str) -> Sums:
        """What its outputs were then."""
        return _sums(self.pipeline.stages[step].outs)

    def has_new_command(self, step: str) -> bool:
        """Whether a stage's command is another one than when it was last recorded."""
        return bool(self.pipeline.stages[step].changed_stage())

    def trouble(self, step: str) -> str:
        """Why a stage's outputs are not as they were recorded, in DVC's words: deleted, modified, not in cache; or
        nothing.
        """
        return next((said for out in self.pipeline.stages[step].outs for said in out.status().values()), "")

    def is_in_cache(self, step: str, made: Sums) -> bool:
        """Whether outputs of a stage can be brought back.

        Args:
            step: the stage's name.
            made: all of them, as they would be.
        """
        outs = [{"path": path, "hash": MD5, MD5: value} for path, value in made.items()]
        stage = self._cache._create_stage({"cmd": self.pipeline.command(step), "outs": outs})
        return bool(stage.outs_cached())

    def made_from(self, step: str, inputs: Sums) -> Sums | None:
        """What the run cache says that a stage has made before; None where it does not know.

        Args:
            step: the stage's name.
            inputs: what all of its dependencies would be.
        """
        content = {
            "cmd": self.pipeline.command(step),
            "deps": [{"path": path, "hash": MD5, MD5: inputs[path]} for path in sorted(inputs)],
            "outs": [{"path": path} for path in sorted(self.pipeline.outputs(step))],
        }
        key = _get_cache_hash(content, key=True)
        entries = list(Path(self._cache._get_cache_dir(key)).glob("*"))
        if not entries:
            return None
        newest = max(entries, key=lambda path: path.stat().st_mtime)
        entry = self._cache._load_cache(key, newest.name)
        return None if entry is None else {item["path"]: item[MD5] for item in entry["outs"]}

    def now(self, step: str, path: str) -> str | None:
        """The md5 of a dependency as it is in the workspace; None where there is nothing."""
        dependency = self._dependency(step, path)
        return str(dependency.get_hash().value) if dependency.exists else None

    def files(self, folder: str) -> Sums:
        """The files of a folder that lies in the cache.

        Args:
            folder: its md5.
        """
        return self._listed(Tree.load(self.pipeline.repo.cache.local, HashInfo(MD5, folder)))

    def files_now(self, step: str, path: str) -> Sums:
        """The files of a dependency that is a folder, as it is in the workspace; none where there is nothing."""
        dependency = self._dependency(step, path)
        if not dependency.exists:
            return {}
        cache = dependency.local_cache
        _, _, tree = dependency._build(
            cache, dependency.fs_path, dependency.fs, MD5, ignore=dependency.dvcignore, dry_run=True
        )
        return self._listed(tree)

    @staticmethod
    def of_folder(files: Mapping[str, str]) -> str:
        """The md5 of a folder that holds these files."""
        tree = Tree()
        for path, value in files.items():
            tree.add(PurePosixPath(path).parts, Meta(), HashInfo(MD5, value))
        tree.digest()
        return str(tree.hash_info.value)

    @staticmethod
    def _listed(tree: Any) -> Sums:
        return {"/".join(key): found.value for key, _, found in tree}

    def _dependency(self, step: str, path: str) -> Dependency:
        return next(dep for dep in self.pipeline.stages[step].deps if dep.def_path == path)

    @cached_property
    def _cache(self) -> Any:
        return self.pipeline.repo.stage_cache


def _sums(items: Iterable[Output]) -> Sums:
    return {item.def_path: str(item.hash_info.value) for item in items if item.hash_info}
