"""Fixtures that several test files use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def python():
    """Run a line of Python in a fresh interpreter at the project's root."""

    def run(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return run
