"""The Dockerfile and the devcontainer: no image is built; the files are read, and the steps of a build played."""

import json
import os
import re
import shutil
import subprocess

import pytest

from tests.project import ROOT, copy_of_project

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STEPS = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE), re.MULTILINE)
DEVCONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
PYTHON = """#!/bin/sh
[ "$*" = "-m venv .venv" ] || exit 64
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "$PIP_EXTRA_INDEX_URL $*" >> pip.log\\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""
INSTALLS = "install --quiet -c constraints.txt -e .[pipeline,test]"


@pytest.mark.parametrize("index", ["", "address-of-cpu-wheels"])
def test_the_build_is_what_make_setup_does(tmp_path, index):
    """The Dockerfile's steps in a folder, but for system packages; python3 and pip are played."""
    context, image, programs = (tmp_path / name for name in ("context", "image", "programs"))
    for folder in (context, image, programs):
        folder.mkdir()
    copy_of_project(context)
    (programs / "python3").write_text(PYTHON)
    (programs / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "TORCH_INDEX": index}
    for keyword, text in STEPS:
        if keyword == "COPY":
            *sources, _ = text.split()
            for source in sources:
                _copy(context / source, image)
        elif keyword == "RUN" and "apt-get" not in text:
            subprocess.run(["sh", "-ec", text], cwd=image, env=environment, check=True, capture_output=True)
    assert (image / "pip.log").read_text() == f"{index} {INSTALLS}\n"
    assert (image / "kdcore/objective.py").exists()
    again = subprocess.run(["make", "setup"], cwd=image, env=environment, check=True, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout or "up to date" in again.stdout
    assert (image / "pip.log").read_text().count("\n") == 1


def _copy(source, folder):
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        shutil.copy2(source, folder)


def test_it_names_no_registry():
    for text in (DOCKERFILE, json.dumps(DEVCONTAINER)):
        assert not re.search(r"://|\b[\w-]+\.(com|org|io|net|dev)\b", text)
    assert [text for keyword, text in STEPS if keyword == "FROM"] == ["python:${PYTHON_VERSION}-slim"]


def test_the_devcontainer_is_the_image():
    build, folder = DEVCONTAINER["build"], dict(STEPS)["WORKDIR"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    declared = {text.partition("=")[0] for keyword, text in STEPS if keyword == "ARG"}
    assert set(build["args"]) <= declared
    assert DEVCONTAINER["workspaceFolder"] == folder
    assert f"target={folder}," in DEVCONTAINER["workspaceMount"]
    assert f"target={folder}/.venv," in DEVCONTAINER["mounts"][0]
    assert f"PATH={folder}/.venv/bin:${{PATH}}" in dict(STEPS)["ENV"]
    target = DEVCONTAINER["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_no_output_of_this_machine_goes_into_an_image():
    left_out = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for line in (ROOT / ".gitignore").read_text().splitlines():
        name = line.replace("!/", "!").strip("/")
        if name and not line.startswith("#") and not name.startswith(".*."):
            assert {name, f"**/{name}"} & left_out, line
