"""Save and load weights: our own files are safetensors; of published `.pth` pickles only tensors are read."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore import networks
from kdcore.networks.contract import Network
from kdcore.system.errors import UserError, named, shown

COUNTER = "num_batches_tracked"
LARGEST_RATIO = 10
"""Most times that a zip file may grow when it is unpacked: weights hardly shrink."""
ZIP = b"PK\3\4"
"""The first bytes of a zip file, by which torch tells it from the format before 1.6."""
LONGEST_REASON = 300
WRAPPERS = ("model", "state_dict")
"""Keys under which published checkpoints keep the state dict, beside epoch, accuracy or optimiser."""
NUMPY = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
)
"""What pickles of NumPy 1 and NumPy 2 call to make scalars and arrays."""


class _Unread:
    """Stands in for a NumPy value beside the weights, such as an accuracy, which nothing here reads.

    NumPy's own functions would trust the file: a pickle can describe a type whose objects have addresses of its choice,
    and the next hash or comparison would follow them.
    """

    def __new__(cls, *_: Any) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


def save(network: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, wherever its tensors are."""
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, path)


def load(path: Path | str, network: nn.Module, *, weights_key: str | None = None) -> None:
    """Fill a network with the weights of a file. Never executes code from the file.

    Args:
        path: a `.safetensors` file, or a published PyTorch checkpoint in the format of torch 1.6 or the one before. The
            latter is a state dict, bare or under "model" or "state_dict", its keys with or without the prefix
            "module."; beside it may be plain values, tensors, and NumPy's scalars and arrays.
        network: has the architecture and number of classes of the file.
        weights_key: the key under which a PyTorch checkpoint has the state dict; None searches for it.

    Raises:
        UserError: the file is missing, is no checkpoint, holds anything else, lacks the key, or does not fit the
            network.
    """
    path = Path(path)
    check_there(path)
    weights = _read(path, weights_key)
    strange = [f"{named(key)} ({value.dtype})" for key, value in weights.items() if not _is_weight(key, value)]
    if strange:
        raise UserError(f"{path}: holds what are no weights, in {strange[:3]}; weights are floating-point numbers")
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith(COUNTER)}
    missing = sorted(set(expected) - set(weights) - counters)
    unknown = sorted(set(weights) - set(expected))
    misshapen = [
        f"{key}: {shown(tuple(weights[key].shape))} in the file, {tuple(expected[key].shape)} in the network"
        for key in sorted(set(expected) & set(weights))
        if weights[key].shape != expected[key].shape
    ]
    if missing or unknown or misshapen:
        raise UserError(
            f"{path}: does not fit a {type(network).__name__} of this depth, width and number of classes; "
            f"missing {missing[:3] or 'nothing'}, unknown {[named(key) for key in unknown[:3]] or 'nothing'}, "
            f"misshapen {misshapen[:3] or 'nothing'}"
        )
    broken = [key for key, value in weights.items() if not torch.isfinite(value.float()).all()]  # as networks have them
    if broken:
        raise UserError(f"{path}: holds values that are not finite, in {broken[:3]}")
    network.load_state_dict({**expected, **weights})


def check_there(path: Path) -> None:
    """Check that a file can be read.

    Raises:
        UserError: it is missing, cannot be read, or is a folder, a pipe or a device, which might never end.
    """
    if not os.path.isfile(path):  # Path.is_file() raises errors for names that are too long
        what = "is a folder, a pipe or a device" if os.path.exists(path) else "no such checkpoint"
        raise UserError(f"{path}: {what}; name a .safetensors or .pth file, or run 'dvc repro' for the pipeline's own")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def restore(
    name: str,
    num_classes: int,
    path: Path,
    device: torch.device,
    *,
    stem: str = "small",
    weights_key: str | None = None,
) -> Network:
    """Create a network with the weights of a file, frozen and in evaluation mode.

    Args:
        name: of the network.
        num_classes: width of its classifier.
        path: of the file, see `load`.
        device: takes the network.
        stem: see `kdcore.networks.create`.
        weights_key: see `load`.

    Raises:
        UserError: see `load`.
    """
    network = networks.create(name, num_classes, stem=stem)
    load(path, network, weights_key=weights_key)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def _read(path: Path, weights_key: str | None) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        if weights_key is not None:
            raise UserError(f"{path}: a safetensors file holds weights alone, nothing under {weights_key!r}")
        try:
            return load_file(path)
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:  # of shapes it is torch's
            raise UserError(f"{path}: not a safetensors file, {_what_else(path, error)}") from error
    content = _unwrap(path, _unpickle(path), weights_key)
    weights = {key.removeprefix("module."): value for key, value in content.items()}
    if len(weights) < len(content):
        raise UserError(f"{path}: holds some weights twice, with and without the prefix 'module.'")
    return weights


