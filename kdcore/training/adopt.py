"""Teachers from published checkpoints: fetched, verified, measured. `experiment` trains the others."""

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore import checkpoints
from kdcore.data.dataset import Dataset
from kdcore.fetch import archives, download
from kdcore.networks.contract import Network
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, json_text, replace_text
from kdcore.training import inference, provenance, run_folder

PUBLISHED = "published"
KINDS = ("file", "address", "archive", "torchvision", "by_hand")
ARCHIVE_LIMIT = 16 * 2**30
"""Bytes that an archive of checkpoints may declare."""
Source = dict[str, Any]
"""As in a card: "file" (the user's own), "address", "archive" with "member", "torchvision" or "by_hand"; beside them,
where known, "sha256" and "archive_sha256", of which the first eight digits suffice, and "weights_key".
"""


@dataclass(frozen=True)
class Adopted:
    """The checkpoint that became a teacher."""

    source: str
    """Path or address."""
    member: str | None
    """Its path, where that is an archive."""
    sha256: str
    """Of the checkpoint."""
    archive_sha256: str | None
    trusted_on_first_use: bool
    """Whether it was downloaded without any checksum that it had to have."""


class NoSourceError(UserError):
    """None of a teacher's sources could be had.

    Args:
        name: of the teacher.
        dataset: its data set.
        tried: the sources in their order, each with the reason.
    """

    def __init__(self, name: str, dataset: str, tried: list[dict[str, str]]) -> None:
        reasons = "".join(f"\n- {one['source']}: {one['reason']}" for one in tried) or " no download is listed"
        self.tried = tried
        self.reasons = f"teacher {name}: no published checkpoint could be had:{reasons}"
        super().__init__(
            f"{self.reasons}\nput a copy at checkpoints/{dataset}/{name}.pth, or set teachers.{name}.source: train, or "
            "add otherwise: train"
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
        card: of stage teacher, with source, published_top1 and tolerance; and with sources, or sha256.
        dataset: on whose test images it is measured.
        out: the teacher's folder.
        device: where to measure.
        patience: how long to wait for servers.

    Returns:
        Top-1 accuracy in percent.

    Raises:
        UserError: the file cannot be had, is another one, does not fit the network, or is far below its published
            accuracy, which is no reason to try the next source. A NoSourceError where there were several to try.
    """
    network, adopted, tried = _first(card, dataset, device, patience)
    labels = torch.from_numpy(dataset.test.labels).to(device)
    top1 = inference.top1(inference.predict(network, dataset.test, dataset, device), labels).item()
    check_accuracy(card, adopted.source, top1)
    found = {"adopted": asdict(adopted), "tried": tried, "top1": round(top1, 4)}
    run_folder.write(out, network, [], {**card, **found, **provenance.describe(device)})
    return top1


def record_tried(out: Path, tried: list[dict[str, str]]) -> None:
    """Note in the folder of a teacher that was trained here which sources were tried before."""
    replace_text(out / run_folder.META, json_text({**run_folder.read_meta(out), "tried": tried}))


def check_accuracy(card: dict[str, Any], source: str, measured: float) -> None:
    """Stop when a checkpoint is far from what was published: other weights, data or preprocessing.

    Raises:
        UserError: `measured` (percent) is more than the card's tolerance below its published accuracy.
    """
    published, tolerance = card["published_top1"], card["tolerance"]
    if measured < published - tolerance:
        raise UserError(
            f"teacher {card['name']}: {source} reaches {measured:.2f}% here, {published - measured:.2f} points "
            f"below the published {published:.2f}% (allowed: {tolerance}); are weights, data set and class order "
            f"those of the publication? If so, set teachers.{card['name']}.published_top1"
        )


def _first(
    card: dict[str, Any], dataset: Dataset, device: torch.device, patience: download.Patience
) -> tuple[Network, Adopted, list[dict[str, str]]]:
    """The network from the first source that can be had, and why those before it could not."""
    tried: list[dict[str, str]] = []
    for source in card["sources"] if card["source"] == PUBLISHED else [_named(card)]:
        try:
            return *_restored(source, card, dataset, device, patience), tried
        except UserError as error:
            if card["source"] != PUBLISHED or "file" in source:  # nothing takes the place of what the user names or has
                raise UserError(f"teacher {card['name']}: {error}") from error
            place = next(str(source[kind]) for kind in KINDS if kind in source)
            tried.append({"source": place, "reason": str(error).removeprefix(f"{place}: ").replace("\n", "; ")})
    raise NoSourceError(card["name"], card["data"], tried)


def _named(card: dict[str, Any]) -> Source:
    """The source that params.yaml names by a path or an address."""
    if "member" in card:
        return {"archive": card["source"], "member": card["member"], "archive_sha256": card["sha256"]}
    return {"address": card["source"], "sha256": card["sha256"]}


def _restored(
    source: Source, card: dict[str, Any], dataset: Dataset, device: torch.device, patience: download.Patience
) -> tuple[Network, Adopted]:
    with tempfile.TemporaryDirectory() as folder:
        file, adopted = _fetched(source, Path(folder), patience)
        try:
            network = checkpoints.restore(
                card["student"],
                len(dataset.classes),
                file,
                device,
                stem=dataset.stem,
                weights_key=source.get("weights_key"),
            )
        except UserError:
            if adopted.trusted_on_first_use:
                download.forget(download.cached(adopted.source))
            raise
    return network, adopted


def _fetched(source: Source, folder: Path, patience: download.Patience) -> tuple[Path, Adopted]:
    """The checkpoint of a source, its checksums verified; a member of an archive in this folder."""
    if "by_hand" in source:
        raise UserError("no client can download it")
    sha256 = source.get("sha256")
    if "torchvision" in source:
        place, digits = _torchvision(source["torchvision"])
        sha256 = sha256 or digits
    else:
        place = next(source[kind] for kind in ("file", "address", "archive") if kind in source)
    if "archive" not in source:
        file, found = _file(place, sha256, patience)
        trusted = "://" in place and sha256 is None
        return file, Adopted(place, None, found, None, trusted_on_first_use=trusted)
    archive, found = _file(place, source.get("archive_sha256"), patience)
    try:
        file = archives.member(archive, source["member"], folder, limit=ARCHIVE_LIMIT)
        of_member = file_sha256(file)
        if sha256 is not None and not of_member.startswith(sha256):
            raise UserError(f"{place}: its member {source['member']} has sha256 {of_member}, not {sha256}")
    except UserError:
        if "://" in place and "archive_sha256" not in source:
            download.forget(archive)
        raise
    known = sha256 or source.get("archive_sha256")
    trusted = "://" in place and known is None
    return file, Adopted(place, source["member"], of_member, found, trusted_on_first_use=trusted)


def _file(place: str, sha256: str | None, patience: download.Patience) -> tuple[Path, str]:
    """The file of a path or address, downloads kept for later runs, and its sha256, which begins with this one."""
    if "://" in place:
        path = download.cached(place)
        return path, download.fetch([place], path, checksum=sha256 and f"sha256:{sha256}", patience=patience)
    path = Path(place)
    if not path.is_file():
        raise UserError(f"{place}: no such file; run 'dvc repro -f plan'")
    found = file_sha256(path)
    if sha256 is None or not found.startswith(sha256):
        raise UserError(f"{place}: has sha256 {found}, not {sha256}; run 'dvc repro -f plan' if it is right")
    return path, found


def _torchvision(name: str) -> tuple[str, str | None]:
    """Address of torchvision's weights, and the first digits of their sha256 where its file's name carries them."""
    from torchvision.models import get_weight  # a second to import, and only this source needs it

    try:
        address: str = get_weight(name).url
    except (KeyError, ValueError) as error:
        raise UserError("torchvision has no weights of this name") from error
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", address)
    return address, digits and digits[1]
