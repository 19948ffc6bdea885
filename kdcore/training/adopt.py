"""Adopt published checkpoints as teachers: fetch, verify and measure them. `experiment` trains other teachers."""

import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore import checkpoints
from kdcore.data.dataset import Dataset
from kdcore.fetch import archives, download
from kdcore.networks.contract import Network
from kdcore.networks.input_affine import Normalisation
from kdcore.system import workspace
from kdcore.system.errors import UserError, shown
from kdcore.system.files import file_sha256, json_text, replace_text
from kdcore.training import checked_teacher, provenance, run_folder

PUBLISHED = "published"
KINDS = ("file", "address", "archive", "torchvision", "by_hand")
ARCHIVE_LIMIT = 16 * 2**30
"""Most bytes that the members of an archive of checkpoints may have together."""
Source = dict[str, Any]
"""One source of a card. It has one of "file" (the user's own), "address", "archive" (with "member"), "torchvision" and
"by_hand"; and, if known, "sha256" and "archive_sha256", of which the first eight digits suffice, and "weights_key".
"""


@dataclass(frozen=True)
class Adopted:
    """The checkpoint that became a teacher."""

    source: str
    """Path or address of the checkpoint, or of the archive that holds it."""
    member: str | None
    """Path of the checkpoint in the archive; None if there is no archive."""
    sha256: str
    """Checksum of the checkpoint."""
    archive_sha256: str | None
    trusted_on_first_use: bool
    """Whether it was downloaded without a known checksum."""


class NoSourceError(UserError):
    """None of a teacher's sources could be had.

    Args:
        card: the teacher's.
        tried: the sources in their order, each with the reason why it failed.
    """

    def __init__(self, card: dict[str, Any], tried: list[dict[str, str]]) -> None:
        name, copy = card["name"], f"checkpoints/{card['data']}/{card['student']}.pth"
        reasons = "".join(f"\n- {one['source']}: {one['reason']}" for one in tried) or " no download is listed"
        self.tried = tried
        self.reasons = f"teacher {name}: no published checkpoint could be had:{reasons}"
        super().__init__(
            f"{self.reasons}\nput a copy at {copy}, or set teachers.{name}.source: train, or add otherwise: train"
        )


def adopt_teacher(
    card: dict[str, Any],
    dataset: Dataset,
    out: Path,
    device: torch.device,
    *,
    patience: download.Patience = download.PATIENT,
) -> float:
    """Make a published checkpoint a teacher: write its weights and its accuracy, measured here.

    Args:
        card: card of stage teacher, with source and tolerance; with sources, or sha256; and, where they are given, with
            published_top1, weights_key, rename, and the mean and std that the network was trained with.
        dataset: holds the test images on which it is measured.
        out: the teacher's folder.
        device: where to measure.
        patience: how long to wait for servers.

    Returns:
        Top-1 accuracy in percent.

    Raises:
        UserError: the file cannot be had, is another one, does not fit the network, or is not as accurate as it should
            be (see `checked_teacher`), which is no reason to try the next source. A NoSourceError where there were
            several to try.
    """
    network, adopted, tried = _first(card, dataset, device, patience)
    top1 = checked_teacher.measure(network, dataset)
    checked_teacher.check(card, adopted.source, top1, network, dataset)
    measured = {"adopted": asdict(adopted), "tried": tried, "top1": round(top1, 4)}
    seen = run_folder.seen(dataset)
    run_folder.write(out, network, [], {**card, **measured, **seen, **provenance.describe(device)})
    return top1


def record_tried(out: Path, tried: list[dict[str, str]]) -> None:
    """Note in the folder of a teacher that was trained here which sources were tried before."""
    replace_text(out / run_folder.META, json_text({**run_folder.read_meta(out), "tried": tried}))


def check_fits(card: dict[str, Any], dataset: Dataset) -> None:
    """Refuse a checkpoint on this machine that does not fit its network, without measuring it.

    Args:
        card: card of stage teacher, whose source is a file, or whose first one is.
        dataset: has the classes.

    Raises:
        UserError: the file cannot be read, is another one, or does not fit.
    """
    source = card["sources"][0] if card["source"] == PUBLISHED else _named(card)
    try:
        _restored(source, card, dataset, torch.device("cpu"), download.PATIENT)
    except UserError as error:
        raise UserError(f"teacher {card['name']}: {error}") from error


def _first(
    card: dict[str, Any], dataset: Dataset, device: torch.device, patience: download.Patience
) -> tuple[Network, Adopted, list[dict[str, str]]]:
    """Return the network of the first source that works, and the reasons why those before it did not."""
    tried: list[dict[str, str]] = []
    for source in card["sources"] if card["source"] == PUBLISHED else [_named(card)]:
        try:
            return *_restored(source, card, dataset, device, patience), tried
        except UserError as error:
            if card["source"] != PUBLISHED or "file" in source:  # nothing takes the place of what the user names or has
                raise UserError(f"teacher {card['name']}: {error}") from error
            place = next(str(source[kind]) for kind in KINDS if kind in source)
            tried.append({"source": place, "reason": str(error).removeprefix(f"{place}: ").replace("\n", "; ")})
    raise NoSourceError(card, tried)


