"""Protocols of linear probes: how a linear layer is trained on the frozen features of a network (docs/transfer.md).

No protocol here lets anything of the network change: norms use the statistics of the network's own training. Published
code that leaves the network in training mode moves the statistics of its batch norms while it trains the layer, and its
users then got less than the paper (megvii-research/mdistiller issue 59).
"""

from typing import Any, Literal

from pydantic import Field

from kdcore.matrix.section import Count, NonNegative, Positive, Section
from kdcore.system.errors import shown, suggest

DEFAULT = "default"


class Protocol(Section):
    """The settings of one protocol."""

    views: Literal["plain", "padded_crop", "resized_crop"]
    """How training images are seen. plain: as test images are, so that their features are computed once. padded_crop: a
    window of the image with a black border of 4 pixels, mirrored at random; resized_crop: a part of 8 to 100 percent of
    the area, resized, mirrored at random. These two are drawn, and seen by the network, anew in every epoch.
    """
    normalised_by: Literal["network", "target", "dcd", "hsakd"]
    """The mean and deviation by which images are normalised. network: those that the network was trained with; target:
    those of the target's training images; else those of a published protocol, see `NORMALISATIONS`.
    """
    epochs: Count
    batch_size: Count
    lr: Positive
    slow_lr: Positive | None = None
    """The learning rate of networks whose family is in `SLOW`; None: the same."""
    milestones: list[Count] = Field(default_factory=list)
    """The learning rate is multiplied by `lr_decay` once the epoch, counted from 1, exceeds each."""
    lr_decay: Positive = 0.1
    momentum: NonNegative
    nesterov: bool
    weight_decay: NonNegative = 0.0
    start: Literal["uniform", "normal"] = "uniform"
    """The layer's first weights. uniform: as PyTorch makes a linear layer; normal: of deviation 0.01, and bias 0."""


_DROPS = [30, 60, 90]
_HSAKD: dict[str, Any] = {
    "epochs": 100, "batch_size": 64, "lr": 0.1, "milestones": _DROPS, "momentum": 0.9, "nesterov": True,
}  # fmt: skip
PROTOCOLS = {
    DEFAULT: Protocol(views="plain", normalised_by="network", **_HSAKD),
    "hsakd": Protocol(views="resized_crop", normalised_by="hsakd", **_HSAKD),
    "dcd": Protocol(
        views="padded_crop",
        normalised_by="dcd",
        epochs=120,
        batch_size=64,
        lr=0.05,
        slow_lr=0.01,
        milestones=_DROPS,
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4,
        start="normal",
    ),
}
"""Name -> settings. hsakd: winycg/HSAKD at 28c8dc2, eval_rep.py. dcd: giakoumoglou/distillers at a2ee80b,
cifar/transfer_student.py, but for its norms, which follow training mode there and are fixed here. default: the
optimiser of hsakd on images as they are, which keeps what the author of DKD says: norms fixed, no weight decay.
"""
UNDESCRIBED = {
    "crd": "its authors do not describe it (HobbitLong/RepDistiller issue 44 has no answer)",
    "dkd": "its author says that norms are fixed and nothing decays (mdistiller issue 59), which default "
    "keeps to, and no more",
    "catkd": "its code leaves batch norms in training mode, and its settings are not known",
}
"""Names of protocols that cannot be followed -> why."""
SLOW = ("mobilenetv2", "shufflenetv1", "shufflenetv2")
"""Families of networks to which dcd gives another learning rate."""
NORMALISATIONS: dict[str, dict[str, tuple[list[float], list[float]]]] = {
    "dcd": {
        "stl10": ([0.4467, 0.4398, 0.4066], [0.2603, 0.2566, 0.2712]),
        "tiny_imagenet": ([0.4802, 0.4481, 0.3975], [0.2770, 0.2691, 0.2821]),
    },
    "hsakd": {
        "stl10": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        "tiny_imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    },
}
"""Protocol -> data set -> mean and deviation; of other data sets, it takes their own."""


def check_name(name: Any) -> str:
    """Return the name of a protocol; raises a ValueError where there is none, or none that can be followed."""
    known = ", ".join(PROTOCOLS)
    if name in UNDESCRIBED:
        raise ValueError(f"protocol: {name}: {UNDESCRIBED[name]}; take one of {known}")
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise ValueError(
            f"protocol: {shown(name)}: there is no such protocol.{suggest(name, PROTOCOLS)} One of {known}"
        )
    return name


def card(name: str, dataset: str, *, given: tuple[list[float], list[float]] | None) -> dict[str, Any]:
    """Return the settings of a protocol on a data set as a card holds them.

    Args:
        name: of the protocol.
        dataset: the name of the data set, which a published protocol may normalise in its own way.
        given: the mean and deviation that params.yaml gives the target, which any protocol takes.
    """
    settings = PROTOCOLS[name].model_dump(exclude_none=True)
    by = settings.pop("normalised_by")
    fixed = given or NORMALISATIONS.get(by, {}).get(dataset)
    if fixed is not None:
        return {**settings, "mean": fixed[0], "std": fixed[1]}
    return {**settings, "normalised_by": "network" if by == "network" else "target"}
