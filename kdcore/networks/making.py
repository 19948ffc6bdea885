"""Make the modules of networks that a params file names, from timm, torchvision or a user's own function."""

import hashlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from kdcore.networks.own_files import own_files
from kdcore.system.errors import UserError, shown, suggest
from kdcore.system.files import file_sha256, is_installed

KINDS = ("timm", "torchvision", "factory")
DROP_PATH = {"timm": "drop_path_rate", "torchvision": "stochastic_depth_prob", "factory": "drop_path"}
"""The keyword argument by which each takes the rate of stochastic depth."""
UNKNOWN = re.compile(r"unexpected keyword argument '([^']+)'")
RESCALING = ("googlenet", "inception_v3")
"""Networks of torchvision that scale images anew before their first layer where they are made with published weights,
as these were trained; their state dict does not say so.
"""
LONGEST = 300
"""Characters of what a package says of a wrong argument."""


def kind_of(described: Mapping[str, Any]) -> str:
    """Return the key that names the network: one of `KINDS`."""
    return next(kind for kind in KINDS if kind in described)


def called(described: Mapping[str, Any]) -> str:
    """Write what messages call a network, such as "timm: resnet18"."""
    kind = kind_of(described)
    return f"{kind}: {described[kind]}"


def package(described: Mapping[str, Any]) -> str:
    """Name what makes a network, and which one it is: "timm 1.0.31"; of a user's own function the version of its
    package where that is installed, else the SHA-256 of its file, or of its own and those that it imports.

    Raises:
        UserError: the package is not installed, or there is no such function.
    """
    kind = kind_of(described)
    if kind == "timm":
        return f"timm {_timm().__version__}"
    if kind == "torchvision":
        import torchvision  # a second to import, which other networks need not wait for

        return f"torchvision {torchvision.__version__.partition('+')[0]}"
    file = file_of(described["factory"])
    if is_installed(file):
        top = described["factory"].partition(".")[0]
        for distribution in importlib.metadata.packages_distributions().get(top, []):
            return f"{distribution} {importlib.metadata.version(distribution)}"
    return f"sha256 {_sha256_of(files_of(described['factory']))}"


def file_of(factory: str) -> Path:
    """Return the file that holds a user's function.

    Raises:
        UserError: there is no such function, or it has no file.
    """
    function = _function(factory)
    try:
        return Path(inspect.getfile(inspect.unwrap(function)))
    except TypeError as error:
        raise UserError(
            f"factory: {shown(factory)}: is no function or class of a file (it is a {type(function).__name__}), so it "
            "is not known when its code changes; write a function that calls it"
        ) from error


def files_of(factory: str) -> list[Path]:
    """Return the files of the user's that decide what a function makes: its own first, then those that it imports.

    Raises:
        UserError: there is no such function, or it has no file.
    """
    file, named = file_of(factory), factory.rpartition(".")[0]
    found = own_files(named, inspect.unwrap(_function(factory)).__module__)
    return [file, *(other for other in found.values() if other != file)]


