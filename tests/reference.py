"""The reference material beside the project, for tests that compare with published code; absent elsewhere."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[2] / "shared" / "reference"
DATA = Path(__file__).parents[2] / "shared" / "data"
REQUIRED = "REQUIRE_REFERENCE" in os.environ
"""Set where the tests must not be skipped: they fail instead."""
needs_reference = pytest.mark.skipif(not (FOLDER.is_dir() or REQUIRED), reason=f"no reference material at {FOLDER}")
needs_data = pytest.mark.skipif(not (DATA.is_dir() or REQUIRED), reason=f"no reference data at {DATA}")


@cache
def index(wave: str = "golden") -> list[dict[str, Any]]:
    """All golden cases of a folder, "golden" or "golden2"; none where the reference is absent."""
    if not FOLDER.is_dir():
        return []
    cases = yaml.load((FOLDER / wave / "index.yaml").read_text(), Loader=yaml.CSafeLoader)["cases"]
    return [{**case, "file": f"{wave}/{case['file']}"} for case in cases]


@cache
def _archive(file: str) -> Any:
    return np.load(FOLDER / file)


class GoldenCase:
    """One case in one precision: its inputs as tensors that record gradients, and its comparison."""

    def __init__(self, case: dict[str, Any], dtype: torch.dtype) -> None:
        self.case = case
        self.dtype = dtype
        self.parameters: dict[str, Any] = case["hyperparameters"]
        self.levels = tuple(case["levels"] or ())
        self.standardize: bool = case["standardize"]
        self.inputs = {name: self._tensor(name) for name in case["inputs"]}

    def _tensor(self, name: str) -> torch.Tensor:
        values = torch.from_numpy(self.expected(name))
        if not values.is_floating_point():
            return values
        return values.to(self.dtype).requires_grad_(name in (self.case["gradient_of"] or ()))

    def expected(self, name: str) -> np.ndarray:
        return _archive(self.case["file"])[f"{self.case['id']}/{name}"]

    def check(self, name: str, actual: torch.Tensor) -> None:
        """By the rules of the golden README: gradients against their maximum, the rest with a floor from the loss."""
        tolerance = self.case["tolerance"][str(self.dtype).removeprefix("torch.")]
        expected = self.expected(name)
        got = actual.detach().double().numpy()
        assert got.shape == expected.shape
        scale = np.abs(expected).max(initial=0.0)
        if name.startswith("grad_"):
            allowed = tolerance["grad"] * scale
        else:
            if "loss" in self.case["expected"]:
                scale = max(scale, 0.001 * abs(float(self.expected("loss"))))
            allowed = tolerance.get("loss", tolerance.get("value")) * scale
        error = np.abs(got - expected).max(initial=0.0)
        assert error <= allowed, f"{self.case['id']} {name}: error {error:.3g}, allowed {allowed:.3g}"

    def check_gradients(self, loss: torch.Tensor) -> None:
        names = self.case["gradient_of"]
        gradients = torch.autograd.grad(loss, [self.inputs[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            self.check(f"grad_{name}", gradient)


def golden(*methods: str, module: bool | None = None) -> pytest.MarkDecorator:
    """Parametrise a test over every case of some methods, in float64 and float32.

    Args:
        methods: their names, which differ between the two folders.
        module: only the cases that go through (or do not) the method's own trainable part; None for both.
    """
    return pytest.mark.parametrize("case", list(_cases(methods, module)), ids=lambda c: f"{c[0]['id']}-{c[1]}")


def _cases(methods: tuple[str, ...], module: bool | None) -> Iterator[Any]:
    found = [
        case
        for case in [*index("golden"), *index("golden2")]
        if case["method"] in methods and module in (None, case.get("module", False))
    ]
    for case in found:
        for dtype in (torch.float64, torch.float32):
            yield case, dtype
    if not found:
        yield pytest.param(({"id": "absent"}, None), marks=needs_reference)
