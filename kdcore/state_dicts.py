"""Find a network's weights in what a checkpoint holds, however they are wrapped.

Published checkpoints nest the state dict under keys of their own ("model", "state_dict", "net", ...), beside an average
of the weights or an optimiser, and prefix its keys ("module.", "_orig_mod.", "student.", ...). Here every nested
dictionary and every prefix is tried, and what fits the network exactly is taken. If several different ones fit, the
user chooses one by its name, such as "state_dict", "ema/model" or "state_dict/student.".
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdcore.checkpoint_notes import LONGEST, containers, normalisations_among
from kdcore.system.arrays import Array, as_tensor
from kdcore.system.errors import UserError, named, shown

COUNTER = "num_batches_tracked"
BOOKKEEPING = (COUNTER, "n_averaged", "num_updates", "initted", "step", "decay", "total_ops", "total_params")
"""Last parts of the names of single numbers beside weights: counters of norms and of averaged models, and the counts of
operations that profilers leave in a network.
"""
MOST_PREFIXES = 200
"""How many networks one dictionary may hold."""
WRAPPER = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into the names of the parts that they wrap."""
AVERAGE = re.compile(
    r"(?i:(?:^|[^a-z])(?:ema|swa|shadow|avg|averaged?|polyak|smoothed|mean_?teacher|moving_?averages?"
    r"|slow_(?:weights|params|model))(?:[^a-z]|$))|(?:EMA|SWA)(?![a-z])|(?<=[a-z])(?:Ema|MovingAverage)"
    r"|(?<![A-Za-z])(?:ema|swa)(?=[A-Z])"
)
"""Found in the names under which checkpoints keep averages of the weights."""
FOLLOWER = re.compile(r"(?i:(?:^|[^a-z])(?:teacher|target|momentum|slow|online)(?:[^a-z]|$))")
"""Found in the names of networks that may be averages of another, where they have its shapes."""
CHANGES = re.compile(
    r"(?:\w+_)?(?:head|fc|classifier|clf|cls|linear|top_layer|predictor|probe|masks?|lora|deltas?|adapters?|scales?|prompts?)(?:_\w+)?",
    re.IGNORECASE,
)
"""Names of what may stand beside a network's weights and change what it computes."""
STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of what batch norm keeps, and averages of parameters alone lack."""
Rename = Mapping[str, str]
"""The name of a part of the network in the file -> its name in our network."""


@dataclass(frozen=True)
class Candidate:
    """The tensors below one prefix of one dictionary of a file, compared with a network."""

    where: str
    """The keys that lead to the dictionary, with "/" between them, and then the prefix; empty for the bare file."""
    weights: dict[str, Tensor]
    """The tensors that the network has by the same names, by the network's names."""
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]
    numbers: list[str]
    """Those of the unknown tensors that hold a single number."""
    averages: list[str] = field(default_factory=list)
    """Other parts of the file that hold averages of weights by their names, but not under the network's names."""
    beside: list[str] = field(default_factory=list)
    """Names of tensors, or of dictionaries with some, beside the weights, that may change the network: another head,
    masks, scales.
    """

    @property
    def fits(self) -> bool:
        """Whether these are the weights of the network, and nothing else."""
        return not (self.missing or self.misshapen or self.unknown)

    @property
    def nearly_fits(self) -> bool:
        """Whether these are the weights of the network, and at most single numbers that are not known."""
        return not (self.missing or self.misshapen) and len(self.numbers) == len(self.unknown)

    @property
    def is_follower(self) -> bool:
        """Whether these may be an average of the network's parameters, by their names and shapes, without statistics of
        batch norm.
        """
        lacks = {key.rpartition(".")[2] for key in self.missing}
        return bool(lacks) and lacks <= {*STATISTICS} and not self.misshapen and bool(FOLLOWER.search(self.where))

    @property
    def name(self) -> str:
        """What messages call it; the user can give it as weights_key unless it is the bare file."""
        return repr(self.where) if self.where else "the bare file"

    def is_below(self, key: str) -> bool:
        """Whether a user who names this key means this candidate."""
        return self.where in (key, f"{key}.") or self.where.startswith(f"{key}/")

    def equals(self, other: "Candidate") -> bool:
        """Whether both hold the same numbers; sparse tensors, which are refused later, are never the same."""
        pairs = [(value, other.weights[key]) for key, value in self.weights.items() if COUNTER not in key]
        return all(a.layout == b.layout == torch.strided and torch.equal(a, b) for a, b in pairs)


