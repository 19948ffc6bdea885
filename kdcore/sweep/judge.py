"""What `dvc repro` would do with each stage, found out without running or changing anything.

A stage is judged by what it would read: files as they are, cards as they would be written, and what the stages above
would leave, as far as anybody can tell before they run. DVC stays the authority on all of it (see `lookup`), and
decides again when the stages run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from kdcore.matrix.cards import CARDS, Card
from kdcore.matrix.params import Params
from kdcore.sweep.display import listed
from kdcore.sweep.lookup import Lookup, Sums
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import read_json
from kdcore.training import run_folder

NOTHING = ""
"""Instead of the md5 of what is not there and nobody makes."""
TRAININGS = ("train", "baseline", "teacher")
"""Stages whose results say from which card they were made."""
TROUBLES = {
    "deleted": "its results are gone",
    "modified": "its results were changed",
    "not in cache": "its results are not in DVC's cache",
}
FILLED = {"runs": "cells", "teachers": "teachers", "evaluations": "evaluations"}
"""What stages put into folders."""
SHORT, FEW, MANY = 40, 3, 10
"""Characters of a value, and values, that a reason shows; and values of one key of a card that are not told apart."""


class Outlook(str, Enum):
    """What would become of a stage."""

    TO_RUN = "to run"
    CACHED = "cached"
    """It has been run with what it would read now, and DVC's cache has what it made."""
    BLOCKED = "blocked"
    """Nothing that is known of what it reads has changed, but something must run first, which may change it."""
    UP_TO_DATE = "up to date"


