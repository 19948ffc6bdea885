"""Weights on disk: our own are safetensors; published ones may be `.pth` pickles, of which only tensors are read."""

import os
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore import networks
from kdcore.networks.contract import Network
from kdcore.system.errors import UserError, named, shown

COUNTER = "num_batches_tracked"
LARGEST_RATIO = 10
"""Of what a file unpacks to, to its size; weights hardly shrink."""
MOST_REPEATED, DEEPEST = 10**7, 100
"""Of what a pickle holds: values and characters that it has by reference to earlier ones, were they written out, which
are a few for each weight; and values inside one another."""
ZIP, LEGACY_PICKLES = b"PK\3\4", 5
"""What torch tells its formats by; and how many pickles the old one begins with."""
CHANGING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")
"""Operations of a pickle that change a value; others make a new one."""
LONGEST_REASON = 300
WRAPPERS = ("model", "state_dict")
"""Keys under which published checkpoints keep the state dict, beside epoch, accuracy or optimiser."""
NUMPY = (
    *(
        f"{package}.multiarray.{function}"
        for package in ("numpy.core", "numpy._core")
        for function in ("scalar", "_reconstruct")
    ),
    "numpy.dtype",
    "numpy.ndarray",
)
"""What NumPy 1 and NumPy 2 name in a pickle to make scalars and arrays again."""


class _Unread:
    """Takes the place of a NumPy value beside the weights, such as an accuracy, which nothing here reads.

    NumPy's own functions make no calls to others, but they trust what they are given: of a type that a pickle describes
    they make objects with addresses of its choice, which the next hash or comparison follows.
    """

    def __new__(cls, *_: Any) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


def save(network: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, contiguous and on no device in particular."""
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, path)


def load(path: Path | str, network: nn.Module, *, weights_key: str | None = None) -> None:
    """Fill a network with the weights of a file. Never executes code from the file.

    Args:
        path: `.safetensors`, or a published PyTorch checkpoint, in the format of 2020 (torch 1.6) or the one before: a
            state dict, bare or under "model" or "state_dict", its keys as published, with or without the prefix
            "module."; beside it plain values, tensors, and NumPy's scalars and arrays.
        network: same architecture and number of classes.
        weights_key: the key under which a PyTorch checkpoint has the state dict; None searches.

    Raises:
        UserError: the file is missing, is no checkpoint, holds anything else, lacks the key, or does not fit the
            network.
    """
    path = Path(path)
    check_there(path)
    weights = _read(path, weights_key)
    strange = [f"{named(key)} ({value.dtype})" for key, value in weights.items() if not _is_weight(key, value)]
    if strange:
        raise UserError(f"{path}: holds what are no weights, in {strange[:3]}; those are floating-point numbers")
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
    """Refuse what cannot be read, and what is no file: a pipe or a device might never end.

    Raises:
        UserError: says so.
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
    """A trained network: its weights those of a file, frozen, in evaluation mode. Errors as of `load`."""
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
    try:
        _check_zip(path)
        _check_pickles(path)
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
    """Refuse a file that would fill the memory: torch leaves its own uncompressed, but unpacks compressed ones. And
    one that is not as it was written, of which torch would read what is left.
    """
    if not _is_zip(path):
        return
    with zipfile.ZipFile(path) as file:
        entries, size = file.infolist(), path.stat().st_size
        declared = sum(entry.file_size for entry in entries)
        if declared > LARGEST_RATIO * size:
            raise ValueError(f"{size:,} bytes that unpack to {declared:,}: an archive bomb")
        damaged = file.testzip() if any(entry.CRC for entry in entries) else None  # torch can be told to write none
    if damaged is not None:
        raise ValueError(f"{named(damaged)} is not what its checksum says")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def _check_pickles(path: Path) -> None:
    """Refuse a file whose values would take for ever, or more stack than there is, to hash or to print.

    Torch makes values of a pickle itself, of which tuples can be keys.
    """
    if _is_zip(path):
        _check_pickle(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))  # what torch itself will read
        return
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            _check_pickle(file)


@dataclass
class _Value:
    """What a pickle makes, with all that is inside."""

    size: int
    """In values and characters."""
    depth: int = 1
    is_shared: bool = False

    def take(self, parts: "list[_Value]") -> None:
        """Have others inside."""
        if self.is_shared:  # or the sizes of those that it is in would no longer be true
            raise ValueError("a value that changes after its use")
        self.size += sum(part.size for part in parts)
        self.depth = max([self.depth, *(1 + part.depth for part in parts)])
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} values inside one another")


def _check_pickle(pickle: bytes | IO[bytes]) -> None:
    """Follow a pickle without making its values.

    Raises:
        ValueError, IndexError, KeyError: it is damaged, or a bomb.
    """
    stacks: list[list[_Value]] = [[]]
    memo: dict[Any, _Value] = {}
    repeated = 0
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "MARK":
            stacks.append([])
        elif operation.name.endswith("PUT"):
            memo[argument] = stacks[-1][-1]
        elif operation.name.endswith("GET"):
            value = memo[argument]
            stacks[-1].append(value)
            value.is_shared = True
            repeated += value.size
            if repeated > MOST_REPEATED:
                raise ValueError(f"more than {MOST_REPEATED:,} values, most of them the same ones: a bomb")
        else:
            _follow(operation, argument, stacks)


def _follow(operation: pickletools.OpcodeInfo, argument: object, stacks: list[list[_Value]]) -> None:
    """Take from the last stack what an operation takes, and put there what it makes or changes."""
    before = operation.stack_before
    taken: list[_Value] = []
    if pickletools.markobject in before:  # all since the last mark
        taken = stacks.pop()
        before = before[: before.index(pickletools.markobject)]
    taken = [stacks[-1].pop() for _ in before][::-1] + taken
    size = 1 + len(argument) if isinstance(argument, str | bytes) else 1
    made = [taken.pop(0)] if operation.name in CHANGING else [_Value(size) for _ in operation.stack_after]
    for value in made:
        value.take(taken)
    stacks[-1] += made


def _what_else(path: Path, error: Exception) -> str:
    """What a file looks like. Torch's advice to run the code in it is not repeated."""
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
    """The state dict in what a file holds."""
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
    """A key in a message; of one that is no text, such as tuples of tuples of the same, its type alone."""
    return shown(key) if isinstance(key, str) else type(key).__name__


def _is_weight(key: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not isinstance(key, str) or not dense or str(value.dtype).endswith("_x2"):  # type: ignore[attr-defined]
        return False  # the last are two numbers in a byte
    return value.is_floating_point() or key.endswith(COUNTER)  # type: ignore[attr-defined]
