"""Fingerprints of the code that trains a network, as its card holds them."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdcore import catalog
from kdcore.matrix import train_images
from kdcore.matrix.fingerprint import ROOT, fingerprint
from kdcore.system.errors import UserError

Card = dict[str, Any]
FOREIGN, REGIMES = "kdcore.networks.foreign", "kdcore.data.regimes"


class Code:
    """Fingerprints of the project's code, each computed once.

    Args:
        root: the folder that holds the sources of kdcore.
        described: the descriptions of networks that params.yaml names, see `kdcore.matrix.networks_section`.
    """

    def __init__(self, root: Path, described: Mapping[str, Card] = MappingProxyType({})) -> None:
        self.described = described
        self.of = cache(partial(fingerprint, root=root))

    def trainer(self) -> str:
        """The fingerprint of the code that turns a card into a trained network."""
        return self.of("kdcore.training.lockstep")  # it imports the loop

    def shared(self) -> dict[str, str]:
        """The fingerprints of what cells of all networks and methods share: the trainer, and regimes of images."""
        return {"trainer": self.trainer(), "images": self.of(REGIMES)}

    def network(self, name: str) -> str:
        """The fingerprint of one member of a family; of a network that params.yaml names that of what wraps it, and, of
        one of the zoo, of its family too. The rest of such a network stands in its description.
        """
        if name in self.described:
            zoo = self.described[name].get("zoo")
            return "-".join([self.of(FOREIGN), *([self.network(zoo)] if zoo else [])])
        return self.of(catalog.networks()[name].module, only_network=name)

    def training(
        self,
        student: str,
        teacher: str | None = None,
        method: str = catalog.VANILLA,
        *,
        train: Mapping[str, Any] = MappingProxyType({}),
    ) -> Card:
        """The fingerprints of all code that trains a network, by what it does; that of regimes of training data only
        where its settings `train` have one.
        """
        code: Card = {"trainer": self.trainer(), "student": self.network(student)}
        if teacher is not None:
            code["method"] = {entry.name: self.of(entry.module) for entry in catalog.terms(method)}
            code["teacher"] = self.network(teacher)
        if train_images.is_set(train):
            code["images"] = self.of(REGIMES)
        return code


def check_code(card: Card, file: Path, *, loaded: Mapping[str, str]) -> None:
    """Refuse to train by a card that was written for other code: its results would be taken for those of that code.

    Args:
        card: of a cell, or of a teacher that is trained here.
        file: the card's, for the message.
        loaded: fingerprints of parts when this process loaded them, which may be older than the files.

    Raises:
        UserError: a fingerprint differs.
    """
    code = Code(ROOT, card.get("networks", {}))
    now = code.training(card["student"], card.get("teacher"), card["method"], train=card["train"])
    refuse_other_code(card, file, {key: loaded.get(key, value) for key, value in now.items()})


def refuse_other_code(card: Card, file: Path, now: Card) -> None:
    """Raise a UserError where a card holds fingerprints, and others than these."""
    if "code" in card and card["code"] != now:
        parts = ", ".join(key for key in now if card["code"].get(key) != now[key])
        raise UserError(
            f"{file}: the code has changed since the plan ({parts}); run the same command again, to plan anew"
        )