class Judge:
    """Judges stages one by one, in the order of `dvc repro`.

    Args:
        lookup: into what DVC knows.
        params: the matrix.
        cards: makes all cards, as `kdcore.matrix.cards.make_cards`; called only where they are needed.
        replaced: files that would have another content than they have: path -> md5.
    """

    def __init__(
        self, lookup: Lookup, params: Params, cards: Callable[[], dict[str, Card]], *, replaced: Sums | None = None
    ) -> None:
        self.lookup, self.params = lookup, params
        self.make_cards = cards
        self.known: dict[str, str | None] = dict(replaced or {})
        """Path -> md5 once all stages judged so far have run; None where it depends on what they will make."""
        self.made: dict[str, Sums | None] = {}
        """Stage -> its outputs; None where nobody can tell yet."""
        self.settled: set[str] = set()
        """Stages that are up to date."""
        self.files = cache(lookup.files)
        pipeline = lookup.pipeline
        self.owners = {path: step for step in pipeline.steps for path in pipeline.outputs(step)}
        self.fillers: dict[str, list[str]] = {}
        """Folder -> stages with outputs inside it."""
        for path, step in self.owners.items():
            for folder in Path(path).parents:
                self.fillers.setdefault(folder.as_posix(), []).append(step)

    @cached_property
    def cards(self) -> dict[str, Card]:
        """As they would be written."""
        return self.make_cards()

    def judge(self, step: str) -> tuple[Outlook, str]:
        """What would become of a stage, and why; all that it needs has been judged."""
        now = {path: self._after(step, path) for path in self.lookup.pipeline.dependencies(step)}
        if NOTHING in now.values():
            self.made[step] = None
            return Outlook.BLOCKED, f"{next(path for path, md5 in now.items() if md5 == NOTHING)} is missing"
        before = self.lookup.read_before(step)
        waits = [path for path, md5 in now.items() if md5 is None]
        changed = [path for path, md5 in now.items() if md5 is not None and md5 != before.get(path)]
        is_new = not self.lookup.made_before(step)
        outlook, made, trouble = self._outlook(step, now, is_changed=is_new or bool(changed))
        self.made[step] = made
        if outlook is Outlook.UP_TO_DATE:
            self.settled.add(step)
            return outlook, ""
        if outlook is not Outlook.CACHED:
            self._foretell(step)
        if is_new:
            reasons = ["made before" if outlook is Outlook.CACHED else "never run"]
        else:
            reasons = [*self._changes(step, changed), *([trouble] if trouble else [])]
        reasons += [f"{listed([self._subject(path) for path in waits])} must run first"] if waits else []
        return outlook, "; ".join(reasons)

    def _outlook(self, step: str, now: dict[str, str | None], *, is_changed: bool) -> tuple[Outlook, Sums | None, str]:
        """What becomes of a stage, what it will have made, and what is wrong with what it has made."""
        inputs = {path: md5 for path, md5 in now.items() if md5 is not None}
        is_changed = is_changed or self.lookup.has_new_command(step)
        if len(inputs) < len(now):
            return (Outlook.TO_RUN if is_changed else Outlook.BLOCKED), None, ""
        trouble = "" if is_changed else self.lookup.trouble(step)
        if not is_changed and not trouble:
            return Outlook.UP_TO_DATE, self.lookup.made_before(step), ""
        made = self.lookup.made_from(step, inputs) if is_changed else self.lookup.made_before(step)
        if made is not None and self.lookup.is_in_cache(step, made):
            return Outlook.CACHED, made, TROUBLES.get(trouble, trouble)
        return Outlook.TO_RUN, None, TROUBLES.get(trouble, trouble)

    def _after(self, step: str, path: str) -> str | None:
        if path not in self.known:
            self.known[path] = self._find(step, path)
        return self.known[path]

    def _find(self, step: str, path: str) -> str | None:
        """The md5 of what a stage reads, from whoever makes it."""
        for whole in (path, *(folder.as_posix() for folder in Path(path).parents)):
            if whole in self.owners:
                made = self.made[self.owners[whole]]
                if made is None:
                    return None
                if whole == path:
                    return made[path]
                return self.files(made[whole]).get(Path(path).relative_to(whole).as_posix(), NOTHING)
        fillers = self.fillers.get(path, [])
        if any(self.made[filler] is None for filler in fillers):
            return None
        if all(filler in self.settled for filler in fillers):
            return self.lookup.now(step, path) or NOTHING
        return self._filled(step, path, fillers)

    def _filled(self, step: str, path: str, fillers: list[str]) -> str:
        """The md5 of a folder once its stages' outputs are brought back into it."""
        found = self.lookup.files_now(step, path)
        for filler in fillers:
            for output, md5 in (self.made[filler] or {}).items():
                inside = Path(output).relative_to(path).as_posix()
                found = {file: of for file, of in found.items() if not file.startswith(f"{inside}/")}
                found |= {f"{inside}/{file}": of for file, of in self.files(md5).items()}
        return self.lookup.of_folder(found)

    def _foretell(self, step: str) -> None:
        """What two stages will make is known before they run: the cards, and the pairs' copies of teachers."""
        if step == "plan":
            for name, card in self.cards.items():
                text = yamlfile.text(card).encode()
                path = (CARDS / f"{name}.yaml").as_posix()
                self.known[path] = hashlib.md5(text, usedforsecurity=False).hexdigest()
        elif step == "pairs":
            for pair in self.params.pairs:
                weights = f"teachers/{pair.partition('-')[0]}/{run_folder.WEIGHTS}"
                self.known[f"pairs/{pair}.safetensors"] = self._after(step, weights)

    def _changes(self, step: str, changed: list[str]) -> Iterator[str]:
        if self.lookup.has_new_command(step):
            yield "its command changed"
        for path in changed:
            yield self._card_change(step, path) if _is_card(path) else f"{self._subject(path)} changed"

    def _subject(self, path: str) -> str:
        """What a person calls what a stage reads."""
        if path == f"data/{self.params.data.name}":
            return "data"
        if path.startswith("pairs/"):
            return f"teacher {Path(path).name.partition('-')[0]}"
        fillers = self.fillers.get(path, [])
        waits = [filler for filler in fillers if self.made[filler] is None]
        if not waits:
            return path
        if len(waits) == 1:
            return waits[0]
        what = FILLED.get(path.partition("/")[0], f"stages that fill {path}")
        return f"{'all' if waits == fillers else f'{len(waits)} of'} {len(fillers)} {what}"

    def _card_change(self, step: str, path: str) -> str:
        new = self.cards[Path(path).relative_to(CARDS).with_suffix("").as_posix()]
        found = (difference(old, new) for old in self._old_cards(step, path))
        said = next(filter(None, found), "")
        return f"card: {said}" if said else "card changed"

    def _old_cards(self, step: str, path: str) -> Iterator[Card]:
        """What the card was when the stage was last run: as its results have it, and as the plan has it still."""
        meta = Path(self.lookup.pipeline.outputs(step)[0]) / run_folder.META
        if step.partition("@")[0] in TRAININGS and meta.is_file():
            with suppress(UserError):  # a damaged file says nothing of the card
                yield read_json(meta)
        file = Path(path)
        if file.is_file() and self.lookup.now(step, path) == self.lookup.read_before(step).get(path):
            yield yamlfile.read_written(file)


def difference(old: Card, new: Card) -> str:
    """What differs between two cards in words, as in recipe.temperature 4.0 -> 3.0; nothing where they are the same.

    Args:
        old: may hold more than a card at its first level: where its results come from.
        new: as it would be.
    """
    before, after = (dict(_flat(card)) for card in (old, json.loads(json.dumps(new))))
    before = {key: value for key, value in before.items() if key.partition(".")[0] in new}
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    tops = Counter(key.partition(".")[0] for key in changed)
    changed = list(dict.fromkeys(top if tops[top := key.partition(".")[0]] > MANY else key for key in changed))
    words = [_change(key, before.get(key), after.get(key)) for key in changed]
    more = [f"{len(words) - FEW} more"] if len(words) > FEW else []
    return ", ".join([*words[:FEW], *more])


def _flat(card: Card, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in card.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _change(key: str, old: Any, new: Any) -> str:
    texts = ["none" if value is None else str(value) for value in (old, new)]
    if key.startswith("code.") or old == new or max(map(len, texts)) > SHORT:
        return f"{key} changed"
    return f"{key} {' -> '.join(texts)}"


def _is_card(path: str) -> bool:
    return Path(path).parts[0] == CARDS.name
