"""Say what a params file may well set, and what is seldom meant: teachers that are copies, starts that coincide, rates
that fall too early.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator

from kdcore.matrix.params import Params
from kdcore.matrix.teacher_cards import SEED
from kdcore.matrix.train_section import TrainSettings, as_epochs
from kdcore.system.errors import shown


def warn(matrix: Params, file: str = "params.yaml") -> None:
    """Say it on stderr.

    Args:
        matrix: the matrix.
        file: the file that it was read from.
    """
    for line in (*_copies(matrix), *_same_starts(matrix), *_early_milestones(matrix)):
        print(f"warning: {file}: {line}", file=sys.stderr)


def _copies(matrix: Params) -> Iterator[str]:
    """Name teachers that are trained here alike: each from the same seed, so their weights are equal."""
    alike = defaultdict(list)
    for name, teacher in matrix.teachers.items():
        if teacher.source == "train" and teacher.train is not None:
            alike[matrix.network_of(name), teacher.train.model_dump_json()].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield (
                f"the teachers {', '.join(names)} are one network with one training, and every teacher that is trained "
                f"here has seed {SEED}: their weights are equal. Keep one, or change a setting"
            )


def _same_starts(matrix: Params) -> Iterator[str]:
    """Name pairs of one network whose students of the teachers' seed begin as their teacher did."""
    if SEED in matrix.seeds:
        for pair in matrix.pairs:
            teacher, _, student = pair.partition("-")
            if matrix.teachers[teacher].source == "train" and matrix.network_of(teacher) == student:
                yield (
                    f"{pair}: students of seed {SEED} begin with the initial weights of their teacher, which is the "
                    f"same network and has seed {SEED} too: they are not independent of it. Take other seeds"
                )


def _early_milestones(matrix: Params) -> Iterator[str]:
    """Name trainings two thirds of whose epochs come after the last milestone, as where epochs alone were raised."""
    trainings = {f"teachers.{name}.train": teacher.train for name, teacher in matrix.teachers.items() if teacher.train}
    said = set()
    for where, settings in (*trainings.items(), *((cell.name, matrix.settings(cell)) for cell in matrix.cells())):
        last = _last_milestone(settings)
        if last and 3 * last < settings.epochs and (settings.epochs, last) not in said:
            said.add((settings.epochs, last))
            yield (
                f"{where}: the rate falls for the last time after epoch {last} of {settings.epochs} (milestones "
                f"{shown(settings.milestones)}). Unless that is meant: shares of the epochs, such as [0.6, 0.8], keep "
                "their place"
            )


def _last_milestone(settings: TrainSettings) -> int:
    return as_epochs(settings.milestones, settings.epochs)[-1] if settings.schedule == "step" else 0
