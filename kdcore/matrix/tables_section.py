"""What params.yaml says of results beyond training: section `tables`, and the list `diagnostics`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from kdcore.matrix.section import Section
from kdcore.system.errors import shown, suggest


class TableOptions(Section):
    """Section `tables` of params.yaml: what the result tables show."""

    accuracy: Literal["top1", "top1_best"]
    """top1 is the accuracy after the last epoch; top1_best is that of the best epoch, chosen on the validation
    images, or where `data.validation` keeps none, on the test images.
    """


def _check_diagnosed(pairs: list[str], info: ValidationInfo) -> list[str]:
    """Refuse what is no pair of the matrix, and what is named twice: DVC has one stage per name."""
    known = info.data.get("pairs")
    for position, pair in enumerate(pairs):
        if known is not None and pair not in known:
            raise ValueError(
                f"{shown(pair)} is no pair of this matrix.{suggest(pair, known)} Name some of pairs "
                f"({', '.join(known[:5])}{', ...' * (len(known) > 5)}), or none: diagnostics: []"
            )
        if pair in pairs[:position]:
            raise ValueError(f"names {pair} more than once; keep one")
    return pairs


Diagnosed = Annotated[list[str], AfterValidator(_check_diagnosed)]
"""The pairs whose students stage `diagnose` compares with their teacher, of those in `pairs`."""
