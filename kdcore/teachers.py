"""Teachers from published checkpoints: fetched, verified, measured. (Others are trained by `kdcore.experiment`.)"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
import torch

from kdcore import checkpoints, inference, provenance, runs
from kdcore.data.store import Dataset
from kdcore.errors import UserError


def adopt(card: dict[str, Any], dataset: Dataset, out: Path, device: torch.device) -> float:
    """Make a published checkpoint a teacher: write its weights and its accuracy, measured here.

    Args:
        card: of stage teacher, with source, sha256, published_top1 and tolerance.
        dataset: on whose test images it is measured.
        out: the teacher's folder.
        device: where to measure.

    Returns:
        Top-1 accuracy in percent.

    Raises:
        UserError: the file cannot be had, is another one, does not fit the network, or is far below its published
            accuracy.
    """
    with tempfile.TemporaryDirectory() as downloads:
        file = fetch(card["source"], card["sha256"], Path(downloads))
        network = checkpoints.restore(card["student"], len(dataset.classes), file, device, stem=dataset.stem)
    labels = torch.from_numpy(dataset.test.labels).to(device)
    top1 = inference.top1(inference.predict(network, dataset.test, dataset, device), labels).item()
    check_accuracy(card, top1)
    runs.write(out, network, [], {**card, "top1": round(top1, 4), **provenance.describe(device)})
    return top1


def fetch(source: str, sha256: str, folder: Path) -> Path:
    """The checkpoint file of a path or address, its checksum verified.

    Args:
        source: a path, or an http(s) address, which is downloaded.
        sha256: of the file.
        folder: where a download goes.

    Raises:
        UserError: the file cannot be had, or is another one; a wrong download is removed.
    """
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"teacher {source}: no such file")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise UserError(
                f"teacher {source}: has sha256 {found}, not {sha256}; run 'dvc repro -f plan' if it is right"
            )
        return path
    try:
        name = Path(urlsplit(source).path).name or "checkpoint.pth"
        return Path(pooch.retrieve(source, known_hash=f"sha256:{sha256}", path=folder, fname=name))
    except (ValueError, requests.RequestException) as error:
        raise UserError(
            f"teacher {source}: could not be downloaded or is another file ({error}); check the address and sha256, "
            "or give a path"
        ) from error


def check_accuracy(card: dict[str, Any], measured: float) -> None:
    """Stop when a checkpoint is far from what was published: other weights, data or preprocessing.

    Raises:
        UserError: `measured` (percent) is more than the card's tolerance below its published accuracy.
    """
    published, tolerance = card["published_top1"], card["tolerance"]
    if measured < published - tolerance:
        raise UserError(
            f"teacher {card['name']}: {card['source']} reaches {measured:.2f}% here, {published - measured:.2f} points "
            f"below the published {published:.2f}% (allowed: {tolerance}); are weights, data set and class order "
            f"those of the publication? If so, set teachers.{card['name']}.published_top1"
        )
