"""Find the parts of a network that a params file names, or of a module: classifier, stages, pooled vector, final map.

The network is run once on random images, with other values than new networks have (a new norm may be the identity).
What is found stands in its description, and so in the cards of what uses it.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import networks
from kdcore.networks import checking, making
from kdcore.networks.checking import CLASSES, IMAGES
from kdcore.networks.contract import Network
from kdcore.networks.foreign import as_map, first_tensor
from kdcore.networks.regions import disturb, enlarge
from kdcore.system.errors import UserError, shown, suggest

CLOSE = 1e-4
"""The largest difference between a map's average and the pooled vector, as a share of the latter's largest value."""
STEMS = ("patch_embed", "stem", "bn1", "act1", "relu", "conv_proj", "conv_stem", "embeddings")
"""Where networks have the map of their stem, if their trunk does not begin with it. Of several that end before the
trunk begins, the last is taken.
"""
TRUNKS = ("stages", "layers", "blocks", "features", "encoder.layers", "transformers")
"""Where networks have their blocks one after the other."""
IN_TRUNK = re.compile(r"(?:stages?|layers?|blocks?|transformers?|features)[._]?\d")


@dataclass
class _Seen:
    """What a network does with a batch of images."""

    maps: dict[str, tuple[tuple[int, ...], Tensor]] = field(default_factory=dict)
    """The path of each part that gives a feature map -> the shape (D, h, w), and the averages (B, D); in the order in
    which the parts end.
    """
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """The path of each part that is given vectors, or maps of one cell -> these, as vectors (B, D)."""
    linear: dict[str, Tensor] = field(default_factory=dict)
    """The path of each linear layer -> its output."""
    dropouts: list[str] = field(default_factory=list)


def described(spec: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Describe a network that a params file names.

    Args:
        spec: its keys there, without those that are absent.
        image_size: height and width, in pixels, of the data set's images.

    Returns:
        The keys, and of a network that is none of the zoo: `package`, what makes it; `family`, the module of its class;
        `pooled`, the part whose input is the pooled vector; and where it has them `stages`, the parts whose outputs are
        the maps of stages, `classifier` and `final_map`.

    Raises:
        UserError: there is no such network, or it is none that can be trained here. The message begins with the key.
    """
    if "zoo" in spec:
        _check_zoo(spec, image_size)
        return dict(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = making.make(spec, CLASSES)
        if isinstance(module, Network):
            raise UserError(f"factory: {spec['factory']}: returns a network of kdcore; such a one belongs to the zoo")
        checking.check_copies(module, spec)
        checking.check_seeds(module, spec)
        found: dict[str, Any] = {"package": making.package(spec), "family": type(module).__module__}
        found |= _parts(module, spec, image_size, CLASSES)
    return {**spec, **found}


def parts_of(module: nn.Module, spec: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Find the parts of a module, on a copy of it.

    Args:
        module: maps images (B, 3, H, W) to logits (B, C).
        spec: `classifier` and `stages`, as far as they are named, and `module`, what messages call it.
        image_size: height and width, in pixels, of the images that it sees.

    Returns:
        Paths: `pooled`, and where it has them `stages`, `classifier` and `final_map`.

    Raises:
        UserError: it is none that can be trained here. The message begins with the key.
    """
    checking.check_copies(module, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _parts(copy.deepcopy(module).cpu().float(), spec, image_size, None)


def _parts(module: nn.Module, spec: Mapping[str, Any], image_size: int, classes: int | None) -> dict[str, Any]:
    images = checking.images_of(spec, image_size)
    seen, logits = _run(disturb(module.eval()), spec, images, image_size, classes)
    checking.check_alone(module, spec, images, logits)
    found = _head(module, spec, seen, images, logits) | _stages(module, spec, seen)
    checking.check_training(module, spec, image_size, logits.shape)
    return found


def _check_zoo(spec: Mapping[str, Any], image_size: int) -> None:
    """Refuse a network of the zoo that takes no such images, or has no stochastic depth. It is tried on the device
    "meta", which holds shapes and no values, and where the data set decides its stem, with the small one.
    """
    name, size = spec["zoo"], spec.get("image_size", image_size)
    rate = {"drop_path": spec["drop_path"]} if "drop_path" in spec else {}
    try:
        with torch.device("meta"), torch.no_grad():
            network = networks.create(name, CLASSES, stem=spec.get("stem", "small"), **rate).eval()
    except ValueError as error:  # its message begins with the key
        raise UserError(str(error)) from error
    try:
        with torch.device("meta"), torch.no_grad():
            network(torch.empty(IMAGES, 3, size, size))
    except Exception as error:  # what a network raises depends on the network
        said = " ".join(str(error).split())[: making.LONGEST] or type(error).__name__
        raise UserError(
            f"{'image_size' if 'image_size' in spec else 'zoo'}: {name} refuses images of {size} x {size} pixels "
            f"({said}); set image_size to what it takes, which resizes the data set's"
        ) from error


def _run(
    module: nn.Module, spec: Mapping[str, Any], images: Tensor, image_size: int, classes: int | None
) -> tuple[_Seen, Tensor]:
    seen, prefix = _Seen(), getattr(module, "num_prefix_tokens", None)

    def see(path: str, part: nn.Module, inputs: Any, output: Any) -> None:
        given, got = first_tensor(inputs), first_tensor(output)
        seen.maps.pop(path, None)
        found = as_map(got, prefix)
        if found is not None:
            seen.maps[path] = tuple(found.shape[1:]), found.mean(dim=(2, 3))
        if isinstance(given, Tensor) and given.ndim > 1 and given.flatten(1).shape[1] == given.shape[1]:
            seen.inputs[path] = given.flatten(1)
        if isinstance(part, nn.Linear):
            seen.linear[path] = got
        if isinstance(part, nn.Dropout):
            seen.dropouts.append(path)

    try:
        result = _measured(module, images, see)
    except Exception as error:  # what a network raises depends on the network
        raise UserError(checking.refused(spec, image_size, error)) from error
    checking.check_logits(result, spec, classes)
    return seen, result


def _head(module: nn.Module, spec: Mapping[str, Any], seen: _Seen, images: Tensor, logits: Tensor) -> dict[str, Any]:
    """Find the classifier, the pooled vector and the final map."""
    path = spec.get("classifier") or _classifier(module, seen, logits)
    if path not in seen.inputs:
        known = list(seen.inputs)
        if path is None:
            raise UserError(
                f"{checking.called(spec)}: its classifier is not found; name it in classifier, for example "
                f"classifier: {known[-1] if known else 'head'}"
            )
        raise UserError(
            f"classifier: {shown(path)}: {checking.called(spec)} has no part of this name that is given vectors (B, D)."
            f"{suggest(path, known)} Allowed: {', '.join(known[-10:])}"
        )
    pooled, found = seen.inputs[path], {"pooled": path}
    for dropout in seen.dropouts:
        if dropout in seen.inputs and torch.equal(seen.inputs[dropout], pooled):
            found["pooled"] = dropout
            break
    head = module.get_submodule(path)
    if not isinstance(head, nn.Linear) or not _is_linear(head, pooled, logits):
        return found
    enlarge(head, logits)  # which shows a cap on logits
    with torch.no_grad():
        if not _is_linear(head, pooled, module(images)):
            return found
    found["classifier"] = path
    close = CLOSE * pooled.abs().max()
    averaged = [
        other
        for other, (shape, average) in seen.maps.items()
        if shape[1] > 1 and average.shape == pooled.shape and bool((average - pooled).abs().max() <= close)
    ]
    if averaged:
        found["final_map"] = averaged[-1]
    return found


def _is_linear(head: nn.Linear, pooled: Tensor, logits: Tensor) -> bool:
    """Whether logits are what a head's weights make of the pooled vector: a subclass may compute otherwise, as cosine
    heads do, and a network may scale or cap them afterwards.
    """
    if pooled.shape[1] != head.in_features:
        return False
    expected = F.linear(pooled, head.weight, head.bias)
    return expected.shape == logits.shape and bool((expected - logits).abs().max() <= CLOSE * logits.abs().max())


def _classifier(module: nn.Module, seen: _Seen, logits: Tensor) -> str | None:
    """Find the head: the linear layer whose output are the logits, or what the network itself calls its head."""
    for path, output in seen.linear.items():
        if output is logits:
            return path
    own = first_tensor(cast(Any, module).get_classifier()) if hasattr(module, "get_classifier") else None
    for path, part in module.named_modules():
        if part is own and path in seen.inputs:
            return path
    return next((name for name in ("head", "fc", "classifier") if name in seen.inputs), None)


def _stages(module: nn.Module, spec: Mapping[str, Any], seen: _Seen) -> dict[str, Any]:
    paths = spec.get("stages") or _default_stages(module, seen)
    for path in paths:
        if path not in seen.maps:
            parts = [name for name, _ in module.named_modules()]
            why = "has no part of this name that gives" if path not in parts else "gives by this part no"
            raise UserError(
                f"stages: {shown(path)}: {checking.called(spec)} {why} feature maps (B, D, h, w), or tokens of a "
                f"square grid.{suggest(path, seen.maps, most=3)}"
            )
    return {"stages": list(paths)} if len(paths) > 1 else {}


def _default_stages(module: nn.Module, seen: _Seen) -> list[str]:
    """Choose the parts whose maps are those of stages: the stem's, then the last map of every size of the trunk.

    The trunk is what timm lists as features, or layer1, layer2, ..., or one of `TRUNKS`. Where its maps all have one
    size, as those of a plain transformer, the ends of its four quarters are taken.
    """
    trunk = [path for path in _trunk(module) if path in seen.maps]
    if not trunk:
        return []
    sizes = [seen.maps[path][0][1] for path in trunk]
    if len(set(sizes)) == 1:
        count = len(trunk)
        stages = list(dict.fromkeys(trunk[-(-count * quarter // 4) - 1] for quarter in range(1, 5)))
    else:
        stages = [path for path, size, after in zip(trunk, sizes, [*sizes[1:], 0], strict=True) if size != after]
    order = list(seen.maps)
    before = order[: order.index(trunk[0])]
    stem: str | None = None  # timm's features begin with it
    if trunk[0].startswith("features."):
        stem = trunk[0]
    elif IN_TRUNK.search(trunk[0]):
        begins = next((i for i, path in enumerate(before) if path.startswith(f"{trunk[0]}.")), len(before))
        stem = next((path for path in reversed(before[:begins]) if path in STEMS), None)
    return stages if stem is None or stem in stages else [stem, *stages]


def _trunk(module: nn.Module) -> list[str]:
    listed = getattr(module, "feature_info", None)
    listed = getattr(listed, "info", listed)
    if isinstance(listed, list) and listed and all(isinstance(one, dict) and "module" in one for one in listed):
        return [one["module"] for one in listed]
    layers = [name for name, _ in module.named_children() if re.fullmatch(r"layer\d", name)]
    if layers:
        return layers
    parts = dict(module.named_modules())
    for path in TRUNKS:
        if isinstance(parts.get(path), nn.Sequential | nn.ModuleList):
            return [f"{path}.{name}" for name, _ in cast(nn.Module, parts[path]).named_children()]
    return []


def _measured(module: nn.Module, images: Tensor, see: Callable[[str, nn.Module, Any, Any], None]) -> Any:
    """Run a module, and show the path, inputs and outputs of each of its parts in the order in which they end."""

    def hook(path: str, part: nn.Module, inputs: Any, output: Any) -> None:
        see(path, part, inputs, output)

    parts = [(path, part) for path, part in module.named_modules() if path]
    handles = [part.register_forward_hook(partial(hook, path)) for path, part in parts]
    try:
        with torch.no_grad():
            return module(images)
    finally:
        for handle in handles:
            handle.remove()