def _unpickle(path: Path) -> Any:
    """Read a `.pth` file with torch's reader, which makes tensors and plain values and calls nothing else.

    Torch's reader sets no bounds: values inside one another, in a file made to harm, can keep it busy for ever or crash
    it.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals([(_Unread, name) for name in NUMPY]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise UserError(
                f"{path}: not a checkpoint of tensors alone: it asks for {named(foreign[1])}, which could be code. "
                "Where you trust the file, read it with torch.load(..., weights_only=False) and save its tensors with "
                "safetensors.torch.save_file"
            ) from error
        raise UserError(f"{path}: not a checkpoint of tensors alone, {_what_else(path, error)}") from error


def _check_zip(path: Path) -> None:
    """Check what torch does not: that a zip file does not grow beyond measure, and that its checksums are right."""
    with path.open("rb") as start:
        if start.read(len(ZIP)) != ZIP:
            return
    with zipfile.ZipFile(path) as file:
        entries, size = file.infolist(), path.stat().st_size
        declared = sum(entry.file_size for entry in entries)
        if declared > LARGEST_RATIO * size:
            raise ValueError(f"{size:,} bytes that unpack to {declared:,}: an archive bomb")
        damaged = file.testzip() if any(entry.CRC for entry in entries) else None  # torch can be told to write none
    if damaged is not None:
        raise ValueError(f"{named(damaged)} is not what its checksum says")


def _what_else(path: Path, error: Exception) -> str:
    """Say what a file seems to be instead. Torch's advice to run the code in it is left out."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<" and b"\0" not in start:
        return "but a web page: the download did not reach the file"
    if start[257:262] == b"ustar" or start[:2] == b"\x1f\x8b":
        return "but an archive: name the file inside with 'member'"
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    reason = reason if reason.isprintable() else repr(reason)
    return (
        "or damaged; get it anew"
        if "weights_only" in reason
        else f"or damaged ({reason[:LONGEST_REASON]}); get it anew"
    )


def _unwrap(path: Path, content: Any, weights_key: str | None) -> dict[str, Tensor]:
    """Return the state dict in what a file holds."""
    held = ", ".join(map(_brief, list(content)[:3])) if isinstance(content, dict) else type(content).__name__
    where = f"under {weights_key!r}" if weights_key else f"bare or under {' or '.join(map(repr, WRAPPERS))}"
    if weights_key is not None:
        content = content.get(weights_key) if isinstance(content, dict) else None
    for wrapper in WRAPPERS if weights_key is None else ():
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(_is_weight(*item) for item in content.items()):
        raise UserError(f"{path}: holds no state dict of tensors, {where}, but {held or 'nothing'}")
    return content


def _brief(key: object) -> str:
    """Return a key for a message; for one that is no text, its type alone, since it may be of any size."""
    return shown(key) if isinstance(key, str) else type(key).__name__


def _is_weight(key: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not isinstance(key, str) or not dense or str(value.dtype).endswith("_x2"):  # type: ignore[attr-defined]
        return False  # the last are two numbers in a byte
    return value.is_floating_point() or key.endswith(COUNTER)  # type: ignore[attr-defined]
