"""Weights on disk: our own are safetensors; published ones may be `.pth` pickles, of which only tensors are read."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore import networks
from kdcore.errors import UserError
from kdcore.networks.contract import Network

COUNTER = "num_batches_tracked"
WRAPPERS = ("model", "state_dict")
"""Keys under which published checkpoints keep the state dict, beside epoch, accuracy or optimiser."""


def save(network: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, contiguous and on no device in particular."""
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, path)


def load(path: Path | str, network: nn.Module) -> None:
    """Fill a network with the weights of a file. Never executes code from the file.

    Args:
        path: `.safetensors`, or a published PyTorch checkpoint: a state dict, bare or under "model" or
            "state_dict", its keys as published, with or without the prefix "module.".
        network: same architecture and number of classes.

    Raises:
        UserError: the file is missing, is no checkpoint, holds more than tensors and plain values, or does not fit
            the network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    weights = _read(path)
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith(COUNTER)}
    missing = sorted(set(expected) - set(weights) - counters)
    unknown = sorted(set(weights) - set(expected))
    misshapen = [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(expected[key].shape)} in the network"
        for key in sorted(set(expected) & set(weights))
        if weights[key].shape != expected[key].shape
    ]
    if missing or unknown or misshapen:
        raise UserError(
            f"{path}: does not fit a {type(network).__name__} of this depth, width and number of classes; "
            f"missing {missing[:3] or 'nothing'}, unknown {unknown[:3] or 'nothing'}, "
            f"misshapen {misshapen[:3] or 'nothing'}"
        )
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: holds values that are not finite, in {broken[:3]}")
    network.load_state_dict({**expected, **weights})


def restore(name: str, num_classes: int, path: Path, device: torch.device, *, stem: str = "small") -> Network:
    """A trained network: its weights those of a file, frozen, in evaluation mode. Errors as of `load`."""
    network = networks.create(name, num_classes, stem=stem)
    load(path, network)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of tensors alone ({reason}); convert it to safetensors where you trust it"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(_is_weight(*item) for item in content.items()):
        raise UserError(f"{path}: holds no state dict of tensors, bare or under {' or '.join(map(repr, WRAPPERS))}")
    weights = {key.removeprefix("module."): value for key, value in content.items()}
    if len(weights) < len(content):
        raise UserError(f"{path}: holds some weights twice, with and without the prefix 'module.'")
    return weights


def _is_weight(key: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(key, str) and dense and (value.is_floating_point() or key.endswith(COUNTER))  # type: ignore[attr-defined]
