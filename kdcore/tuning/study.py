"""A study: the trials of a search so far, in a file that all of its processes share, and what is tried next."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kdcore.matrix.tune_section import Dimension
from kdcore.system.errors import UserError, shown
from kdcore.system.files import read_json

if TYPE_CHECKING:
    import optuna

FOLDER = Path("scratch/tune")
"""Holds a folder per study: the study's file, and a folder per trial."""
FILE, LOCK = "study.log", "lock"
"""All that is known of its trials, and what a process holds while it writes that."""
ABOUT, RESULT = "trial.yaml", "result.json"
"""What a trial trains, and how it ended; in its folder."""
SEED = 0
"""Of the sampler. Trial n is drawn with `SEED` + n, so that a search that was stopped goes on as if it had not been."""
STARTUP = 5
"""The pruner ends no trial before so many are complete."""
WARMUP = 3
"""The pruner ends no trial within the first epochs: one of so many equal parts of those of the first cell."""
PROTOCOL = "protocol"
MOST_DIFFERENCES = 5
"""How many differences a message lists."""
MISSING = "nothing"


def library() -> Any:
    """Import Optuna, which is an optional part.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "python -m stages.tune needs optuna, which is not installed here; run pip install -e '.[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """The trials of a search, as Optuna keeps them.

    Args:
        name: of the study.
        space: parameter -> its values.
        integers: the parameters whose ranges hold whole numbers.
        protocol: all that decides the score of a trial but its values.

    Raises:
        UserError: there is a study of that name with another protocol, or its file is damaged.
    """

    def __init__(self, name: str, space: dict[str, Dimension], *, integers: set[str], protocol: dict[str, Any]) -> None:
        self.name, self.space = name, space
        self.optuna = library()
        self.distributions = {
            key: _distribution(self.optuna, values, is_integer=key in integers) for key, values in space.items()
        }
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        self.found = opened(name)
        before = self.found.user_attrs.get(PROTOCOL)
        if before is None:
            self.found.set_user_attr(PROTOCOL, protocol)
        elif before != protocol:
            differences = "\n".join(f"- {line}" for line in differing(before, protocol))
            raise UserError(
                f"{FOLDER / name}: holds trials of another search; there, and now:\n{differences}\n"
                f"set another tune.name, or begin anew: rm -r {FOLDER / name}"
            )

    def trials(self, *states: str) -> "list[optuna.trial.FrozenTrial]":
        """List the trials in these states ("COMPLETE", "PRUNED", "FAIL", "RUNNING"), or in any; without those that a
        kill kept from being drawn.
        """
        return [
            trial
            for trial in self.found.get_trials(deepcopy=False)
            if trial.params.keys() == self.space.keys() and (not states or trial.state.name in states)
        ]

    @property
    def ended(self) -> "list[optuna.trial.FrozenTrial]":
        """The trials that count: complete, stopped early, or failed for their values."""
        return self.trials("COMPLETE", "PRUNED", "FAIL")

    @property
    def best(self) -> "optuna.trial.FrozenTrial | None":
        """The complete trial with the highest score, the first of several; None where there is none."""
        return max(self.trials("COMPLETE"), key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def drop_undrawn(self) -> None:
        """End trials that a kill kept from being drawn, so that the sampler does not count them as running."""
        whole = {trial.number for trial in self.trials()}
        for trial in self.found.get_trials(deepcopy=False):
            if trial.number not in whole and not trial.state.is_finished():
                self.found.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def ask(self) -> int:
        """Draw the values of one more trial; returns its number."""
        number = len(self.found.get_trials(deepcopy=False))
        self.found.sampler = self.optuna.samplers.TPESampler(seed=SEED + number)
        return int(self.found.ask(self.distributions).number)

    def values(self, trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
        """Return the values that a trial is trained with: those drawn, rounded."""
        return {key: dimension.rounded(trial.params[key]) for key, dimension in self.space.items()}

    def values_of(self, number: int) -> dict[str, Any]:
        """Return the values of the trial of this number."""
        return self.values(self.found.get_trials(deepcopy=False)[number])

    def tell(self, number: int, result: dict[str, Any]) -> None:
        """Record how a trial ended.

        Args:
            number: of the trial.
            result: from `kdcore.tuning.trial`.
        """
        state = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[result["state"]]
        score = result["score"] if state == "COMPLETE" else None
        self.found.tell(number, score, state=self.optuna.trial.TrialState[state])

    def importances(self) -> dict[str, float]:
        """Return how much of the variance of the scores each parameter explains; empty where that cannot be said."""
        complete = self.trials("COMPLETE")
        if len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        found = self.optuna.importance.get_param_importances(self.found, evaluator=evaluator)
        return {key: round(float(share), 4) for key, share in found.items()}


def folder(study: str, number: int) -> Path:
    """Return the folder of a trial."""
    return FOLDER / study / str(number)


def result(study: str, number: int) -> dict[str, Any]:
    """Read how a trial ended.

    Raises:
        UserError: it has left no result.
    """
    return read_json(folder(study, number) / RESULT)


class WriteLock:
    """What Optuna acquires before it writes a study's file.

    It is held by the operating system, so that it ends with its process: Optuna's own lock outlives a process that is
    killed, and whoever comes next waits for ever. And a record that a full disk or a failing machine has torn is cut
    off before the next one, which Optuna would write into the same line, and then read neither.

    Args:
        study: the file.
        lock: the file that is locked; made where it is not there.
    """

    def __init__(self, study: Path, lock: Path) -> None:
        self.study, self.held = study, FileLock(lock)

    def acquire(self) -> bool:
        """Wait until it is free, and hold it."""
        self.held.acquire()
        content = self.study.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(self.study, content.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self.held.release()


def storage(name: str) -> Any:
    """Return the storage of a study: a file that processes on several machines may write, if they share the folder."""
    optuna, here = library(), FOLDER / name
    file = optuna.storages.journal.JournalFileBackend(str(here / FILE), WriteLock(here / FILE, here / LOCK))
    return optuna.storages.JournalStorage(file)


def opened(name: str, pruner: Any = None) -> "optuna.Study":
    """Open the file of a study, which is begun where it is not there.

    Raises:
        UserError: it is damaged.
    """
    file = FOLDER / name / FILE
    try:
        return library().create_study(
            storage=storage(name), study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{file}: is damaged ({error}); begin anew: rm -r {file.parent}") from error


def pruner(kind: str, epochs: int) -> Any:
    """Return Optuna's rule by which trials end early.

    Args:
        kind: `pruner` of section `tune`.
        epochs: of the first cell of a trial.
    """
    pruners = library().pruners
    if kind == "none":
        return pruners.NopPruner()
    return pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=max(1, epochs // WARMUP))


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in which values two protocols differ, each with its key; the first few."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in dict.fromkeys((*old, *new)) if old.get(key, MISSING) != new.get(key, MISSING)]
    lines = [f"{key}: {shown(old.get(key, MISSING))}, {shown(new.get(key, MISSING))}" for key in keys]
    more = len(lines) - MOST_DIFFERENCES
    return lines[:MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for name, value in content.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, content


def _distribution(optuna: Any, values: Dimension, *, is_integer: bool) -> Any:
    if values.choices:
        return optuna.distributions.CategoricalDistribution(values.choices)
    kind = optuna.distributions.IntDistribution if is_integer else optuna.distributions.FloatDistribution
    return kind(values.low, values.high, log=values.is_log)
