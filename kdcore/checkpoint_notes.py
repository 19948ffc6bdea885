"""What a checkpoint says beside its weights: how images were normalised, and which class each output stands for."""

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from kdcore.networks import input_affine
from kdcore.system.arrays import as_tensor
from kdcore.system.errors import UserError, shown

DEEPEST, MOST, LONGEST = 20, 500_000, 500
"""How deep dictionaries are searched, how many of them, and the longest keys that are compared: hostile files have no
bounds.
"""
SPELLINGS = {
    "std": re.compile(r"std_?dev|stdev|standard_?deviation", re.IGNORECASE),
    "var": re.compile(r"variance", re.IGNORECASE),
}
"""How `input_affine` spells a deviation and a variance -> how else checkpoints do."""
BOTH = re.compile(r"mean_?(?:and_?)?std|normali[sz](?:e|er|ation)$|(?<![a-z])stat(?:s|istics)$", re.IGNORECASE)
"""Found in the names of a mean and a deviation in one: two rows, or a list of two."""
DIGITS, SEPARATORS = re.compile(r"[0-9]{1,6}"), re.compile(r"[\s_-]+")
"""A class's number as a key, and what stands between the words of a class's name."""


def containers(content: object) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    """Yield the path and the entries of every dictionary, list and tuple, outer ones first.

    In paths, entries of lists and keys that are no text, such as the decays of averages, go by their position.
    """
    waiting: deque[tuple[str, object, int]] = deque([("", content, 0)])
    seen = 0
    while waiting and seen < MOST:
        where, content, depth = waiting.popleft()
        if not isinstance(content, dict | list | tuple):
            continue
        seen += 1
        items = list(content.items() if isinstance(content, dict) else enumerate(content))
        yield where, items
        if depth < DEEPEST:
            for position, (key, value) in enumerate(items):
                if isinstance(value, dict | list | tuple):
                    name = key if isinstance(key, str) else str(position)
                    waiting.append((f"{where}/{name}" if where else name, value, depth + 1))


def normalisations(content: object, expected: Mapping[str, Tensor]) -> dict[str, input_affine.Normalisation]:
    """Find the means and deviations of channels that a checkpoint keeps for a layer which normalises images before the
    network, or as a note of how they were normalised.

    Args:
        content: what the file holds.
        expected: the network's state dict; what it has itself is no part of the result.

    Returns:
        The names of both, such as "normalize.mean and normalize.std" -> their values, for pixels from 0 to 1.
    """
    found = {}
    for where, items in containers(content):
        for keys, value in normalisations_among(items, expected, where).items():
            found[" and ".join(f"{where}/{key}" if where else key for key in keys)] = value
    return found


def normalisations_among(
    items: list[tuple[Any, Any]], known: Collection[str], where: str = ""
) -> dict[tuple[str, ...], input_affine.Normalisation]:
    """Find means and deviations as `input_affine.normalisations` does, in more spellings, and both in one entry.

    Args:
        items: the entries of a dictionary.
        known: names of weights of a network, which are no part of the result.
        where: the path of the dictionary in its file.

    Returns:
        The names of the entries -> what they hold, for pixels from 0 to 1.
    """
    values = {key: value for key, value in items if isinstance(key, str) and len(key) <= LONGEST}
    spelled = {key: key for key in values}
    for key in values:
        plain = SPELLINGS["var"].sub("var", SPELLINGS["std"].sub("std", key))
        spelled.setdefault(plain, key)
    pairs = input_affine.normalisations([(plain, values[key]) for plain, key in spelled.items()], known, where)
    found: dict[tuple[str, ...], input_affine.Normalisation] = {
        tuple(spelled[key] for key in keys): value for keys, value in pairs.items()
    }
    for key in filter(BOTH.search, values):
        both = _two(values[key]) if key not in known else None
        if both is not None:
            for value in input_affine.normalisations(zip(("mean", "std"), both, strict=True), ()).values():
                found[(key,)] = value
    return found


def check_class_order(content: object, classes: Sequence[str]) -> None:
    """Refuse a file that lists a data set's classes in another order, for its outputs then stand for others.

    Args:
        content: what the file holds: the classes' names in a list or by their numbers, or their numbers by the names.
            Names are compared without case, and with spaces, underscores and hyphens alike; lists of other names, or
            beside one in the data set's order, say nothing.
        classes: of the data set, in its order.

    Raises:
        UserError: the order is another one.
    """
    ours, others = [*map(_plain, classes)], {}
    for where, items in containers(content):
        names = _by_number(items) if len(items) == len(ours) else None
        plain = [*map(_plain, names or ())]
        if plain == ours:
            return
        if names and sorted(plain) == sorted(ours):
            others[where] = names
    for where, names in others.items():
        number = next(number for number, (a, b) in enumerate(zip(names, ours, strict=True)) if _plain(a) != b)
        raise UserError(
            f"lists the classes in another order than the data set, in {where}: its output {number} stands for "
            f"{shown(names[number])}, and here for {shown(classes[number])}; reorder its classifier, or, where the "
            "list is not about the outputs, take it out of the file"
        )


def _by_number(items: list[tuple[Any, Any]]) -> list[str] | None:
    """Return the names that entries give to 0, 1, 2, ...; None where they do not."""
    if all(isinstance(key, str) and type(value) is int for key, value in items):
        items = [(value, key) for key, value in items]
    numbers = {int(key): value for key, value in items if isinstance(value, str) and DIGITS.fullmatch(str(key))}
    return [numbers[number] for number in range(len(items))] if numbers.keys() == {*range(len(items))} else None


def _plain(name: str) -> str:
    return SEPARATORS.sub(" ", name).casefold().strip()


def _two(value: object) -> list[Any] | None:
    """Return the two parts of a list, or the two rows of a tensor; None where it is no such thing."""
    if isinstance(value, list | tuple):
        return list(value) if len(value) == 2 and not any(isinstance(one, float | int) for one in value) else None
    tensor = as_tensor(value)
    return list(tensor) if tensor is not None and tensor.ndim > 1 and len(tensor) == 2 else None
