"""The base class of every section of params.yaml."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kdcore.system.errors import shown


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
Mean = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
"""The mean of each colour channel, for pixels from 0 to 1."""
Std = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]
"""The standard deviation of each colour channel, for pixels from 0 to 1."""
MOST = 10**6
Count = Annotated[int, Field(ge=1, le=MOST)]
