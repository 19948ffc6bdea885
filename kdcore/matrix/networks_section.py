"""Section `networks` of params.yaml: networks of timm, torchvision and the user's own functions, by a name each."""

import json
import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from kdcore import catalog
from kdcore.matrix.section import Section, Text
from kdcore.system import yamlfile
from kdcore.system.errors import UserError, shown
from kdcore.system.files import is_installed

if TYPE_CHECKING:
    from kdcore.matrix.code import Card
    from kdcore.matrix.params import Params

KINDS = ("timm", "torchvision", "factory", "zoo")
TAKEN_BY = {
    "image_size": KINDS,
    "stem": ("torchvision", "zoo"),
    "stages": ("timm", "torchvision", "factory"),
    "classifier": ("timm", "torchvision", "factory"),
    "drop_path": KINDS,
    "pretrained": ("timm", "torchvision"),
    "arguments": ("timm", "torchvision", "factory"),
}
"""Optional key -> the kinds of networks that take it."""
RESERVED = {
    "num_classes": "it is the data set's",
    "pretrained": "the key pretrained is for it",
    "weights": "the key pretrained is for it",
    "drop_path_rate": "the key drop_path is for it",
    "stochastic_depth_prob": "the key drop_path is for it",
}
"""Arguments that are given otherwise."""
LONGEST = 64
SIZES = {"cifar100": 32, "tiny_imagenet": 64, "stl10": 96, "cub200": 224, "imagenet": 224}
"""Known data set -> height and width of its images, where section data has no key for it."""


def check_name(name: str) -> str:
    """Refuse a name that cannot stand in the names of files and cells, or that is another network's."""
    if not catalog.NAME.fullmatch(name) or len(name) > LONGEST:
        raise ValueError(
            f"{shown(name)} must be lower-case letters, digits and _, a letter first, at most {LONGEST} characters"
        )
    if name in catalog.networks():
        raise ValueError(f"{name}: is a network of the zoo; take another name, for example {name}_of_mine")
    return name


def _check_zoo(name: str) -> str:
    catalog.check_known(name, list(catalog.networks()), "network of the zoo")
    return name


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    for key, reason in RESERVED.items():
        if key in arguments:
            raise ValueError(f"{key}: cannot be given here, for {reason}; remove it")
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(arguments)}: must be numbers, words, true, false, and lists of them") from error
    return arguments


Paths = Annotated[list[Text], Field(min_length=2)]


