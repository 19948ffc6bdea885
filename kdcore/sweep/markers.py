"""Keep the stages of cells that the matrix leaves out up to date.

DVC's own way takes 35 ms for such a stage, and a study may leave out thousands. They differ in their cards alone, so
the first of them goes that way, and the record of the others is made from its.
"""

import shutil
from pathlib import Path

from dvc.output import Output
from dvc.stage import PipelineStage
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from kdcore.matrix import left_out
from kdcore.matrix.card_files import CARDS
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.system.files import file_digests

MD5 = "md5"
Record = tuple[HashInfo, Meta | None]
"""What dvc.lock says of a file or folder: its checksum and size."""


class Markers:
    """Writes markers and their records.

    Args:
        pipeline: its stages of cells that are left out must have all that they depend on.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.marker: Record | None = None
        """The record of a marker; None until DVC has made the first, and has it in its cache."""
        self.shared: dict[str, Record] = {}
        """Path -> record of what the stages read besides their cards."""

    def keep(self, step: str) -> None:
        """Make the marker of a stage the output that DVC knows of it, where it is not.

        Raises:
            RunError: DVC cannot record it.
        """
        stage = self.pipeline.stages[step]
        output = Path(*self.pipeline.outputs(step))
        reads = {dep.def_path: self._record_of(dep) for dep in stage.deps}
        if self.marker is not None and self._is_kept(stage, output, reads):
            return
        if output.is_dir() and not output.is_symlink():
            shutil.rmtree(output)
        left_out.mark(output)
        (out,) = stage.outs
        for dep in stage.deps:
            dep.hash_info, dep.meta = reads[dep.def_path]
        if self.marker is None:
            self.pipeline.finish(step)
            self.marker = out.hash_info, out.meta
            return
        out.hash_info, out.meta = self.marker
        self.pipeline.unrecorded.append(stage)

    def _is_kept(self, stage: PipelineStage, output: Path, reads: dict[str, Record]) -> bool:
        """Whether dvc.lock and the workspace have the marker already."""
        (out,) = stage.outs
        is_recorded = all(dep.hash_info == reads[dep.def_path][0] for dep in stage.deps) and not stage.changed_stage()
        is_there = output.is_file() and output.read_text(encoding="utf-8") == left_out.MARKER
        return is_there and is_recorded and self.marker is not None and out.hash_info == self.marker[0]

    def _record_of(self, dep: Output) -> Record:
        path = Path(dep.def_path)
        if path.parts[0] == CARDS.name:
            return HashInfo(MD5, file_digests(path, MD5)[MD5]), Meta(size=path.stat().st_size)
        if dep.def_path not in self.shared:
            meta, checksum = dep._get_hash_meta()
            self.shared[dep.def_path] = checksum, meta
        return self.shared[dep.def_path]
