"""What a method may ask of a training that is not kdcore's own, and was not told."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdcore.methods.contract import Setting
from kdcore.objective import LogitTerm, Term
from kdcore.system.errors import UserError

TELL = {
    "labels": "the classes of all training images, (N,) whole numbers in the order that index counts",
    "batch_size": "the images of a step",
    "epochs": "those of the whole training",
    "teacher_outputs": (
        "a function whose result yields the teacher's outputs for all training images, not augmented, in the order of "
        "labels, such as lambda: (teacher(images) for images, _ in loader)"
    ),
}
"""Arguments of a loss that only some methods need -> what they are."""


@dataclass(frozen=True)
class Given(Setting):
    """What an adapter is built from, as far as it was given; the rest is refused when a method asks for it."""

    method: str = ""

    def __getattribute__(self, name: str) -> Any:
        """Return a field.

        Raises:
            UserError: it was not given.
        """
        value = super().__getattribute__(name)
        if value is None and name in TELL:
            raise UserError(f"{self.method} needs {name}: {TELL[name]}; give {name}=...")
        return value


def asked(term: Term) -> set[str]:
    """Return what a term reads of a batch beside outputs and targets: "index", "epoch" or both.

    Random numbers count as the epoch, by which their generator is seeded.
    """
    found = set()
    if term.recipe["warmup"] or term.schedule != "constant":
        found.add("epoch")
    if term.adapter is None:
        return found
    read = set(_attributes(type(term.adapter)))
    draws = hasattr(term.adapter, "prepare") or isinstance(term, LogitTerm)
    if draws or read & {"epoch", "generator"}:
        found.add("epoch")
    return found | ({"index"} & read)


def _attributes(adapter: type) -> Iterator[str]:
    """Yield the attributes that the code of an adapter's class reads, of itself and of others."""
    for one in adapter.__mro__:
        if not one.__module__.startswith("torch") and one is not object:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
            yield from (node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
