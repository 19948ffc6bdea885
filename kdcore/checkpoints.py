"""Save and load weights: our own files are safetensors; of published `.pth` pickles only tensors are read."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore import checkpoint_notes, methods, networks, state_dicts
from kdcore.networks import input_affine
from kdcore.networks.contract import Network
from kdcore.networks.input_affine import Normalisation
from kdcore.networks.other_end import OtherEnd
from kdcore.state_dicts import COUNTER
from kdcore.system.arrays import Array, Dtype, Scalar
from kdcore.system.errors import UserError, named
from kdcore.system.pointers import stands_for_another

LARGEST_RATIO = 10
"""Most times that a zip file may grow when it is unpacked: weights hardly shrink."""
ZIP = b"PK\3\4"
"""The first bytes of a zip file, by which torch tells it from the format before 1.6."""
LONGEST_REASON = 300
EXPORTED = "kdcore"
"""Key of the metadata of an exported file that says what it is."""
OTHER_END = "kdcore_other_end"
"""Key of a file's metadata that says how the end of its student was made (see `kdcore.networks.other_end`)."""
SETTINGS = "teachers.<name>.mean and std in params.yaml (here --mean-std, if the command has it)"
"""Where a user says how the images were normalised that a network was trained on."""
BESIDE = (
    "numpy.ndarray",
    "datetime.datetime",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "PurePosix", "Windows")),
)
"""What pickles call to make what training scripts keep beside the weights: paths and dates."""


class _Unread:
    """Stands in for a value beside the weights, such as an accuracy, which nothing here reads."""

    def __new__(cls, *_: Any) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


class _Options(dict[str, Any]):
    """Stands in for options of a command line, such as the mean of images, which are read as a dictionary."""

    def __setstate__(self, state: Any) -> None:
        """Take the options that the pickle holds."""
        self.update(state)


READ = (
    (Array, "numpy.core.multiarray._reconstruct"),
    (Array, "numpy._core.multiarray._reconstruct"),
    (Dtype, "numpy.dtype"),
    (Scalar, "numpy.core.multiarray.scalar"),
    (Scalar, "numpy._core.multiarray.scalar"),
    (_Options, "argparse.Namespace"),
    (_Options, "types.SimpleNamespace"),
)
"""What they call to make what may hold weights or a normalisation: arrays and numbers of NumPy 1 and 2, and options."""