def _named(card: dict[str, Any]) -> Source:
    """Return the source that params.yaml names by a path or an address."""
    if "member" in card:
        return {"archive": card["source"], "member": card["member"], "archive_sha256": card["sha256"]}
    return {"address": card["source"], "sha256": card["sha256"]}


def _restored(
    source: Source, card: dict[str, Any], dataset: Dataset, device: torch.device, patience: download.Patience
) -> tuple[Network, Adopted]:
    with tempfile.TemporaryDirectory() as folder:
        file, adopted = _fetched(source, Path(folder), patience)
        try:
            _check_record(card, file, dataset)
            network = checkpoints.restore(
                card["student"],
                len(dataset.classes),
                file,
                device,
                stem=dataset.stem,
                described=card.get("networks"),
                weights_key=card.get("weights_key", source.get("weights_key")),
                rename=card.get("rename"),
                images=Normalisation(dataset.mean, dataset.std),
                own=Normalisation(card["mean"], card["std"]) if "mean" in card else None,
                classes=dataset.classes,
            )
        except UserError:
            if adopted.trusted_on_first_use:
                download.forget(download.cached(adopted.source))
            raise
    return network, adopted


def _check_record(card: dict[str, Any], file: Path, dataset: Dataset) -> None:
    """Compare a teacher with what the folder of a run, or an exported file, says of its weights.

    Raises:
        UserError: they were trained on images of another normalisation than they would see.
    """
    meta, own = run_folder.recorded(file)
    wanted = Normalisation(*((card["mean"], card["std"]) if "mean" in card else (dataset.mean, dataset.std)))
    if own is not None and not own.is_close(wanted):
        raise UserError(
            f"{file}: was trained on images normalised by {own}, as its record says, and would see {wanted}; set "
            f"teachers.{card['name']}.mean: {[*own.mean]} and std: {[*own.std]}"
        )
    name, network = meta.get("student"), card["student"]
    was, now = (about.get("networks", {}).get(one, one) for about, one in ((meta, name), (card, network)))
    if name is not None and was != now:
        print(
            f"warning: {file}: was trained as {shown(was)}, as its record says; as {shown(now)} it may see images "
            f"otherwise (teachers.{card['name']}.network names it, section networks describes it)",
            file=sys.stderr,
        )


def _fetched(source: Source, folder: Path, patience: download.Patience) -> tuple[Path, Adopted]:
    """Fetch the checkpoint of a source and verify its checksums; a member of an archive goes into `folder`."""
    if "by_hand" in source:
        raise UserError("no client can download it")
    sha256 = source.get("sha256")
    if "torchvision" in source:
        place, digits = _torchvision(source["torchvision"])
        sha256 = sha256 or digits
    else:
        place = next(source[kind] for kind in ("file", "address", "archive") if kind in source)
    if "archive" not in source:
        file, file_sha = _file(place, sha256, patience)
        trusted = "://" in place and sha256 is None
        return file, Adopted(place, None, file_sha, None, trusted_on_first_use=trusted)
    archive, archive_sha = _file(place, source.get("archive_sha256"), patience)
    try:
        file = archives.member(archive, source["member"], folder, limit=ARCHIVE_LIMIT)
        member_sha = file_sha256(file)
        if sha256 is not None and not member_sha.startswith(sha256):
            raise UserError(f"{place}: its member {source['member']} has sha256 {member_sha}, not {sha256}")
    except UserError:
        if "://" in place and "archive_sha256" not in source:
            download.forget(archive)
        raise
    known = sha256 or source.get("archive_sha256")
    trusted = "://" in place and known is None
    return file, Adopted(place, source["member"], member_sha, archive_sha, trusted_on_first_use=trusted)


def _file(place: str, sha256: str | None, patience: download.Patience) -> tuple[Path, str]:
    """Return the file of a path or address, and its sha256; downloads are kept for later runs.

    Raises:
        UserError: the file cannot be had, or its sha256 does not begin with the digits that are given.
    """
    if "://" in place:
        path = download.cached(place)
        return path, download.fetch([place], path, checksum=sha256 and f"sha256:{sha256}", patience=patience)
    path = workspace.find(place)
    if not path.is_file():
        raise UserError(f"{place}: no such file; run 'dvc repro -f plan'")
    file_sha = file_sha256(path)
    if sha256 is None or not file_sha.startswith(sha256):
        raise UserError(f"{place}: has sha256 {file_sha}, not {sha256}; run 'dvc repro -f plan' if it is right")
    return path, file_sha


def _torchvision(name: str) -> tuple[str, str | None]:
    """Return the address of torchvision's weights, and the first digits of their sha256 if the file's name has them."""
    from torchvision.models import get_weight  # a second to import, and only this source needs it

    try:
        address: str = get_weight(name).url
    except (KeyError, ValueError) as error:
        raise UserError("torchvision has no weights of this name") from error
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", address)
    return address, digits and digits[1]