class NamedNetwork(Section):
    """One network: exactly one of timm, torchvision, factory and zoo, and options."""

    timm: Text | None = None
    """A name of timm's, such as deit_tiny_patch16_224."""
    torchvision: Text | None = None
    """A name of torchvision's classifiers, such as resnet18."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")] | None = None
    """The user's own function, package.module.function: of num_classes and `arguments`, returns a torch.nn.Module that
    maps images (B, 3, H, W) to logits (B, C).
    """
    zoo: Annotated[str, AfterValidator(_check_zoo)] | None = None
    """One of `python -m stages.networks`, for another image size or stem."""
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Height and width, in pixels, to which the network resizes its images; absent, it sees them as they are."""
    stem: Literal["small", "large"] | None = None
    """The first layer: of the zoo as everywhere, absent the data set's; small makes that of torchvision's ResNets a 3 x
    3 convolution of stride 1, without max pool.
    """
    stages: Paths | None = None
    """The parts whose outputs are the maps of stages, the stem's first; absent, they are found."""
    classifier: Text | None = None
    """The linear head; absent, it is found."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The rate of stochastic depth."""
    pretrained: bool = False
    """Whether training begins with the published weights, which timm or torchvision downloads, and a new head."""
    arguments: Annotated[dict[Text, Any], AfterValidator(_check_arguments)] | None = None
    """Other keyword arguments of what makes the network."""

    @model_validator(mode="after")
    def _consistent(self) -> "NamedNetwork":
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"must have exactly one of {', '.join(KINDS)}; it has {' and '.join(kinds) or 'none'}")
        for key, takers in TAKEN_BY.items():
            if getattr(self, key) not in (None, False) and kinds[0] not in takers:
                raise ValueError(f"{key}: is for {' and '.join(takers)}, not for {kinds[0]}; remove it")
        return self

    def spec(self) -> dict[str, Any]:
        """Return the keys that are given."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


_KNOWN: dict[str, dict[str, Any]] = {}
"""Descriptions that this process has made, by what they are made from: each needs the network itself."""


def described(params: "Params", file: str = "params.yaml") -> "dict[str, Card]":
    """Describe all networks that a params file names. torch is imported only where it names any.

    Args:
        params: the matrix.
        file: the file that it was read from, for messages.

    Returns:
        Name -> what cards hold, see `kdcore.networks.describing.described`.

    Raises:
        UserError: names every network that cannot be made, with the key and the reason.
    """
    if not params.networks:
        return {}
    size = _image_size(params)
    found, problems = {}, []
    for name, one in params.networks.items():
        try:
            found[name] = _described(one.spec(), size)
        except UserError as error:
            problems.append(f"{file}: networks.{name}.{error}")
    if problems:
        raise UserError("\n".join(problems))
    return found


def warn_of_files(params: "Params", file: str = "params.yaml", pipeline: Path = Path("dvc.yaml")) -> None:
    """Name on stderr the files of the user's functions that DVC does not compare: when they change, nothing runs.

    Args:
        params: the matrix.
        file: the file that it was read from.
        pipeline: the file with the stages.
    """
    factories = {name: one.factory for name, one in params.networks.items() if one.factory is not None}
    if not factories:
        return
    from kdcore.networks import making  # imports torch

    listed = yamlfile.read(pipeline)["stages"]["plan"]["deps"]
    compared = {os.path.realpath(path) for dep in listed for path in (dep if isinstance(dep, dict) else [dep])}
    for name, factory in factories.items():
        sources = [Path(os.path.realpath(path)) for path in making.files_of(factory)]
        others = [one for one in sources if not compared & {str(path) for path in (one, *one.parents)}]
        if others and not is_installed(sources[0]):
            print(
                f"warning: {file}: networks.{name}: DVC does not compare {', '.join(map(os.path.relpath, others))}, so "
                "nothing is trained anew when that changes; add it, or its folder, to stages.plan.deps in "
                f"{pipeline}, or run 'dvc repro -f plan' after every change",
                file=sys.stderr,
            )


def to_list(names: list[str], params: "Params | None", file: str) -> "tuple[list[str], dict[str, Card]]":
    """Choose networks to list, and describe those that a params file names, each with the size that it sees.

    Args:
        names: those that are wanted; none wants all of the zoo, or of the file if there is one.
        params: content of the file; None if there is none.
        file: its path, for messages.

    Raises:
        UserError: there is no network of a name; or see `described`.
    """
    zoo, named = [*catalog.networks()], [*params.networks] if params else []
    try:
        for name in names:
            catalog.check_known(name, [*zoo, *named], "network")
    except ValueError as error:
        raise UserError(str(error)) from error
    if params is None:
        return names or zoo, {}
    size = _image_size(params)
    return names or named, {name: {"image_size": size, **one} for name, one in described(params, file).items()}


def _image_size(params: "Params") -> int:
    return getattr(params.data, "image_size", None) or SIZES[params.data.name]


def _described(spec: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    from kdcore.networks import describing  # imports torch, which takes seconds

    key = json.dumps([spec, image_size], sort_keys=True)
    if key not in _KNOWN:
        _KNOWN[key] = describing.described(spec, image_size)
    return deepcopy(_KNOWN[key])


def used(found: "Mapping[str, Card]", *names: str | None) -> "Card":
    """Return the descriptions of those of some networks that are described, as a part of a card; else nothing."""
    descriptions = {name: found[name] for name in sorted({name for name in names if name is not None}) if name in found}
    return {"networks": descriptions} if descriptions else {}
