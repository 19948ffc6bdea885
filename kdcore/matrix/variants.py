"""The matrix's axis of the researcher's own: named changes of recipes and of training."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from kdcore.matrix.cell import BASE, Cell
from kdcore.matrix.section import Section
from kdcore.matrix.selector import Selector
from kdcore.system.errors import shown

NAME = re.compile("[A-Za-z0-9_]+")
LONGEST_NAME = 64
OWN_KEYS = ("only", "train", "tuned")
"""The keys of a variant that name no method."""
IDENTITY = ("pair", "method", "scale", "seed", "variant", "teacher", "student", "baseline")
"""What makes a cell the one it is, which a variant cannot change; as axes they have an s."""


def _section_of(key: object) -> str:
    return str(key) if str(key) in ("stand", "data") else f"{str(key).removesuffix('s')}s"


def check_name(name: str) -> str:
    """Refuse a name that cannot be part of the name of a stage and of a folder."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(f"{shown(name)} must be letters, digits and _, at most {LONGEST_NAME}")
    return name


class Variant(Section):
    """One value of the axis: `{kd: {temperature: 2}, train: {lr: 0.1}, only: {students: [resnet8]}}`.

    In params.yaml the recipes stand beside the other keys, each under the name of its method or sum.
    """

    only: Selector | None = None
    """Names the cells that it is for; absent, all those that it changes."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of section `train` and of its exceptions."""
    recipes: dict[str, Any] = Field(default_factory=dict)
    """Values that override recipes, in the form of `methods_config`, and after it."""
    tuned: Annotated[str, AfterValidator(check_name)] | None = None
    """The search of `python -m stages.tune` that chose the values; its record is tuning/<tuned>.json. It changes no
    cell.
    """

    @model_validator(mode="before")
    @classmethod
    def _recipes_beside_other_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {
            **{key: value for key, value in content.items() if key in OWN_KEYS},
            "recipes": {key: value for key, value in content.items() if key not in OWN_KEYS},
        }

    @model_validator(mode="after")
    def _other_cells_are_other_axes(self) -> "Variant":
        for key in self.recipes:
            if str(key).removesuffix("s") in (*IDENTITY, "stand", "data"):
                raise ValueError(
                    f"{shown(key)}: a variant changes recipes ({{kd: {{temperature: 2}}}}) and training "
                    f"({{train: {{lr: 0.1}}}}), but not what a cell is; use section {_section_of(key)} of params.yaml, "
                    "or only: {...} to say which cells it is for"
                )
        if self.only is not None and self.only.variants is not None:
            raise ValueError("only.variants: a variant is for itself alone; remove it")
        return self

    def is_for(self, cell: Cell) -> bool:
        """Whether `only` names this cell, or nothing in particular."""
        return self.only is None or self.only.covers(cell)


def check_base(variants: dict[str, Variant]) -> dict[str, Variant]:
    """Refuse variants without one that changes nothing, which the others are compared with, and names that differ in
    capitals alone, which are one folder on some disks.
    """
    if BASE not in variants or variants[BASE] != Variant():
        raise ValueError(
            f"needs {BASE}: {{}}, the matrix without changes, beside others; to leave its cells out, add "
            f"'exclude: [{{variants: [{BASE}]}}]'"
        )
    seen: dict[str, str] = {}
    for name in variants:
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            raise ValueError(f"{other} and {name} differ in capitals alone; rename one")
    return variants