def find(
    content: object, expected: Mapping[str, Tensor], *, weights_key: str | None = None, rename: Rename | None = None
) -> Candidate:
    """Find the weights of a network in the content of a checkpoint.

    Args:
        content: what the file holds: nested dictionaries and lists with tensors somewhere.
        expected: the network's state dict.
        weights_key: names the dictionary, or the dictionary and the prefix, that is meant; None searches all.
        rename: parts of the network that have other names in the file.

    Returns:
        The candidate that fits, or else the one that comes nearest.

    Raises:
        UserError: there are no tensors under that key, several different candidates fit, or `rename` names what the
            network does not have. The message does not name the file.
    """
    sought = _sought(expected, rename or {})
    candidates = [
        one for where, tensors in _dictionaries(content, sought) for one in _candidates(where, tensors, sought)
    ]
    if weights_key is not None:
        candidates = [one for one in candidates if one.is_below(weights_key)]
    if not candidates:
        where = "anywhere" if weights_key is None else f"under {weights_key!r}"
        raise UserError(f"holds no state dict of tensors, {where}, but {_held(content)}")
    fitting: list[Candidate] = []
    taken = [one.where for one in candidates if one.nearly_fits]
    for one in sorted(candidates, key=lambda one: not one.fits):
        if one.nearly_fits and not any(one.equals(other) for other in fitting):
            fitting.append(one)
    if len(fitting) > 1:  # one with a number of its own may be the average of the weights, and the one that is meant
        names = " and ".join(one.name for one in fitting[:4])
        raise UserError(f"holds several state dicts that fit and differ, {names}; choose one with weights_key")
    if not fitting:
        return max(candidates, key=_nearness)
    found = replace(fitting[0], beside=_beside(content, fitting[0].where))
    if weights_key is not None and found.where in (weights_key, f"{weights_key}."):
        return found
    averages = [name for name in _averages(content) if not any(_is_within(where, name) for where in taken)]
    followers = [one.where for one in candidates if one.is_follower and not one.equals(found)]
    meant = [name for name in (*averages, *followers) if weights_key is None or _is_within(name, weights_key)]
    return replace(found, averages=list(dict.fromkeys(meant)))


def _nearness(one: Candidate) -> tuple[int, int]:
    """Rank candidates: by the weights that they have, then by few others, or by many where they have none."""
    return len(one.weights), -len(one.unknown) if one.weights else len(one.unknown)


def _sought(expected: Mapping[str, Tensor], rename: Rename) -> dict[str, tuple[str, Tensor]]:
    """Return, for each name that the file should have, the network's name and tensor."""
    sought: dict[str, tuple[str, Tensor]] = {}
    unused = dict(rename)
    for ours in rename.values():
        twins = [named(other) for other in rename if rename[other] == ours]
        if len(twins) > 1:
            raise UserError(f"rename: {' and '.join(twins)}: both stand for {named(ours)}; keep one of them")
    for key, value in expected.items():
        theirs = key
        for in_file, ours in sorted(rename.items(), key=lambda item: len(item[1])):  # the narrowest part has the say
            if f"{key}.".startswith(f"{ours}."):
                theirs = in_file + key[len(ours) :]
                unused.pop(in_file, None)
        sought[theirs] = (key, value)
    if unused:
        in_file, ours = next(iter(unused.items()))
        parts = ", ".join(dict.fromkeys(key.partition(".")[0] for key in expected))
        raise UserError(f"rename: {named(in_file)}: {named(ours)}: the network has no {named(ours)}; it has {parts}")
    if len(sought) < len(expected):
        raise UserError(f"rename: {shown(dict(rename))} gives two parts of the network one name")
    return sought


