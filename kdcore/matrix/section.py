"""The base class of every section of params.yaml."""

import unicodedata
from functools import partial
from types import UnionType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kdcore.system.errors import shown

LISTS = ("robustness", "transfer", "diagnostics")
"""Keys of params.yaml whose lists are stages of DVC, and which files of earlier versions lack."""


class Section(BaseModel):
    """A part of params.yaml, which cannot be changed. Unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_text(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError(f"{shown(text)} must be one line of text, without control characters")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_check_text)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def is_number(value: Any, kind: type | UnionType) -> bool:
    """Whether a value is of a kind of number; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_channels(values: Any, *, positive: bool) -> Any:
    """Return three numbers, one per channel.

    Args:
        values: what a user gives.
        positive: whether they must be above 0.

    Raises:
        ValueError: they are others than that.
    """
    numbers = isinstance(values, list) and len(values) == 3 and all(is_number(value, int | float) for value in values)
    if not numbers or not all(0 <= value <= 1 and (value or not positive) for value in values):
        allowed = "three numbers above 0 and up to 1" if positive else "three numbers from 0 to 1"
        example = "[0.229, 0.224, 0.225]" if positive else "[0.485, 0.456, 0.406]"
        raise ValueError(
            f"{shown(values)}: must be {allowed}, for red, green and blue of images from 0 to 1, for example {example}"
        )
    return values


Mean = Annotated[list[float], BeforeValidator(partial(check_channels, positive=False))]
"""The mean of each colour channel, for pixels from 0 to 1."""
Std = Annotated[list[float], BeforeValidator(partial(check_channels, positive=True))]
"""The standard deviation of each colour channel, for pixels from 0 to 1."""
MOST = 10**6
Count = Annotated[int, Field(ge=1, le=MOST)]
