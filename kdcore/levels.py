"""What a scale of the matrix (SDD's M) means; see `kdcore.scales`. Does not import torch."""

from kdcore.errors import shown

PYRAMIDS: dict[int, tuple[int, ...]] = {1: (1,), 2: (1, 2), 4: (1, 2, 4)}


def levels(scale: object) -> tuple[int, ...]:
    """The pyramid levels that a scale names: 4 -> (1, 2, 4), "L1_4" -> (1, 4), "L2" -> (2,).

    Raises:
        ValueError: for anything but 1, 2, 4 or "L" and a rising, "_"-separated choice of them.
    """
    if isinstance(scale, int) and not isinstance(scale, bool) and scale in PYRAMIDS:
        return PYRAMIDS[scale]
    if isinstance(scale, str) and scale.startswith("L"):
        parts = scale[1:].split("_")
        if set(parts) <= {"1", "2", "4"} and parts == sorted(set(parts)):
            return tuple(int(part) for part in parts)
    raise ValueError(
        f"{shown(scale)} is no scale. Allowed: 1 for M=[1], 2 for M=[1,2], 4 for M=[1,2,4], "
        "or a rising set of levels such as L2, L4, L1_4"
    )
