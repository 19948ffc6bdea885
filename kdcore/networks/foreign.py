"""Networks that a params file names: those of timm and torchvision, of a user's own function, and resized ones.

What a params file says of one, and what `kdcore.networks.describing` has found of its parts, is its description. A card
holds it, and `build` makes the network from it alone. Stages, pooled vector and final map are the inputs and outputs of
modules, which are read by hooks while the network runs, so that it computes what it computes elsewhere, bit for bit.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from kdcore import networks
from kdcore.networks import making
from kdcore.networks.contract import Network, Output
from kdcore.networks.wrapped import Resized, Wrapped
from kdcore.system.errors import UserError

Description = Mapping[str, Any]


class Foreign(Wrapped):
    """A classifier that was written for no contract.

    Args:
        module: maps images (B, 3, H, W) to logits (B, C); one with a distillation token maps them in training mode to
            its two heads' logits.
        described: its description.
    """

    def __init__(self, module: nn.Module, described: Description) -> None:
        super().__init__(module, described.get("image_size"))
        self.described = dict(described)
        self.prefix_tokens: int | None = getattr(module, "num_prefix_tokens", None)

    @property
    def classifier(self) -> nn.Linear:
        """The linear head; None where the logits are no linear function of one vector."""
        path = self.described.get("classifier")
        return cast(nn.Linear, None if path is None else self.module.get_submodule(path))

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """None: the maps before ReLUs are not known."""
        return ()

    @property
    def identity(self) -> str:
        """The whole description, which tells two networks of the same weights apart."""
        return json.dumps(self.described, sort_keys=True)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output; `final_map` is None where `described` names none."""
        outputs: dict[str, Tensor] = {}
        inputs: list[Tensor] = []
        stages, last = self.described.get("stages", []), self.described.get("final_map")
        handles = [
            self.module.get_submodule(path).register_forward_hook(partial(_see_output, outputs, path))
            for path in dict.fromkeys([*stages, *([last] if last is not None else [])])
        ]
        pooling = self.module.get_submodule(self.described["pooled"])
        handles.append(pooling.register_forward_pre_hook(partial(_see_input, inputs)))
        try:
            result = self.module(self.resized(images))
        finally:
            for handle in handles:
                handle.remove()
        logits, distilled = result if isinstance(result, tuple) else (result, None)
        maps = {path: as_map(output, self.prefix_tokens) for path, output in outputs.items()}
        return Output(
            logits=logits,
            stages=tuple(cast(Tensor, maps[path]) for path in stages),
            preacts=(),
            pooled=inputs[-1].flatten(1),
            final_map=cast(Tensor, None if last is None else maps[last]),
            distilled=distilled,
        )


def _see_output(found: dict[str, Tensor], path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    found[path] = first_tensor(output)


def _see_input(found: list[Tensor], module: nn.Module, inputs: Any) -> None:
    seen = first_tensor(inputs)
    found.append(seen.clone() if getattr(module, "inplace", False) else seen)  # a dropout may write into it


def first_tensor(value: Any) -> Any:
    """What a module gives: itself, or the first of several, such as a map before its tokens."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value


def as_map(value: Any, prefix_tokens: int | None = None) -> Tensor | None:
    """Make a feature map (B, D, h, w) of what a module gives; None where it is none.

    Args:
        value: (B, D, h, w); (B, h, w, D), which has equal second and third lengths and another last one; or tokens
            (B, N, D) of a square grid, after tokens of classes.
        prefix_tokens: how many tokens come before the grid; None finds out whether they are 0, 1 or 2.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim not in (3, 4):
        return None
    if value.ndim == 4:
        is_last = value.shape[1] == value.shape[2] != value.shape[3]
        return value.permute(0, 3, 1, 2) if is_last else value
    for before in (0, 1, 2) if prefix_tokens is None else (prefix_tokens, 0):
        side = round(max(value.shape[1] - before, 0) ** 0.5)
        if side and side**2 == value.shape[1] - before:
            return value[:, before:].mT.unflatten(2, (side, side))
    return None


def build(num_classes: int, *, stem: str, described: Description, pretrained: bool = False) -> Network:
    """Make a network from its description.

    Args:
        num_classes: C.
        stem: of the data set, for a network of the zoo whose description has none; see `kdcore.networks.create`.
        described: the description.
        pretrained: whether to load the published weights that the description asks for.

    Raises:
        UserError: the package or the function is another one than when it was described, or makes no such network.
    """
    if "zoo" in described:
        options = {"drop_path": described["drop_path"]} if "drop_path" in described else {}
        network = networks.create(described["zoo"], num_classes, stem=described.get("stem", stem), **options)
        return Resized(network, described["image_size"]) if "image_size" in described else network
    now = making.package(described)
    if now != described["package"]:
        raise UserError(
            f"{making.called(described)}: the plan was made with {described['package']}, and here is {now}; "
            "run 'dvc repro -f plan', to plan anew"
        )
    return Foreign(making.make(described, num_classes, pretrained=pretrained), described)
