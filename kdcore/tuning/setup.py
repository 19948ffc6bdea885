"""What a search stands on: section `tune`, its matrix, data set and teachers; and the cards of its trials."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcore.data import regimes, storage, subsets
from kdcore.matrix import networks_section, params, tune_section
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import cell_card, resolve_recipes
from kdcore.matrix.code import Card, Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.listed_teachers import KnownTeachers
from kdcore.matrix.problems import explained
from kdcore.matrix.teacher_cards import teacher_card
from kdcore.matrix.tune_section import Tune
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.system.workspace import MANIFEST
from kdcore.training import run_folder
from kdcore.tuning.study import SEED

FILE = "params.yaml"
DATA, PAIRS, TEACHERS = Path("data"), Path("pairs"), Path("teachers")
REFERENCE = "reference"
"""The variant of the cards that stand for those of all trials: with the first value of each dimension."""
REMEDY = "run 'dvc repro pairs'"


@dataclass(frozen=True)
class Setup:
    """A search that may begin."""

    tune: Tune
    content: dict[str, Any]
    """Of params.yaml when the search began: what is edited later is for the next one."""
    matrix: params.Params
    recipes: dict[str, Any]
    """Content of data/recipes.yaml."""
    code: Code

    @classmethod
    def load(cls) -> "Setup":
        """Read and check params.yaml, the data set and the teachers.

        Raises:
            UserError: one of them is wrong or missing; names the key, or what to run.
        """
        matrix = params.load(FILE)
        if matrix.tune is None:
            raise UserError(
                f"{FILE}: has no section tune, which says what to search; add for example\n{tune_section.EXAMPLE}"
            )
        tune_section.check(matrix.tune, matrix, FILE)
        content = yamlfile.read(FILE, bounded=True)
        code = Code(ROOT, networks_section.described(matrix))
        setup = cls(matrix.tune, content, matrix, yamlfile.read("data/recipes.yaml"), code)
        setup._check_teachers()
        setup._check_data()
        return setup

    @property
    def validation(self) -> float:
        """The share of the training images that scores trials."""
        return self.matrix.data.validation or self.tune.validation or 0.0

    def cards(self, variant: str, values: dict[str, Any]) -> dict[str, Card]:
        """Make the cards of a trial's cells, which keep validation images, and never look at test images.

        Args:
            variant: the name under which they are trained.
            values: parameter -> value.

        Raises:
            UserError: the values contradict each other.
        """
        there, tune = self.content, self.tune
        scale, stand = tune.axes
        axes: dict[str, Any] = {"baselines": [tune.method]}
        if scale is not None:
            axes = {"methods": [tune.method], "scales": [scale], "stand": [stand]}
        changes = {
            **axes,
            "pairs": tune.pairs,
            "seeds": tune.seeds,
            "exclude": [],
            "data": {**there["data"], "validation": self.validation},
            "variants": {**there["variants"], variant: tune_section.content(values)},
        }
        with explained(FILE):
            matrix = params.Params.model_validate({**there, **changes})
        cells = tune.cells(variant, matrix)
        resolved = resolve_recipes(matrix, self.recipes, cells=cells)  # also where the values are those of the matrix
        return {cell.name: {**cell_card(cell, resolved[cell], matrix, self.code), "test": False} for cell in cells}

    @cached_property
    def reference(self) -> dict[str, Card]:
        """The cards that stand for those of all trials."""
        return self.cards(REFERENCE, {key: found.ends[0] for key, found in self.tune.dimensions.items()})

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """All that decides the score of a trial but its values, as JSON would hold it."""
        scale, stand = self.tune.axes
        inputs = {pair: file_sha256(PAIRS / f"{pair}.safetensors") for pair in self.tune.pairs}
        found = {
            "pairs": self.tune.pairs,
            "method": self.tune.method,
            "scale": scale,
            "stand": stand,
            "seeds": self.tune.seeds,
            "validation": self.validation,
            "space": {key: str(values) for key, values in self.tune.dimensions.items()},
            "sampler": "TPE",
            "seed": SEED,
            "pruner": self.tune.pruner,
            "cards": self.reference,
            "data": file_sha256(DATA / self.matrix.data.name / MANIFEST),
            "teachers": inputs,
        }
        return dict(json.loads(json.dumps(found)))

    @property
    def epochs(self) -> list[int]:
        """How many epochs its cells train, each number once."""
        return sorted({card["train"]["epochs"] for card in self.reference.values()})

    def _check_teachers(self) -> None:
        known = KnownTeachers.of(yamlfile.read("data/teachers.yaml", bounded=True))
        for pair in self.tune.pairs:
            name = pair.partition("-")[0]
            card = teacher_card(name, self.matrix.teachers[name], self.matrix, known, self.code)
            weights, copy = TEACHERS / name / run_folder.WEIGHTS, PAIRS / f"{pair}.safetensors"
            is_there = run_folder.is_done(TEACHERS / name, card) and copy.is_file()
            if not is_there or file_sha256(weights) != file_sha256(copy):
                raise UserError(f"{copy}: the teacher is not here as {FILE} has it; {REMEDY}")

    def _check_data(self) -> None:
        folder, made = DATA / self.matrix.data.name, CARDS / "data.yaml"
        section = self.matrix.data.model_dump()
        is_there = made.is_file() and (folder / MANIFEST).is_file()
        if not is_there or {key: value for key, value in yamlfile.read(made).items() if key != "code"} != section:
            raise UserError(f"{folder}: the data set is not here as section data of {FILE} has it; {REMEDY}")
        searched = self.tune.dimensions.get("train.per_class")
        for card in self.reference.values():
            per_class = max(searched.ends) if searched else card["train"].get("per_class")
            key = "tune.space.train.per_class" if searched else "train.per_class"
            try:
                counts = subsets.counts(storage.load(folder))
                subsets.check(counts, validation=self.validation, per_class=per_class, key=key)
                regimes.check(counts, card)
            except UserError as error:
                if self.matrix.data.validation is not None:
                    raise
                raise UserError(f"{FILE}: {str(error).replace('data.validation', 'tune.validation')}") from error
