"""data/teachers.yaml as typed objects: which teachers others trained, and where a user's own copies are."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from kdcore.matrix.params import Percent
from kdcore.matrix.section import Positive, Section
from kdcore.system.errors import UserError, check_address, named, shown

FILE = "data/teachers.yaml"
COPIES = Path("checkpoints")
SUFFIXES = (".safetensors", ".pth")
KINDS = ("address", "archive", "torchvision", "by_hand")
Address = Annotated[str, AfterValidator(check_address)]
Digits = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]


class Source(Section):
    """One place where a checkpoint may be had; exactly one of `KINDS`."""

    address: Address | None = None
    archive: Address | None = None
    """Address of the archive that holds it."""
    torchvision: Annotated[str, Field(pattern=r"^\w+\.\w+$")] | None = None
    """Name of its weights there, e.g. ResNet34_Weights.IMAGENET1K_V1."""
    by_hand: str | None = None
    """Page where a person may download it."""
    member: str | None = None
    """Its path in the archive."""
    sha256: Digits | None = None
    """SHA-256 of the checkpoint, or its first digits."""
    archive_sha256: Digits | None = None
    weights_key: str | None = None
    """The key of the state dict in the file; searched when absent."""

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
    """Published top-1 accuracy, in percent."""
    sources: list[Source]
    """Sources, in the order in which they are tried."""


class KnownTeachers(Section):
    """The content of data/teachers.yaml."""

    tolerance: Positive
    """Points by which a measured accuracy may be below the published one."""
    teachers: dict[str, dict[str, Published]]
    """Data set -> network -> teacher."""

    @classmethod
    def of(cls, content: dict[str, Any]) -> "KnownTeachers":
        """Check the file's content.

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
        """Find the entry of a network on a data set."""
        return self.teachers.get(dataset, {}).get(network)


def own_copy(dataset: str, network: str) -> Path | None:
    """The user's copy of a checkpoint, below the project.

    Raises:
        UserError: there are two.
    """
    copies = [COPIES / dataset / f"{network}{suffix}" for suffix in SUFFIXES]
    found = [path for path in copies if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{' and '.join(map(str, found))}: are both there; keep the one that is meant")
    return found[0] if found else None
