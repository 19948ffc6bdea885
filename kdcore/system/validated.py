"""What stages hand to each other, checked where it is read: a file may be cut short, emptied or edited."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdcore.system.errors import UserError
from kdcore.system.files import read_json

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "run 'dvc checkout' or 'dvc repro'"
LONGEST = 200
"""Characters of what a library says of a file."""


class Stored(BaseModel):
    """The keys of a JSON file that its readers rely on; other keys are allowed."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Acceptance(Stored):
    """A change of code that `python -m stages.accept` took over without training again."""

    reason: str


class Provenance(Stored):
    """What a cell was trained with, and which later changes of that code were accepted."""

    recipe: dict[str, Any]
    commit: str
    device: str
    threads: int
    processes: int
    computed_in: str
    versions: dict[str, str]
    accepted: list[Acceptance] = []


def damaged(file: Path, why: object, remedy: str = REMEDY) -> UserError:
    """Make the error for a file that cannot be used: it names the file, what is wrong, and what to do."""
    return UserError(f"{file}: is damaged ({str(why)[:LONGEST]}); {remedy}")


def read_checked(file: Path, model: type[Stored]) -> dict[str, Any]:
    """Read a JSON file, and check that it holds what a model asks for.

    Raises:
        UserError: no such file, or a damaged one; names the first key that is wrong.
    """
    content = read_json(file)
    try:
        model.model_validate(content)
    except ValidationError as error:
        raise damaged(file, problem(error)) from error
    return content


def problem(error: ValidationError) -> str:
    """Describe the first problem that pydantic found, with its key."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else str(first["msg"])


def read_table(file: Path, needed: Sequence[str]) -> "pd.DataFrame":
    """Read a CSV file of numbers; its column `cell` may be text.

    Args:
        file: as a stage wrote it.
        needed: columns that must be there, and finite; others may have gaps.

    Raises:
        UserError: no such file, or a damaged one.
    """
    import pandas as pd  # half a second, for which readers of JSON need not wait

    try:
        text = file.read_text(encoding="utf-8")
        table = pd.read_csv(StringIO(text))
        table.drop(columns="cell", errors="ignore").to_numpy(dtype=float)
        is_whole = text.endswith("\n") and abs(table[list(needed)].to_numpy(dtype=float)).max() < float("inf")
    except (OSError, ValueError, KeyError) as error:
        raise damaged(file, error) from error
    if not is_whole:
        raise damaged(file, "cut short, or a number is missing or not finite")
    return table


def check_finite(file: Path, rows: "pd.DataFrame", columns: Sequence[str]) -> None:
    """Check that some rows of a table have finite numbers in all of these columns.

    Raises:
        UserError: one is missing or not finite; the message names the file.
    """
    missing = [column for column in columns if column not in rows]
    if missing or not (abs(rows[list(columns)].to_numpy(dtype=float)) < float("inf")).all():
        raise damaged(file, f"no column {missing[0]}" if missing else "a number is missing or not finite")
