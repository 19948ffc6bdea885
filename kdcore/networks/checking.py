"""Check that a network of others can be trained and measured here; what cannot is refused with the reason."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kdcore.networks import making
from kdcore.system.errors import UserError, shown

CLASSES, IMAGES = 7, 2
"""How many classes and images a network is tried with."""
CLOSE = 1e-4
"""How far the sum of what may be probabilities is from 1."""
SAME = 1e-3
"""The largest difference between logits that are to be the same, as a share of the largest; batches round otherwise."""


def check_copies(module: nn.Module, spec: Mapping[str, Any]) -> None:
    """Refuse a module with weights that torch's older functions compute before each run: it cannot be copied."""
    for path, part in module.named_modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                function = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
                raise UserError(
                    f"{called(spec)}: the {hook.name} of {path or 'the module'} comes from torch.nn.utils.{function}, "
                    f"and torch cannot copy such a part; take torch.nn.utils.parametrizations.{function} instead"
                )


def check_seeds(module: nn.Module, spec: Mapping[str, Any]) -> None:
    """Refuse a factory whose initial weights are not decided by torch's seed: cells of one seed would differ, or those
    of several begin alike. Say so where only some are not. Other makers draw by torch's generator.
    """
    if "factory" not in spec:
        return
    torch.manual_seed(0)
    again, after = making.make(spec, CLASSES).state_dict(), torch.get_rng_state()
    drawn = dict(module.named_parameters())
    if any(not torch.equal(value, again[key]) for key, value in drawn.items()):
        raise UserError(
            f"{called(spec)}: makes other initial weights each time, though torch's seed is the same; draw them by "
            "torch's generator, so that seeds decide them"
        )
    torch.manual_seed(1)
    other = making.make(spec, CLASSES).state_dict()
    random = {key for key, value in drawn.items() if bool((value != value.flatten()[:1]).any())}
    same = {key for key in random if torch.equal(again[key], other[key])}
    has_head = any(CLASSES in drawn[key].shape for key in same)
    if torch.equal(after, torch.get_rng_state()) or has_head:
        raise UserError(
            f"{called(spec)}: sets torch's seed, or draws by another generator, so cells of all seeds would begin with "
            "the same weights; draw them by torch's generator, and leave the seed as it is"
        )
    if same:
        print(
            f"note: {called(spec)}: {len(same)} of its {len(random)} initial weights are the same for every seed, such "
            f"as {min(same)}; that is right for weights which were trained before, and for no others",
            file=sys.stderr,
        )


def images_of(spec: Mapping[str, Any], image_size: int) -> Tensor:
    """Draw images (`IMAGES`, 3, S, S) of the size S that a network is given or resizes them to."""
    size = spec.get("image_size", image_size)
    return torch.randn(IMAGES, 3, size, size)


def check_alone(module: nn.Module, spec: Mapping[str, Any], images: Tensor, logits: Tensor) -> None:
    """Refuse a network whose logits of an image differ from time to time, or with the other images of a batch."""
    close = SAME * logits.abs().max()
    try:
        with torch.no_grad():
            again, alone = module(images), torch.cat([module(image[None]) for image in images])
    except Exception as error:  # what a network raises depends on the network
        raise UserError(f"{called(spec)}: fails for a batch of one image ({error})") from error
    if alone.shape != logits.shape:
        raise UserError(
            f"{called(spec)}: gives {tuple(module(images[:1]).shape)} for a batch of one image, not logits (1, C); a "
            "squeeze() without a dimension does that"
        )
    for found, what in (
        (again, "differ from time to time, as those of a dropout that is never off"),
        (alone, "depend on the other images of its batch, as those of a batch norm without running statistics"),
    ):
        if not bool((found - logits).abs().max() <= close):
            raise UserError(
                f"{called(spec)}: its logits of an image {what}, in evaluation mode too, so no accuracy would be that "
                "of the network alone; make it without that"
            )


def check_logits(result: Any, spec: Mapping[str, Any], classes: int | None) -> None:
    """Refuse what is no logits (B, C); `classes` is C, or None where any number will do."""
    if not isinstance(result, Tensor) or result.ndim != 2 or result.shape != (IMAGES, classes or result.shape[1]):
        what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UserError(
            f"{called(spec)}: gives {shown(what)} for {IMAGES} images{f' and {classes} classes' if classes else ''}; "
            "it must give logits (B, C)"
        )
    if bool((result >= 0).all()) and bool(((result.sum(dim=1) - 1).abs() <= CLOSE).all()):
        raise UserError(
            f"{called(spec)}: gives probabilities, whose sum is 1; it must give logits, of which losses take the "
            "softmax themselves: leave out the one at its end"
        )


def check_training(module: nn.Module, spec: Mapping[str, Any], image_size: int, shape: torch.Size) -> None:
    """Refuse a network that cannot be trained with logits alone. The second ones of a distillation token may be, whose
    mean with the first ones is what the network says in evaluation mode; those of an auxiliary head are none.
    """
    images = images_of(spec, image_size)
    try:
        with torch.no_grad():
            result = module.train()(images)
    except Exception as error:
        raise UserError(refused(spec, image_size, error)) from error
    heads = result if isinstance(result, tuple) else (result,)
    are_logits = all(isinstance(one, Tensor) and one.shape == shape for one in heads)
    if not are_logits or len(heads) > 2 or (len(heads) == 2 and not _are_averaged(module, images)):
        raise UserError(
            f"{called(spec)}: gives other outputs than logits (B, C) in training mode, such as those of auxiliary "
            "heads; leave them out by its arguments (torchvision's take aux_logits: false). Two outputs are taken for "
            "the heads of a distillation token only where the mean of both is what it gives in evaluation mode"
        )


def _are_averaged(module: nn.Module, images: Tensor) -> bool:
    """Whether the mean of a network's two outputs in training mode is its output in evaluation mode, with the parts
    that compute otherwise while they train, such as dropouts and norms, in evaluation mode both times.
    """
    with torch.no_grad():
        expected = module.eval()(images)
        module.training = True
        of_root = module(images)
        for part in module.modules():
            part.training = any(True for _ in part.children()) and not isinstance(part, _NormBase)
        of_all = module(images)
    return any(
        isinstance(heads, tuple) and bool((sum(heads) / 2 - expected).abs().max() <= SAME * expected.abs().max())
        for heads in (of_root, of_all)
    )


def refused(spec: Mapping[str, Any], image_size: int, error: Exception) -> str:
    """Write that a network refuses images, with what it said, and what to do."""
    size, name = spec.get("image_size", image_size), called(spec)
    said = " ".join(str(error).split())[: making.LONGEST] or type(error).__name__
    if "module" in spec:
        return f"{name} refuses images of {size} x {size} pixels ({said}); give the image_size of the images it takes"
    where = f"image_size: {size}: {name}" if "image_size" in spec else f"{name}:"
    return (
        f"{where} refuses images of {size} x {size} pixels ({said}); set image_size to what it takes, which resizes "
        f"the data set's, or make it for this size, as timm's transformers are with arguments: {{img_size: {size}}}"
    )


def called(spec: Mapping[str, Any]) -> str:
    """Write what messages call a network that a params file names, or a module."""
    return f"module: {spec['module']}" if "module" in spec else making.called(spec)
