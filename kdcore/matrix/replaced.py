"""Checkpoints that were replaced under the same path since the plan, which DVC does not notice."""

from pathlib import Path

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.params import Params
from kdcore.system import workspace, yamlfile
from kdcore.system.dvc_lock import recorded
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests, file_sha256


def check(params: Params, file: Path) -> None:
    """Refuse to go on with teachers whose files are others than those planned with.

    Where the matrix itself has changed since, there will be a new plan, which reads them all.

    Args:
        params: the matrix.
        file: that it was read from.

    Raises:
        UserError: names the teacher and what to do.
    """
    if recorded("plan").get(file.as_posix()) != file_digests(file, "md5")["md5"]:
        return
    for name, teacher in params.teachers.items():
        card = CARDS / "teacher" / f"{name}.yaml"
        planned = yamlfile.read(card).get("sha256") if card.is_file() else None
        found = workspace.find(teacher.source)
        if planned and found.is_file() and file_sha256(found) != planned:
            raise UserError(
                f"{file}: teachers.{name}.source: {teacher.source} is another file than at the last plan, under the "
                "same path, which DVC does not notice; take the new one by 'dvc repro -f plan', and then say this again"
            )
