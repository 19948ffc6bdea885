"""Processes that are killed leave whole outputs or none, and go on from their last state to the same bits."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import killed
from tests.project import ROOT

STEPS = killed.STEPS * killed.TRAIN["epochs"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a process of its own has found out, which alone can fork children that train."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KDCORE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    environment.pop("KDCORE_TABLES", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", folder],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("point", killed.POINTS)
def test_killed_at(found, point):
    """No step is taken twice but those since the last state."""
    (seen,) = (one for one in found["points"] if one["point"] == point)
    assert seen["code"] == -signal.SIGKILL
    assert seen["found"] == ("whole" if point == "results are in their place" else "absent")
    assert seen["next"] == {"same": True, "steps": killed.POINTS[point][1], "left": []}


def test_killed_at_random(found):
    """Fifty times, from before a cell's first step to after its last: what is there is whole, and what the next run
    makes has the bits of a run that nobody killed.
    """
    rounds = found["kills"]
    assert sum(one["code"] == -signal.SIGKILL for one in rounds) >= killed.KILLS
    assert {one["code"] for one in rounds} <= {0, -signal.SIGKILL}
    assert {one["found"] for one in rounds} <= {"absent", "whole"}
    ends = [one["next"] for one in rounds if "next" in one]
    assert all(one["same"] and not one["left"] for one in ends)
    assert sum(one["steps"] >= killed.STEPS and one["code"] != 0 for one in rounds) >= 10, "too few had a state"
    assert any(one["steps"] < STEPS for one in ends), "none went on from a state"


def test_terminated_at_random(found):
    """No step is lost, unless the process had not begun to listen."""
    rounds = found["terminations"]
    assert {one["code"] for one in rounds} <= {0, -signal.SIGTERM, 128 + signal.SIGTERM}
    ends = [one for one in rounds if "next" in one]
    assert all(one["next"]["same"] and not one["next"]["left"] for one in ends)
    stopped = [one for one in ends if one["found"] == "absent"]
    assert all(one["steps_before"] + one["next"]["steps"] == STEPS for one in stopped)
    told = [one["said"] for one in rounds if one["steps"] and one["found"] == "absent" and one["code"]]
    assert all("; run it again to go on from " in said for said in told)
    assert any("interrupted (SIGTERM), saved at epoch " in said for said in told), (
        "none was told in the middle of an epoch"
    )


@pytest.mark.parametrize("writer", ["Arrays", "Evaluation", "Tables", "Table"])
def test_writers(found, writer):
    """Data sets, evaluations, tables and teachers' tables, killed before each call that changes a file, and at random
    moments.
    """
    seen = found["writers"][writer]
    assert seen["codes"] == [-signal.SIGKILL, 0]
    assert seen["killed"] > killed.WRITES + 20
    assert seen["there"] > 10
