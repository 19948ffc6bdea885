"""The axes of the matrix that params.yaml lists: of which pairs, methods, scales, stand and seeds there are cells."""

from collections import Counter
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.section import Section
from kdcore.matrix.selector import Scale, check_pair


def of_kind(kind: str) -> AfterValidator:
    """Make a validator that accepts only methods of one kind ("logit" or "feature"), and sums of that kind."""

    def check(name: str) -> str:
        catalog.check_method(name, kind)
        return name

    return AfterValidator(check)


def _check_axis(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("is empty; an axis of the matrix needs at least one value")
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"names {', '.join(twice[:5])} more than once; keep one of each")
    return values


def _check_scales(scales: list[int | str]) -> list[int | str]:
    named: dict[tuple[int, ...], int | str] = {}
    for scale in scales:
        other = named.setdefault(levels(scale), scale)
        if other is not scale:
            raise ValueError(f"{other!r} and {scale!r} are the same set of levels")
    return scales


Axis = AfterValidator(_check_axis)


class Axes(Section):
    """Each combination of pairs, methods, scales, stand and seeds is a cell; so is each of pairs, baselines, seeds."""

    pairs: Annotated[list[Annotated[str, AfterValidator(check_pair)]], Axis]
    """Each is teacher-student: the name of a teacher or of its network, and that of the student's network."""
    methods: Annotated[list[Annotated[str, of_kind("logit")]], Axis]
    """Logit methods, or sums with one, such as crd+kd; each is trained with every scale and stand."""
    scales: Annotated[list[Scale], Axis, AfterValidator(_check_scales)]
    """SDD's M. 1 is the whole image, M=[1]; 2 is M=[1,2], 4 is M=[1,2,4]; L2, L4 and L1_4 name a set of levels."""
    stand: Annotated[list[bool], Axis]
    """Whether logits are standardised before the loss (LSKD)."""
    baselines: Annotated[list[Annotated[str, of_kind("feature")]], Axis]
    """Feature methods and sums of them, and vanilla, the student trained alone; they have neither scale nor stand."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Axis]
    """The seeds of training: of first weights, of the order of images, and of their augmentation."""
