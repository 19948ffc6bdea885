"""Networks of timm, of torchvision or of one's own as the losses read them."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from kdcore.library.outputs import as_output, probe
from kdcore.networks import describing
from kdcore.networks.contract import Network, Output
from kdcore.networks.foreign import Foreign
from kdcore.networks.wrapped import Wrapped
from kdcore.system.errors import UserError, shown

HEADS = ("classifier", "fc", "head")
"""What networks that return their maps call their linear head."""


class Paired(Wrapped):
    """A network that returns its logits and its maps by itself.

    Args:
        module: maps images (B, 3, H, W) to (logits, maps), see `kdcore.library.outputs.FORMS`.
        head: the path of its linear classifier; None where it has none.
    """

    def __init__(self, module: nn.Module, head: str | None) -> None:
        super().__init__(module, None)
        self.path = head

    @property
    def classifier(self) -> nn.Linear:
        """The linear head; None where none is known."""
        return cast(nn.Linear, None if self.path is None else self.module.get_submodule(self.path))

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """None: the maps before ReLUs are not known."""
        return ()

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> Output."""
        return as_output(self.module(images), type(self.module).__name__)


def wrap(
    module: nn.Module, *, image_size: int, stages: Sequence[str] | None = None, classifier: str | None = None
) -> Network:
    """Make a network return its feature maps beside its logits, so that every loss can see them.

    The module itself is trained and stays as it is: `wrapped.module` is it, and the state dict of the wrapped network
    has its keys. Its parts are found as those that section `networks` of params.yaml names, on a copy that is run once.

    Args:
        module: maps images (B, 3, H, W) to logits (B, C), or to (logits, maps).
        image_size: height and width, in pixels, of the images that it will see.
        stages: names of the parts whose outputs are the maps of stages, the stem's first, as `module.named_modules()`
            has them; without them, they are found where the module has a usual form.
        classifier: the name of its linear head; without it, it is found.

    Returns:
        A network whose outputs are `kdcore.networks.contract.Output`. A network of kdcore is returned as it is.

    Raises:
        UserError: it takes no such images, gives no logits, or has no such part.
    """
    if isinstance(module, Network):
        return module
    if not isinstance(module, nn.Module):
        raise UserError(f"module: {shown(module)} must be a torch.nn.Module")
    named = {"stages": None if stages is None else list(stages), "classifier": classifier}
    spec: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    spec["module"] = type(module).__name__
    if _returns_maps(module, image_size):
        return Paired(module, _head(module, spec))
    return Foreign(module, describing.parts_of(module, spec, image_size))


def _returns_maps(module: nn.Module, image_size: int) -> bool:
    try:
        result = probe(module, image_size)
    except Exception:  # what a network raises depends on the network; `describing` says which images it refuses
        return False
    return isinstance(result, tuple | list) and len(result) == 2


def _head(module: nn.Module, spec: dict[str, Any]) -> str | None:
    """Return the path of the classifier of a network that returns its maps by itself."""
    if "stages" in spec:
        raise UserError(f"stages: {spec['module']} returns its maps by itself; remove them, or return logits alone")
    if "classifier" not in spec:
        return next((name for name in HEADS if isinstance(getattr(module, name, None), nn.Linear)), None)
    linear = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)]
    if spec["classifier"] not in linear:
        raise UserError(
            f"classifier: {shown(spec['classifier'])}: {spec['module']} has no linear layer of this name. Allowed: "
            f"{', '.join(linear)}"
        )
    return str(spec["classifier"])
