"""Copies of the project in which tests run DVC."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kdcore.system import yamlfile

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "tests/params.yaml"
"""A matrix of the tests' own, so that the shipped one can change."""
SHORT = {"epochs": 6, "batch_size": 16, "lr": 0.02, "schedule": "cosine", "precision": "float32", "threads": 1}
TRAINED = {"source": "train", "train": SHORT}
"""A teacher that is trained here."""
TINY = {
    "pairs": ["resnet14-resnet8"],
    "methods": ["kd", "dkd"],
    "scales": [1, 2],
    "stand": [False],
    "seeds": [0],
    "baselines": ["vanilla"],
    "teachers": {"resnet14": TRAINED},
    "data": {"name": "digits", "source": "embedded", "image_size": 16, "train_per_class": 2},
}


class Project:
    """A clone of this project, with a matrix of its own."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *command, code=0, environment=None):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PATH": path, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dvc(self, *command, code=0):
        return self.run("dvc", *command, code=code)

    def sweep(self, *arguments, code=0, environment=None):
        return self.run("python", "-m", "stages.sweep", *arguments, code=code, environment=environment)

    def commit(self):
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "test")

    def set(self, **changes):
        path = self.folder / "params.yaml"
        yamlfile.write(path, {**yamlfile.read(path), **changes})

    def edit(self, file, old, new):
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new, 1))

    def stale(self):
        """What DVC would run after the plan and pairs are up to date."""
        self.dvc("repro", "plan", "pairs")
        return set(json.loads(self.dvc("status", "--json").splitlines()[-1]))

    def ran(self, output):
        """Stages that `dvc repro` or a sweep says it has run."""
        found = re.findall(r"^Running stage '(.*)'|^(\S+): done in ", output, re.MULTILINE)
        return {repeated or swept for repeated, swept in found}

    def digest(self, path):
        return hashlib.sha256((self.folder / path).read_bytes()).hexdigest()


def copy_lists(folder):
    """What is known of recipes, teachers and published figures: all that the plan reads beside the matrix."""
    (folder / "data").mkdir(exist_ok=True)
    for file in (ROOT / "data").glob("*.yaml"):
        shutil.copy(file, folder / "data")


def copy_of_project(folder):
    """Its files as they are now, with the matrix of the tests, without results."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("tables/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    shutil.copy(PARAMS, folder / "params.yaml")
