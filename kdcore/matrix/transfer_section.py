"""Sections `transfer` and `targets` of params.yaml: data sets on which a linear layer shows what frozen features are
worth, and how it is trained there. The network is not trained on them.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import Self

from kdcore.matrix import protocols
from kdcore.matrix.data_section import SOURCES, Data
from kdcore.matrix.section import Section, is_number
from kdcore.system.errors import shown, suggest

NAME = r"^[a-z][a-z0-9_]*$"
DOWNLOADED = tuple(name for name, allowed in SOURCES.items() if allowed.startswith("download"))
"""Data sets that are targets by their names alone: nothing says where they are, so they are downloaded."""
SMALLEST, LARGEST = 8, 1024
"""The side of the images that a network sees, in pixels."""
KEYS = re.compile(
    r"(?<![\w/.])data\.(?=(?:source|subset|image_size|image_column|label_column|test_share|augmentation)\b)"
)
"""Where a message names a key of section `data`."""
_DATA: TypeAdapter[Any] = TypeAdapter(Data)


class Target(Section):
    """A data set of section `targets`. In params.yaml its keys stand beside those of the data set."""

    data: Data
    """The keys of section `data`; `name` is that of the target where it is left out, and `source` is download."""
    protocols: list[str]
    """How the linear layer is trained: names of protocols (docs/transfer.md)."""
    image_size: int | None
    """Height and width of the images that the networks see; absent, those of the images that they were trained on."""


def renamed(message: str, target: str) -> str:
    """Name the keys of a target, in a message about its data, as they stand in params.yaml."""
    return KEYS.sub(f"targets.{target}.", message)


def _target(name: str, given: Any) -> Target:
    """Read one target, with the keys of its data set, of which `name` may be left out, and `protocol`."""
    if not isinstance(given, dict):
        raise ValueError(f"{shown(given)}: must be keys and values (key: value)")
    section = {"name": name, **given}
    wanted = section.pop("protocol", protocols.DEFAULT)
    names = [protocols.check_name(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"protocol: {shown(wanted)}: must be a name, or a list of different ones")
    if "validation" in section:
        raise ValueError("validation: a target keeps no validation images, for nothing is chosen on it; remove it")
    size = section.pop("image_size", None) if section["name"] in DOWNLOADED else None
    if size is not None and not (is_number(size, int) and SMALLEST <= size <= LARGEST):
        raise ValueError(f"image_size: {shown(size)}: must be a whole number from {SMALLEST} to {LARGEST}")
    if section["name"] in DOWNLOADED:
        section.setdefault("source", "download")
    data = _data(section)
    if data.name == "imagenet" or getattr(data, "augmentation", None) == "random_resized_crop":
        raise ValueError(
            "is decoded as it is needed, and a target is decoded once; name its folder as a data set of your own, with "
            "a name, image_size and augmentation: resize_crop"
        )
    return Target(data=data, protocols=names, image_size=getattr(data, "image_size", size))


def _data(section: dict[str, Any]) -> Any:
    from kdcore.matrix.problems import describe  # it imports this package's sections

    try:
        return _DATA.validate_python(section)
    except ValidationError as error:
        raise ValueError("; ".join(describe(problem, "") for problem in error.errors())) from error


def _targets(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    found = {}
    for name, section in given.items():
        try:
            found[name] = _target(name, section)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


class TransferSections(Section):
    """The keys of params.yaml that name targets."""

    transfer: list[str]
    """Names of targets: of `targets`, or of data sets that can be downloaded."""
    targets: Annotated[dict[Annotated[str, Field(pattern=NAME, max_length=64)], Target], BeforeValidator(_targets)] = (
        Field(default_factory=dict)
    )
    """Data sets by names of their own, or where known ones are, and the protocols of their probes."""

    @model_validator(mode="after")
    def _transfer_has_targets(self) -> Self:
        for name in self.transfer:
            known = [*self.targets, *DOWNLOADED]
            if name not in known:
                raise ValueError(
                    f"transfer: {shown(name)}: there is no such target.{suggest(name, known)} It may be "
                    f"{', '.join(known)}; of another data set, say where it is: 'targets: {{{name}: {{source: "
                    "folder:<path>, image_size: 32}}'"
                )
            if name == getattr(getattr(self, "data", None), "name", None):
                raise ValueError(
                    f"transfer: {name}: is the data set that the networks are trained on; take another one, or give it "
                    f"another name: 'targets: {{{name}_again: {{name: {name}, ...}}}}'"
                )
        twice = sorted({name for name in self.transfer if self.transfer.count(name) > 1})
        if twice:
            raise ValueError(f"transfer: names {', '.join(twice)} more than once; keep one of each")
        return self

    def target(self, name: str) -> Target:
        """Return a target of `transfer`."""
        return self.targets[name] if name in self.targets else _target(name, {})