def _sha256_of(files: list[Path]) -> str:
    """The SHA-256 of a file; of several, that of all of theirs."""
    sums = [file_sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256(" ".join(sorted(sums)).encode()).hexdigest()


def make(described: Mapping[str, Any], num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """Make the module of a network.

    Args:
        described: what a params file says of it; with `pretrained` and torchvision, the path of its `classifier` too.
        num_classes: C.
        pretrained: whether to load the published weights that the description asks for.

    Raises:
        UserError: there is no such network, an argument is wrong, or the weights cannot be had. The message begins with
            the key.
    """
    kind, load = kind_of(described), pretrained and described.get("pretrained", False)
    options = dict(described.get("arguments", {}))
    if "drop_path" in described:
        options[DROP_PATH[kind]] = described["drop_path"]
    makers = {"timm": _of_timm, "torchvision": _of_torchvision, "factory": _of_factory}
    made = makers[kind](described, num_classes, options, load)
    if described.get("stem") == "small":
        _shrink_stem(made)
    return made


def _of_timm(described: Mapping[str, Any], num_classes: int, options: dict[str, Any], load: bool) -> nn.Module:
    timm, name = _timm(), described["timm"]
    if not timm.is_model(name):
        raise UserError(f"timm: unknown network {shown(name)}.{_near(name, timm.list_models())}")
    made = _called(timm.create_model, described, name, pretrained=load, num_classes=num_classes, **options)
    if hasattr(made, "set_distilled_training"):
        cast(Any, made).set_distilled_training(True)  # both heads in training mode, their mean in evaluation mode
    return made


def _of_torchvision(described: Mapping[str, Any], num_classes: int, options: dict[str, Any], load: bool) -> nn.Module:
    from torchvision import models

    name, known = described["torchvision"], models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision: unknown network {shown(name)}.{_near(name, known)}")
    if name in RESCALING and described.get("pretrained"):
        options = {"transform_input": True, **options}
    if not load:
        return _called(models.get_model, described, name, weights=None, num_classes=num_classes, **options)
    made = _called(models.get_model, described, name, weights="DEFAULT", **options)
    path = described.get("classifier")
    if path is None:
        raise UserError("pretrained: its linear classifier is not known, and cannot be replaced; name it in classifier")
    old = made.get_submodule(path)
    made.set_submodule(path, nn.Linear(cast(nn.Linear, old).in_features, num_classes))
    return made


def _of_factory(described: Mapping[str, Any], num_classes: int, options: dict[str, Any], _load: bool) -> nn.Module:
    name = described["factory"]
    made = _called(_function(name), described, num_classes, **options)
    if not isinstance(made, nn.Module):
        raise UserError(
            f"factory: {name}: returns {shown(type(made).__name__)}; it must return a torch.nn.Module that maps images "
            "(B, 3, H, W) to logits (B, C)"
        )
    return made


def _called(function: Any, described: Mapping[str, Any], *arguments: Any, **options: Any) -> nn.Module:
    """Call what makes a network; what it raises depends on what is wrong in the arguments."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        if options.get("pretrained") or options.get("weights"):
            raise UserError(f"pretrained: the weights of {called(described)} cannot be had ({_said(error)})") from error
        unknown = UNKNOWN.search(str(error))
        if unknown and unknown[1] in options:
            is_rate = "drop_path" in described and unknown[1] == DROP_PATH[kind_of(described)]
            key = "drop_path" if is_rate else f"arguments.{unknown[1]}"
            raise UserError(
                f"{key}: {called(described)} takes no {unknown[1]}.{_of_signature(function, unknown[1], arguments)} "
                "Correct its name, or remove it"
            ) from error
        where = "arguments: " if described.get("arguments") else ""
        raise UserError(f"{where}{called(described)} cannot be made ({_said(error)}); correct the arguments") from error


def _of_signature(function: Any, name: str, arguments: tuple[Any, ...]) -> str:
    """Suggest the nearest keyword argument of what makes a network, as far as its signature shows them."""
    if arguments and isinstance(arguments[0], str):  # timm and torchvision have a function or a class per name
        module = sys.modules[function.__module__].__package__ or ""
        builder = getattr(sys.modules[module], arguments[0], None)
        sources = [builder, *vars(sys.modules[builder.__module__]).values()] if builder is not None else []
        classes = [one for one in sources if inspect.isclass(one) and issubclass(one, nn.Module)]
    else:
        sources, classes = [function], []
    known = [key for one in (*sources[:1], *classes) for key in inspect.signature(one).parameters]
    return suggest(name, known)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:LONGEST]


def _near(name: str, known: list[str]) -> str:
    return f"{suggest(name, known)} There are {len(known):,} names, such as {', '.join(known[:: len(known) // 4 + 1])}"


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            "timm: needs the package timm, which is not installed here; run pip install -e '.[timm]'"
        ) from error
    return timm


def _function(name: str) -> Any:
    """Import a user's function. The code that determines numbers stands in no import; its card has its hash."""
    module, _, function = name.rpartition(".")
    try:
        found = pkgutil.resolve_name(module)
    except Exception as error:
        raise UserError(
            f"factory: {shown(name)}: {shown(module)} cannot be imported ({_said(error)}); name a function as "
            "package.module.function, of a module that Python finds from the project's folder"
        ) from error
    if not callable(getattr(found, function, None)):
        there = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"factory: {shown(name)}: {module} has no function {function}.{suggest(function, there)} "
            f"It has {', '.join(there[:10]) or 'none'}"
        )
    return getattr(found, function)


def _shrink_stem(made: nn.Module) -> None:
    """Give a ResNet of torchvision the first layer for 32 x 32 images: a 3 x 3 convolution of stride 1, no max pool."""
    from torchvision.models.resnet import ResNet

    if not isinstance(made, ResNet):
        raise UserError("stem: small is for ResNets of torchvision and networks of the zoo; remove it")
    made.conv1 = nn.Conv2d(3, made.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(made.conv1.weight, mode="fan_out", nonlinearity="relu")
    made.maxpool = nn.Identity()