def _dictionaries(content: object, sought: Mapping[str, tuple[str, Tensor]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the path and the tensors of every dictionary that holds any, outer ones first."""
    for where, items in containers(content):
        apart = {key for keys in normalisations_among(items, sought) for key in keys}
        values = {key: _tensor(key, value, sought) for key, value in items if isinstance(key, str) and key not in apart}
        tensors = {key: value for key, value in values.items() if value is not None}
        if tensors:
            yield where, _unwrapped(tensors)


def _tensor(key: str, value: object, sought: Mapping[str, tuple[str, Tensor]]) -> Tensor | None:
    """Return a tensor as it is, and arrays and lists of numbers as tensors where their names are those of weights."""
    if isinstance(value, Tensor) or not isinstance(value, Array | list | tuple) or len(key) > LONGEST:
        return value if isinstance(value, Tensor) else None
    plain = WRAPPER.sub("", key)
    return as_tensor(value) if any(plain[len(prefix) :] in sought for prefix in _prefixes(plain)) else None


def _averages(content: object) -> list[str]:
    """Name the parts of a file that hold averages of weights by their names, in whatever form."""
    found = []
    for where, items in containers(content):
        tensors = [key for key, value in items if isinstance(value, Array) or _numel(value) > 1]
        if tensors and any(AVERAGE.search(part) for part in where.split("/")):
            found.append(where)
        heads = {_average_in(key) for key in tensors if isinstance(key, str) and len(key) <= LONGEST} - {""}
        found += [f"{where}/{head}" if where else head for head in sorted(heads)]
    return found


def _beside(content: object, where: str) -> list[str]:
    """Name what stands beside a candidate and may change its network: other parts of its dictionary where it is what
    lies below a prefix, else other entries of the dictionary that it is one of.
    """
    folder, _, last = where.rpartition("/")
    entries = next((items for path, items in containers(content) if path == folder), []) if where else []
    names = {
        key.partition(".")[0] if last.endswith(".") else key
        for key, value in entries
        if isinstance(key, str) and (_numel(value) if last.endswith(".") else _holds_tensors(value))
    }
    return sorted(name for name in names if CHANGES.fullmatch(name) and name != last.partition(".")[0])


def _holds_tensors(value: object) -> bool:
    inside = value.values() if isinstance(value, dict) else [value]
    return any(map(_numel, inside))


def _is_within(where: str, part: str) -> bool:
    """Whether a candidate is a part of a file, or lies in it."""
    return where == part or where.startswith(part if part.endswith(".") else f"{part}/")


def _average_in(key: str) -> str:
    """Return the beginning of a weight's name that calls it a part of an average; empty where none does."""
    parts = key.split(".")[:-1]
    first = next((i for i, part in enumerate(parts) if AVERAGE.search(part)), None)
    return "" if first is None else ".".join(parts[: first + 1]) + "."


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take what wraps single parts of a network out of names, such as layer1.0._orig_mod.conv1.weight."""
    plain = {WRAPPER.sub("", key): value for key, value in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def _candidates(
    where: str, tensors: dict[str, Tensor], sought: Mapping[str, tuple[str, Tensor]]
) -> Iterator[Candidate]:
    """Compare the tensors below each prefix with the network; where no name matches, all tensors as they are."""
    short = [key for key in tensors if len(key) <= LONGEST]
    prefixes = Counter(prefix for key in short for prefix in _prefixes(key) if key[len(prefix) :] in sought)
    complete = [prefix for prefix in prefixes if _lacks_nothing(prefix, tensors, sought)]
    for prefix in [prefix for prefix, _ in prefixes.most_common(MOST_PREFIXES)] or [""]:
        deeper = tuple(other for other in complete if other != prefix and other.startswith(prefix))
        below = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        apart = {key for key in below if f"{prefix}{key}".startswith(deeper)}  # a candidate of their own
        unknown = [key for key in sorted(below) if key not in sought and key not in apart]
        unknown = [key for key in unknown if not _is_bookkeeping(key, below[key])]
        yield Candidate(
            where=f"{where}/{prefix}" if where and prefix else where or prefix,
            weights={sought[key][0]: value for key, value in below.items() if key in sought},
            missing=sorted(key for key in sought if key not in below and not key.endswith(COUNTER)),
            unknown=unknown,
            numbers=[key for key in unknown if below[key].numel() <= 1],
            misshapen=[
                f"{named(key)}: {shown(tuple(value.shape))} in the file, {tuple(sought[key][1].shape)} in the network"
                for key, value in sorted(below.items(), key=lambda item: item[0])
                if key in sought and value.shape != sought[key][1].shape
            ],
        )


def _lacks_nothing(prefix: str, tensors: dict[str, Tensor], sought: Mapping[str, tuple[str, Tensor]]) -> bool:
    """Whether all of the network's weights are there below a prefix, in their shapes."""
    for key, (_, value) in sought.items():
        found = tensors.get(f"{prefix}{key}")
        if (found is None and not key.endswith(COUNTER)) or (found is not None and found.shape != value.shape):
            return False
    return True


def _prefixes(key: str) -> Iterator[str]:
    """Yield what may stand before a weight's name: "", and each beginning that ends with a dot."""
    yield ""
    for position, character in enumerate(key):
        if character == ".":
            yield key[: position + 1]


def _numel(value: object) -> int:
    return value.numel() if isinstance(value, Tensor) else 0


def _is_bookkeeping(key: str, value: Tensor) -> bool:
    return value.numel() <= 1 and key.rpartition(".")[2] in BOOKKEEPING


def _held(content: Any) -> str:
    """Say what a file holds; of keys that are no text only the type, since they may be of any size."""
    if not isinstance(content, dict):
        return type(content).__name__
    keys = [shown(key) if isinstance(key, str) else type(key).__name__ for key in list(content)[:3]]
    return ", ".join(keys) or "nothing"
