"""Make the cards of teachers: where the weights of each come from, or how it is trained here."""

import sys
from typing import Any, cast

from kdcore import catalog
from kdcore.matrix.code import Card, Code
from kdcore.matrix.listed_teachers import COPIES, FILE, SUFFIXES, KnownTeachers, Published, own_copy
from kdcore.matrix.networks_section import used
from kdcore.matrix.params import Params, Teacher
from kdcore.matrix.train_card import settings_card, threads_card, validation_card
from kdcore.matrix.train_section import TrainSettings
from kdcore.system import workspace
from kdcore.system.errors import UserError, shown
from kdcore.system.files import file_sha256

SEED = 0
"""The seed of every teacher that is trained here."""
READING = ("weights_key", "rename", "mean", "std")
"""The keys of a teacher that say how its checkpoint is read."""


def check_teachers(params: Params, known_teachers: dict[str, Any], file: str) -> None:
    """Refuse published teachers that data/teachers.yaml does not list, even if there is a checkpoint on this machine.

    Args:
        params: the matrix.
        known_teachers: content of data/teachers.yaml.
        file: the file that the matrix was read from, for messages.

    Raises:
        UserError: names the teacher, and which teachers are listed.
    """
    known = KnownTeachers.of(known_teachers)
    for name, teacher in params.teachers.items():
        if teacher.source == "published":
            _listed(name, params.published_as(name), params.data.name, known, file)


def warn_of_drawn_test(params: Params, file: str) -> None:
    """Say on stderr which teachers may have been trained on the test images, for these are drawn here.

    Args:
        params: the matrix.
        file: the file that it was read from.
    """
    elsewhere = [name for name, teacher in params.teachers.items() if teacher.source != "train"]
    if elsewhere and getattr(params.data, "test_share", None):
        print(
            f"warning: {file}: data.test_share draws the test images here, and teachers from checkpoints may have been "
            f"trained on them: {', '.join(elsewhere)}; their accuracy, and what students learn from them, would be too "
            "good. Divide the images into train/ and test/ as they were for these teachers",
            file=sys.stderr,
        )


def teacher_card(name: str, teacher: Teacher, params: Params, known: KnownTeachers, code: Code) -> Card:
    """Make the card of a teacher: everything that determines its weights except its data set.

    Args:
        name: of the teacher.
        teacher: its section in params.yaml.
        params: the matrix.
        known: what data/teachers.yaml lists.
        code: the fingerprints of the code.

    Raises:
        UserError: a checkpoint is missing, another one than its checksum says, or not listed.
    """
    network, dataset = params.network_of(name), params.data.name
    card: Card = {"name": name, "student": network, "data": dataset, "source": teacher.source}
    card |= used(code.described, network)
    if teacher.source == "train":
        training = _teacher_training(teacher, params)
        return {**card, **training, "code": code.training(network, train=training["train"])}
    card |= threads_card(params.train)
    card |= {key: value for key in READING if (value := getattr(teacher, key)) is not None}
    code_used = {"student": code.network(network)}
    if teacher.source == "published":
        of_network = _listed(name, params.published_as(name), dataset, known, "params.yaml")
        card |= _published_accuracy(teacher, of_network, known)
        card |= {"sources": _published_sources(name, network, teacher, dataset, of_network)}
    else:
        listed = known.find(dataset, network) if name == network else None  # another name is another training
        card |= {"sha256": _checkpoint_sha256(name, teacher), **_published_accuracy(teacher, listed, known)}
        card |= {"member": teacher.member} if teacher.member else {}
    if teacher.otherwise == "train":
        card |= {"otherwise": "train", **_teacher_training(teacher, params)}
        code_used = code.training(network, train=card["train"])
    return {**card, "code": code_used}


def _teacher_training(teacher: Teacher, params: Params) -> Card:
    """Return how a teacher is trained here: only with settings of its own, which no student shares."""
    return {
        "method": catalog.VANILLA,
        "seed": SEED,
        "recipe": {"ce_weight": 1.0},
        "train": settings_card(cast(TrainSettings, teacher.train), catalog.VANILLA),
        **validation_card(params.data),
    }


def _published_accuracy(teacher: Teacher, listed: Published | None, known: KnownTeachers) -> Card:
    """Return the accuracy that a checkpoint should reach, where it is known."""
    published = teacher.published_top1
    if published is None and listed is not None:
        published = listed.published_top1
    return {"tolerance": known.tolerance, **({} if published is None else {"published_top1": published})}


def _listed(name: str, network: str, dataset: str, known: KnownTeachers, file: str) -> Published:
    listed = known.find(dataset, network)
    if listed is None:
        there = known.teachers.get(dataset)
        what = (
            f"of {dataset} it lists {', '.join(there)}" if there else f"it lists those of {', '.join(known.teachers)}"
        )
        raise UserError(
            f"{file}: teachers.{name}.source: {FILE} lists no published {network} of {dataset}; {what}. Set source: "
            "train, or the path or address of a checkpoint"
        )
    return listed


def _published_sources(name: str, network: str, teacher: Teacher, dataset: str, listed: Published) -> list[Card]:
    """List where a published teacher is taken from: only the user's own copy if there is one, else all listed."""
    own = own_copy(dataset, network)
    if own is not None:
        file = own.as_posix()
        return [{"file": file, "sha256": _checkpoint_sha256(name, teacher.model_copy(update={"source": file}))}]
    pinned = {"sha256": teacher.sha256} if teacher.sha256 else {}
    sources = [source.model_dump(exclude_none=True) | pinned for source in listed.sources]
    if not teacher.otherwise and all("by_hand" in source for source in sources):
        hints = "; ".join(source["by_hand"] for source in sources) or "no download is listed"
        raise UserError(
            f"params.yaml: teachers.{name}.source: no client can download a published {network} of {dataset} "
            f"({hints}). Put a copy at {COPIES / dataset / network}{SUFFIXES[1]}, or set source: train, or add "
            "otherwise: train"
        )
    return sources


def _checkpoint_sha256(name: str, teacher: Teacher) -> str:
    """Return the SHA-256 of a checkpoint: the declared one if the source is an address, else that of the file as it is
    now, which must match a declared one.
    """
    if "://" in teacher.source and teacher.sha256:
        return teacher.sha256
    try:
        found = file_sha256(workspace.find(teacher.source))
    except OSError as error:
        raise UserError(
            f"params.yaml: teachers.{name}.source: {shown(teacher.source)} cannot be read ({error.strerror}). "
            "Allowed: train, published, the path of a checkpoint or archive, or an http(s) address"
        ) from error
    if teacher.sha256 not in (None, found):
        raise UserError(
            f"params.yaml: teachers.{name}.sha256: {teacher.source} has sha256 {found}; correct one of both"
        )
    return found
