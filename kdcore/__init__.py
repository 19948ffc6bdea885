"""Knowledge distillation: methods, networks, data, training, evaluation and tables.

As a library (docs/library.md), `import kdcore` gives these names, each imported when it is first used:

- `DistillationLoss`: the loss of a method, a sum of methods, over regions (SDD), standardised (LSKD); for any trainer.
- `recipe`: the published hyper-parameters of a method.
- `wrap`: a network of your own, timm's or torchvision's, whose feature maps the losses can see.
- `UserError`: what they raise where something that you gave is wrong.
- `kd`, `dkd` and every other method: the module with its pure `loss`; `kdcore.kd` is `kdcore.methods.kd`.
- `methods`, `networks`, `scales`, `standardize` and the other modules of the package.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcore.library.loss import DistillationLoss
    from kdcore.library.recipe import recipe
    from kdcore.library.wrap import wrap
    from kdcore.system.errors import UserError

__all__ = ["DistillationLoss", "UserError", "recipe", "wrap"]

HOMES = {
    "DistillationLoss": "kdcore.library.loss",
    "UserError": "kdcore.system.errors",
    "recipe": "kdcore.library.recipe",
    "wrap": "kdcore.library.wrap",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import what a name stands for: one of `HOMES`, a module of the package, or a method."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if not name.startswith("_"):
        path = Path(__file__).parent / name
        if path.is_dir() or path.with_suffix(".py").is_file():
            return import_module(f"kdcore.{name}")
        if name in import_module("kdcore.catalog").methods():
            return import_module(f"kdcore.methods.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
