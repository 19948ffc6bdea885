"""Read data/teachers.yaml into typed objects: which teachers others have trained; find a user's own copies of them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from kdcore.matrix.params import Percent
from kdcore.matrix.section import Positive, Section
from kdcore.system import workspace
from kdcore.system.errors import UserError, check_address, named, shown

FILE = "data/teachers.yaml"
COPIES = Path("checkpoints")
SUFFIXES = (".safetensors", ".pth")
KINDS = ("address", "archive", "torchvision", "by_hand")
Address = Annotated[str, AfterValidator(check_address)]
Digits = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]


class Source(Section):
    """One place from which a checkpoint can be had; exactly one of the fields in `KINDS` is set."""

    address: Address | None = None
    archive: Address | None = None
    """The address of the archive that holds the checkpoint."""
    torchvision: Annotated[str, Field(pattern=r"^\w+\.\w+$")] | None = None
    """The name of the weights in torchvision, e.g. ResNet34_Weights.IMAGENET1K_V1."""
    by_hand: str | None = None
    """Where a person may get the checkpoint, for messages; no program can download it."""
    member: str | None = None
    """The path of the checkpoint inside the archive."""
    sha256: Digits | None = None
    """The SHA-256 of the checkpoint, or its first digits (at least eight)."""
    archive_sha256: Digits | None = None
    weights_key: str | None = None
    """The key under which the file holds the state dict; if absent, it is searched for."""

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"must have exactly one of {', '.join(KINDS)}; it has {' and '.join(kinds) or 'none'}")
        if (self.member is None) != (self.archive is None):
            raise ValueError("an archive needs the member that is the checkpoint, and nothing else has one")
        if self.archive_sha256 and not self.archive:
            raise ValueError("archive_sha256 is for an archive")
        return self


class Published(Section):
    """A teacher that others trained."""

    published_top1: Percent | None
    """The published top-1 accuracy, in percent; None if none was published."""
    sources: list[Source]
    """Where the checkpoint can be had, in the order in which the sources are tried."""


class KnownTeachers(Section):
    """The content of data/teachers.yaml."""

    tolerance: Positive
    """How many percentage points a measured accuracy may be below the published one."""
    teachers: dict[str, dict[str, Published]]
    """Name of a data set -> name of a network -> its teacher."""

    @classmethod
    def of(cls, content: dict[str, Any]) -> "KnownTeachers":
        """Check the content of data/teachers.yaml, and return it as an object.

        Raises:
            UserError: lists every problem with its key.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = []
            for problem in error.errors():
                value = "" if problem["type"] == "value_error" else f"{shown(problem['input'])}: "
                message = problem["msg"].removeprefix("Value error, ")
                problems.append(f"{FILE}: {'.'.join(map(named, problem['loc']))}: {value}{message}")
            raise UserError("\n".join(problems)) from error

    def find(self, dataset: str, network: str) -> Published | None:
        """Return the entry of a network on a data set; None if there is none."""
        return self.teachers.get(dataset, {}).get(network)


def own_copy(dataset: str, network: str) -> Path | None:
    """Find the user's own copy of a checkpoint, which lies in checkpoints/<data set>/; None if there is none.

    The path is relative to the project; an experiment's temporary folder has the copies of its workspace.

    Raises:
        UserError: there are two copies, one per suffix.
    """
    copies = [COPIES / dataset / f"{network}{suffix}" for suffix in SUFFIXES]
    found = [path for path in copies if workspace.find(path).is_file()]
    if len(found) > 1:
        raise UserError(f"{' and '.join(map(str, found))}: are both there; keep the one that is meant")
    return found[0] if found else None