def save(network: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, wherever its tensors are; and, for a student that ends as its method
    wants, how to make that end. A weight that has two names is written twice, for the format knows no second names.
    """
    about = {OTHER_END: network.described()} if isinstance(network, OtherEnd) else None
    apart = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in network.state_dict().items()
    }
    save_file(apart, path, about)


def load(
    path: Path | str,
    network: nn.Module,
    *,
    weights_key: str | None = None,
    rename: state_dicts.Rename | None = None,
    images: Normalisation | None = None,
    own: Normalisation | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Fill a network with the weights of a file. Never executes code from the file.

    Args:
        path: a `.safetensors` file, or a published PyTorch checkpoint in the format of torch 1.6 or the one before. Its
            state dict may lie under any keys and have any prefix, hold tensors, arrays of NumPy or nested lists, and
            lie beside plain values, other tensors, options, and what `BESIDE` lists (see `kdcore.state_dicts`).
        network: has the architecture and number of classes of the file.
        weights_key: names the state dict that is meant, where several fit, such as "ema" or "state_dict/student."; None
            searches for it.
        rename: the name of a part of the network in the file -> its name in our network, such as {"linear": "fc"}.
        images: how the images are normalised that the network will see; None trusts a file that was written here.
        own: how those were that it was trained on, where they may differ; it then renormalises its input.
        classes: of the data set, which a list in the file must not have in another order; None trusts the file.

    Raises:
        UserError: the file is missing, is no checkpoint, holds anything else, lacks the key, does not fit the network,
            or holds several different state dicts that fit; or it says that it was trained on images of another
            normalisation, or does not say of which, and `own` does not either; or that its classes are in another
            order.
    """
    path = Path(path)
    check_there(path)
    content, about = _read(path), exported(path)
    input_affine.attach_like(content, network)
    expected = network.state_dict()
    try:
        found = state_dicts.find(content, expected, weights_key=weights_key, rename=rename)
        checkpoint_notes.check_class_order(about or content, classes or ())
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _check_weights(path, found, network, expected)
    _say_beside(path, found)
    network.load_state_dict({**expected, **found.weights})
    held = checkpoint_notes.normalisations(content, expected)
    if images is not None and about:
        held["the record of an export"] = Normalisation(tuple(about["mean"]), tuple(about["std"]))
    _check_normalisation(path, held, images, own)
    if images is not None and own is not None:
        input_affine.attach(network, mean=images.mean, std=images.std, own_mean=own.mean, own_std=own.std)
    elif images is not None and hasattr(network, input_affine.SCALE):
        raise UserError(
            f"{path}: was adopted before, for a data set whose normalisation it does not say, and renormalises the "
            f"images of that; set {SETTINGS} to those that it was trained with"
        )


def _check_weights(
    path: Path, found: state_dicts.Candidate, network: nn.Module, expected: Mapping[str, Tensor]
) -> None:
    """Refuse what is no state dict of the network, or holds values that no weights have."""
    strange = [
        f"{named(key)} ({value.dtype})"
        for key, value in found.weights.items()
        if not (_is_weight(key, value) or _is_index(value, expected[key]))
    ]
    if strange:
        raise UserError(f"{path}: holds what are no weights, in {strange[:3]}; weights are floating-point numbers")
    if not found.fits:
        where = f" ({found.name} comes nearest)" if found.where else ""
        raise UserError(
            f"{path}: does not fit a {_named_network(network)} of this depth, width and number of classes{where}; "
            f"missing {found.missing[:3] or 'nothing'}, unknown {[*map(named, found.unknown[:3])] or 'nothing'}, "
            f"misshapen {found.misshapen[:3] or 'nothing'}{_remedy(found)}"
        )
    broken = [
        key
        for key, value in found.weights.items()  # in the type that networks have
        if not (torch.isfinite(value.float()) | _by_design(value, expected[key])).all()
    ]
    if broken:
        raise UserError(f"{path}: holds values that are not finite, in {broken[:3]}")


def _say_beside(path: Path, found: state_dicts.Candidate) -> None:
    """Warn of what stands beside the weights that are taken, and may be what is meant."""
    if found.averages:
        print(
            f"warning: {path}: {found.name} is taken; an average of the weights seems to be in {found.averages[:3]}, "
            "but not under the network's names",
            file=sys.stderr,
        )
    if found.beside:
        print(
            f"warning: {path}: {found.name} is taken; what stands beside it may belong to the network too, and is not "
            f"used: {', '.join(map(named, found.beside[:3]))}",
            file=sys.stderr,
        )


def _check_normalisation(
    path: Path, held: Mapping[str, Normalisation], images: Normalisation | None, own: Normalisation | None
) -> None:
    """Refuse or doubt a file that holds a normalisation of its own, where images are normalised otherwise."""
    wanted = own or images
    for where, one in held.items():
        if wanted is not None and one.is_close(wanted):
            continue
        said = f"{path}: holds a normalisation of images, {where}, with {one}"
        if images is not None and own is None:
            raise UserError(
                f"{said}, but the images here have {images}; set {SETTINGS} to those that it was trained with"
            )
        print(f"warning: {said}, which is not used{f', but {own}' if own else ''}", file=sys.stderr)


def _remedy(found: state_dicts.Candidate) -> str:
    """Say what may help where a file does not fit: names of one module that differ, or another number of classes."""
    lacking, unknown = ({key.rpartition(".")[0] for key in keys} for keys in (found.missing, found.unknown))
    if len(lacking) == len(unknown) == 1 and len(found.missing) == len(found.unknown):
        return f"; if these are the same, say rename: {{{named(unknown.pop())}: {lacking.pop()}}}"
    if not lacking and not unknown and len({key.rpartition(".")[0] for key in found.misshapen}) == 1:
        return "; where this is the classifier, the file knows another number of classes than the data set has"
    return ""


def _named_network(network: nn.Module) -> str:
    """Name a network for a message by its class, and by the method that made its end."""
    if isinstance(network, OtherEnd):
        return f"{type(network.network).__name__} with the end of {network.made_by['method']}"
    return type(network).__name__


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
    images: Normalisation | None = None,
    own: Normalisation | None = None,
    classes: Sequence[str] | None = None,
    described: Mapping[str, Any] | None = None,
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
        images: see `load`.
        own: see `load`.
        classes: see `load`.
        described: see `kdcore.networks.create`.

    Raises:
        UserError: see `load`.
    """
    network = with_its_end(networks.create(name, num_classes, stem=stem, described=described), path)
    load(path, network, weights_key=weights_key, rename=rename, images=images, own=own, classes=classes)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def with_its_end(network: Network, path: Path) -> Network:
    """Give a new network the end of the student in a file, if that ends as its method wants; raises like `load`."""
    check_there(path)
    described = metadata(path).get(OTHER_END) if path.suffix == ".safetensors" else None
    if described is None:
        return network
    try:
        made_by = json.loads(described)
        return methods.get(made_by["method"]).other_end(network, **made_by["arguments"])
    except Exception as error:  # what a wrong end raises depends on what is wrong in it
        raise UserError(f"{path}: says of its student's end what makes none ({error}); get it anew") from error


def metadata(path: Path) -> dict[str, str]:
    """Read the texts that a safetensors file holds beside its tensors.

    Raises:
        UserError: the file is missing, or no safetensors file.
    """
    check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, {_what_else(path, error)}") from error


def exported(path: Path) -> dict[str, Any]:
    """Read what a file of `kdcore.export` says of itself, see `kdcore.export.about`; nothing of other files.

    Raises:
        UserError: the record is damaged.
    """
    text = metadata(path).get(EXPORTED) if path.suffix == ".safetensors" else None
    try:
        about: dict[str, Any] = json.loads(text or "{}")
        return {key: about[key] for key in ("network", "networks", "classes", "mean", "std")} if about else {}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); export it anew") from error


def _read(path: Path) -> Any:
    """Read all that a file holds."""
    if path.suffix != ".safetensors":
        return _unpickle(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:  # of shapes it is torch's
        raise UserError(f"{path}: not a safetensors file, {_what_else(path, error)}") from error


def _unpickle(path: Path) -> Any:
    """Read a `.pth` file with torch's reader, which makes tensors and plain values, and calls only stand-ins of ours.

    Torch's reader sets no bounds: values inside one another, in a file made to harm, can keep it busy for ever or crash
    it.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals([*((_Unread, name) for name in BESIDE), *READ]):
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


def _by_design(value: Tensor, expected: Tensor) -> Tensor:
    """Where a file holds the infinities that the network is made with, such as those of attention masks."""
    return torch.isinf(expected).cpu() & (value.to(expected.dtype) == expected.cpu())


def _is_index(value: object, expected: Tensor) -> bool:
    """Whether a network keeps whole numbers here, such as torchvision's Swin the positions of windows, and so does the
    file.
    """
    whole = not (expected.is_floating_point() or expected.is_complex())
    return whole and isinstance(value, Tensor) and value.dtype == expected.dtype and value.layout == torch.strided
