"""What networks give to a loss: outputs of kdcore's networks, logits alone, or pairs of logits and maps."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdcore import catalog
from kdcore.catalog import MethodEntry
from kdcore.networks.contract import Output
from kdcore.system.errors import UserError

FORMS = (
    "an output of a network of kdcore or of kdcore.wrap, logits (B, C), or a tuple (logits, maps) in which maps are "
    "the final map (B, D, h, w) or a list of the maps of stages, shallow to deep"
)


def as_output(given: Any, role: str) -> Output:
    """Bring what a network returned into the form that methods read.

    Args:
        given: one of `FORMS`. The last of several maps is the final one; the first is the stem's, which methods that
            compare stages leave out.
        role: "student" or "teacher", for messages.

    Raises:
        UserError: it is of another form.
    """
    if isinstance(given, Output):
        return given
    if isinstance(given, Tensor) and given.ndim == 2:
        return Output(given, (), (), cast(Tensor, None), cast(Tensor, None))
    if isinstance(given, tuple | list) and len(given) == 2:
        logits, maps = given[0], [given[1]] if isinstance(given[1], Tensor) else given[1]
        if _is(logits, 2) and isinstance(maps, tuple | list) and maps and all(_is(one, 4) for one in maps):
            stages = tuple(maps) if len(maps) > 1 else ()
            return Output(logits, stages, (), pooled=maps[-1].mean(dim=(2, 3)), final_map=maps[-1])
    raise UserError(f"the {role}'s output is {_said(given)}; it must be {FORMS}")


def _is(value: Any, dimensions: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == dimensions


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} ({', '.join(map(_said, value[:4]))}{', ...' if len(value) > 4 else ''})"
    return f"a {type(value).__name__}"


def detached(output: Output) -> Output:
    """Return an output without gradients."""

    def cut(value: Any) -> Any:
        return tuple(map(cut, value)) if isinstance(value, tuple) else None if value is None else value.detach()

    return Output(*map(cut, output))


def probe(network: nn.Module, image_size: int) -> Any:
    """Return what a network gives for one black image in evaluation mode, without gradients; it is left as it was.

    Args:
        network: the network.
        image_size: height and width, in pixels.
    """
    modes = [(part, part.training) for part in network.modules()]
    try:
        with torch.no_grad():
            return network.eval()(torch.zeros(1, 3, image_size, image_size, device=device_of(network)))
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(network: nn.Module) -> torch.device:
    """Return where a network's parameters lie."""
    return next((value.device for value in network.parameters()), torch.device("cpu"))


def check_needs(entries: Sequence[MethodEntry], output: Output, role: str, *, regions: bool) -> None:
    """Refuse an output that lacks what a method reads.

    Args:
        entries: the methods.
        output: of the student or the teacher.
        role: which of both.
        regions: whether levels have more regions than the whole image.

    Raises:
        UserError: names the method, what is lacking, and how to get it.
    """
    has = {
        "stages": bool(output.stages),
        "preacts": bool(output.preacts),
        "final_map": output.final_map is not None,
        "pooled": output.pooled is not None,
    }
    for entry in entries:
        wanted = [need.removeprefix(f"{role}.") for need in entry.needs]
        if entry.kind == "feature" or entry.needs:
            wanted.append("pooled")
        if regions and entry.kind == "logit":
            wanted.append("final_map")
        for part in wanted:
            if not has.get(part, True):
                why = (
                    "levels above 1 need" if part == "final_map" and part not in entry.needs else f"{entry.name} needs"
                )
                what = catalog.PARTS.get(part, "the vector before the classifier")
                raise UserError(f"{why} {what}, which the {role}'s output does not have; {_remedy(part, output, role)}")
        if "stages" in wanted and len(output.stages) < entry.least_stages:
            raise UserError(
                f"{entry.name} needs {entry.least_stages} maps of stages at least, with the stem's, and the {role} has "
                f"{len(output.stages)}; name more of them in kdcore.wrap({role}, stages=[...])"
            )


def _remedy(part: str, output: Output, role: str) -> str:
    if part == "preacts":
        return "take a network of kdcore.networks, or a method that does without (python -m kdcore.methods)"
    if output.pooled is None:
        return f"only logits were given: take {role} = kdcore.wrap({role}, image_size=...), and give what that returns"
    return f"name its parts, kdcore.wrap({role}, image_size=..., stages=[...], classifier=...), or give all its maps"
