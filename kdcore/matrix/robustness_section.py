"""The keys of params.yaml that name corrupted test images, on which the networks of every pair are measured."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, model_validator

from kdcore import catalog
from kdcore.matrix.code import Card, Code
from kdcore.matrix.section import Section, Text
from kdcore.system import workspace
from kdcore.system.errors import UserError, named
from kdcore.system.files import expanded

if TYPE_CHECKING:
    from kdcore.matrix.params import Params

CIFAR100_C, OURS = "cifar100_c", "corruptions"
SETS = [CIFAR100_C, OURS]
"""The sets of corrupted images: the published CIFAR-100-C, and corruptions that are made here for any data set."""
DOWNLOAD = "download"
FOLDER = Path("evaluations/robustness")
"""Where stage robustness writes."""
MEASURING = "kdcore.results.robustness.measure"
"""The module that measures; its fingerprint stands in the cards."""


def _check_set(name: str) -> str:
    catalog.check_known(name, SETS, "set of corrupted images")
    return name


def _check_has_source(name: str) -> str:
    if name != CIFAR100_C:
        raise ValueError(f"{name!r}: only {CIFAR100_C} has a source; {OURS} are made here; remove it")
    return name


def _check_once(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} more than once; keep one of each")
    return names


class Robustness(Section):
    """The keys of params.yaml that say on which corrupted test images networks are measured."""

    robustness: Annotated[list[Annotated[str, AfterValidator(_check_set)]], AfterValidator(_check_once)]
    """Sets of corrupted test images on which every network is measured; empty measures none."""
    robustness_sources: dict[Annotated[str, AfterValidator(_check_set), AfterValidator(_check_has_source)], Text] = (
        Field(default_factory=dict)
    )
    """Published set -> the path of a copy of its archive, or of the folder extracted from it; absent, it is downloaded
    from its published address.
    """

    @model_validator(mode="after")
    def _is_of_the_data_set(self) -> "Robustness":
        name = getattr(self, "data").name  # noqa: B009 - `Params` has it, which is made from this class
        if CIFAR100_C in self.robustness and name != "cifar100":
            raise ValueError(
                f"robustness: {CIFAR100_C} holds corrupted test images of cifar100, and data.name is {name}; remove "
                f"it, or name {OURS}, which are made here for any data set"
            )
        return self

    @property
    def published_copy(self) -> str:
        """Where CIFAR-100-C comes from: "download", or a path."""
        return self.robustness_sources.get(CIFAR100_C, DOWNLOAD)


def folder(name: str, pair: str) -> Path:
    """Return the folder of what is measured of a pair on a set of corrupted images."""
    return FOLDER / name / pair


def cards(params: "Params", evaluations: dict[str, Card], code: Code) -> dict[str, Card]:
    """Return the cards of stage robustness: pair and set -> what is measured on which images.

    Args:
        params: the matrix.
        evaluations: pair -> the card of its stage evaluate, which names the networks.
        code: the fingerprints of the code.

    Raises:
        UserError: the copy of CIFAR-100-C is not there.
    """
    check_there(params)
    return {
        f"robustness/{pair}-{name}": {
            **card,
            "set": name,
            **({"source": params.published_copy} if name == CIFAR100_C else {}),
            "code": {"robustness": code.of(MEASURING)},
        }
        for pair, card in evaluations.items()
        for name in params.robustness
    }


def check_there(params: "Params", file: str = "params.yaml") -> None:
    """Refuse a copy of CIFAR-100-C that does not exist on this machine, if it is needed.

    Args:
        params: the matrix.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the path and what is allowed.
    """
    source = params.published_copy
    if CIFAR100_C not in params.robustness or source == DOWNLOAD:
        return
    if not os.path.exists(workspace.find(expanded(source))):  # Path.exists() raises errors for long names
        raise UserError(
            f"{file}: robustness_sources.{CIFAR100_C}: there is no {named(source)}. Allowed: {DOWNLOAD}, or the path "
            "of CIFAR-100-C.tar or of the folder extracted from it"
        )
