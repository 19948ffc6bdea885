"""Save and load weights: our own files are safetensors; of published `.pth` pickles only tensors are read."""

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore import networks, state_dicts
from kdcore.networks import input_affine
from kdcore.networks.contract import Network
from kdcore.state_dicts import COUNTER
from kdcore.system.errors import UserError, named
from kdcore.system.pointers import stands_for_another

LARGEST_RATIO = 10
"""Most times that a zip file may grow when it is unpacked: weights hardly shrink."""
ZIP = b"PK\3\4"
"""The first bytes of a zip file, by which torch tells it from the format before 1.6."""
LONGEST_REASON = 300
BESIDE = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime"),
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "PurePosix", "Windows")),
)
"""What pickles call to make what training scripts keep beside the weights: scalars and arrays of NumPy 1 and NumPy 2,
the options of the command line, paths and dates.
"""


class _Unread:
    """Stands in for a value beside the weights, such as an accuracy, which nothing here reads.

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


def load(
    path: Path | str, network: nn.Module, *, weights_key: str | None = None, rename: state_dicts.Rename | None = None
) -> None:
    """Fill a network with the weights of a file. Never executes code from the file.

    Args:
        path: a `.safetensors` file, or a published PyTorch checkpoint in the format of torch 1.6 or the one before. Its
            state dict may lie under any keys and have any prefix, beside plain values, other tensors, and what
            `BESIDE` lists (see `kdcore.state_dicts`).
        network: has the architecture and number of classes of the file.
        weights_key: names the state dict that is meant, where several fit, such as "ema" or "state_dict/student."; None
            searches for it.
        rename: the name of a part of the network in the file -> its name in our network, such as {"linear": "fc"}.

    Raises:
        UserError: the file is missing, is no checkpoint, holds anything else, lacks the key, does not fit the network,
            or holds several different state dicts that fit.
    """
    path = Path(path)
    check_there(path)
    content = _read(path)
    input_affine.attach_like(content, network)
    expected = network.state_dict()
    try:
        found = state_dicts.find(content, expected, weights_key=weights_key, rename=rename)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    strange = [f"{named(key)} ({value.dtype})" for key, value in found.weights.items() if not _is_weight(key, value)]
    if strange:
        raise UserError(f"{path}: holds what are no weights, in {strange[:3]}; weights are floating-point numbers")
    if not found.fits:
        where = f" ({found.name} comes nearest)" if found.where else ""
        raise UserError(
            f"{path}: does not fit a {type(network).__name__} of this depth, width and number of classes{where}; "
            f"missing {found.missing[:3] or 'nothing'}, unknown {[*map(named, found.unknown[:3])] or 'nothing'}, "
            f"misshapen {found.misshapen[:3] or 'nothing'}"
        )
    broken = [key for key, value in found.weights.items() if not torch.isfinite(value.float()).all()]
    if broken:  # in the type that networks have
        raise UserError(f"{path}: holds values that are not finite, in {broken[:3]}")
    if found.averages:
        print(
            f"warning: {path}: {found.name} is taken; an average of the weights seems to be in {found.averages[:3]}, "
            "but not under the network's names",
            file=sys.stderr,
        )
    network.load_state_dict({**expected, **found.weights})


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
    rename: state_dicts.Rename | None = None,
) -> Network:
    """Create a network with the weights of a file, frozen and in evaluation mode.

    Args:
        name: of the network.
        num_classes: width of its classifier.
        path: of the file, see `load`.
        device: takes the network.
        stem: see `kdcore.networks.create`.
        weights_key: see `load`.
        rename: see `load`.

    Raises:
        UserError: see `load`.
    """
    network = networks.create(name, num_classes, stem=stem)
    load(path, network, weights_key=weights_key, rename=rename)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def _read(path: Path) -> Any:
    """Read all that a file holds."""
    if path.suffix != ".safetensors":
        return _unpickle(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:  # of shapes it is torch's
        raise UserError(f"{path}: not a safetensors file, {_what_else(path, error)}") from error


def _unpickle(path: Path) -> Any:
    """Read a `.pth` file with torch's reader, which makes tensors and plain values and calls nothing else.

    Torch's reader sets no bounds: values inside one another, in a file made to harm, can keep it busy for ever or crash
    it.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals([(_Unread, name) for name in BESIDE]):
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
    pointer = stands_for_another(start)
    if pointer is not None:
        return f"for it {pointer}"
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


def _is_weight(key: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not isinstance(key, str) or not dense or str(value.dtype).endswith("_x2"):  # type: ignore[attr-defined]
        return False  # the last are two numbers in a byte
    return value.is_floating_point() or key.endswith(COUNTER)  # type: ignore[attr-defined]
