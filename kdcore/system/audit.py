"""What the project stands on: licences and versions of installed packages, and what is known against them."""

import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

CONSTRAINTS = Path("constraints.txt")
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC",
    "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "ZPL-2.1",
}  # fmt: skip
"""Beside a project under MIT: they ask for notices, or (MPL-2.0) that changes to their own files stay open."""
SPOKEN = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "New BSD": "BSD-3-Clause",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Zope Public License": "ZPL-2.1",
}
"""What packages say, in the names of SPDX."""
NVIDIA = "NVIDIA's libraries, of which torch for Linux is made: used as they are, and not passed on"
EXCEPTIONS = {
    "asyncssh": ("EPL-2.0 OR GPL-2.0-or-later", "DVC's way to SSH remotes: used unchanged, under the EPL"),
    "cuda-toolkit": ("", "holds nothing but the names of NVIDIA's packages"),
    "grandalf": ("GPLv2 | EPLv1", "draws `dvc dag`: used unchanged, under the EPL"),
    "nvidia-*": ("LicenseRef-NVIDIA-Proprietary", NVIDIA),
    "nvidia-cusparselt-cu13": ("NVIDIA Proprietary Software", NVIDIA),
    "pygit2": ("GPLv2 with linking exception", "DVC's way to git; the exception lets any program use it"),
}
"""Package, or a pattern -> the licence that was looked at, and why it does no harm here."""
COMMENT = re.compile(r"(^|\s)#.*")
"""Of a line of constraints, as pip reads it."""
TOOLS = ("pip", "setuptools")
"""Come with the virtual environment."""
SHOWN = 3
"""Packages of which nothing is known, that are named."""


@dataclass(frozen=True)
class Findings:
    """Of one check."""

    problems: list[str]
    unchecked: str = ""
    """What could not be found out, and why."""


def licences() -> Findings:
    """Licences, of all packages that are installed, that nobody has found to do no harm here."""
    found = {canonicalize_name(made.name): made for made in distributions()}
    return Findings([
        f"{name} {made.version}: its licence, {licence(made) or 'of which it says nothing'}, is not on the list. Look "
        "at it, and add it to ALLOWED or EXCEPTIONS in kdcore/system/audit.py, or do without the package"
        for name, made in sorted(found.items())
        if not is_allowed(licence(made)) and not _is_excepted(name, licence(made))
    ])  # fmt: skip


def licence(made: Distribution) -> str:
    """What a package says of its licence, in the names of SPDX where that is known; "" where it says nothing.

    One that is allowed, of a package whose classifiers name another that is not, comes with that one: no name of SPDX.
    """
    fields = made.metadata.get_all
    said = (fields("License-Expression") or fields("License") or [""])[0]
    classifiers = [line.split(" :: ")[-1] for line in fields("Classifier") or [] if line.startswith("License :: ")]
    if "\n" in said.strip() or said in ("", "Dual License"):  # the licence itself; or no name
        said = " AND ".join(SPOKEN.get(name, name) for name in classifiers)
    said = SPOKEN.get(said, said)
    others = [name for name in classifiers if name != "OSI Approved" and not is_allowed(SPOKEN.get(name, name))]
    return f"{said}, but by its classifiers {' and '.join(others)}" if others and is_allowed(said) else said


def is_allowed(expression: str) -> bool:
    """Whether an expression of SPDX lets a package be used under licences of `ALLOWED` alone."""
    inner = re.sub(r"\(([^()]*)\)", lambda match: "MIT" if is_allowed(match[1]) else "no", expression)
    if inner != expression:
        return is_allowed(inner)
    return any(all(term.strip() in ALLOWED for term in choice.split(" AND ")) for choice in expression.split(" OR "))


def pins(constraints: Path = CONSTRAINTS) -> Findings:
    """Packages that the project needs, directly or not, and whose version here is not the one of its constraints.

    And those of which the constraints allow more than one version.
    """
    lines = [COMMENT.sub("", line).strip() for line in constraints.read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    pinned = {canonicalize_name(one.name): one for one in wanted if one.marker is None or one.marker.evaluate()}
    if not pinned:
        return Findings([], f"{constraints} is for other versions of Python than {platform.python_version()}")
    loose = [f"{name}: {constraints} has {one}, no pin; write {name}==VERSION" for name, one in sorted(pinned.items())
             if not _is_pin(one)]  # fmt: skip
    return Findings(loose + [
        f"{name} {made.version}: {constraints} pins {pinned[name].specifier if name in pinned else 'no version of it'}"
        for name, made in sorted(needed().items())
        if name not in pinned or made.version not in pinned[name].specifier
    ])  # fmt: skip


def _is_pin(requirement: Requirement) -> bool:
    """Whether it allows one version alone."""
    return [(one.operator, "*" in one.version) for one in requirement.specifier] == [("==", False)]


def needed(project: str = "kdcore", extras: tuple[str, ...] = ("test", "audit")) -> dict[NormalizedName, Distribution]:
    """What a project needs, directly or not, and is installed; without itself, and without `TOOLS`."""
    found: dict[NormalizedName, Distribution] = {}
    todo = [(canonicalize_name(project), extras)]
    seen = {*todo}
    while todo:
        name, wanted = todo.pop()
        try:
            made = distribution(name)
        except PackageNotFoundError:  # of another system, or of an extra that is not installed
            continue
        found[name] = made
        for requirement in map(Requirement, made.requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                more = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
                todo += [] if more in seen else [more]
                seen.add(more)
    return {name: made for name, made in found.items() if name not in (project, *TOOLS)}


def vulnerabilities(constraints: Path = CONSTRAINTS) -> Findings:
    """What pip-audit's database knows of the pinned versions."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip"]
    options = ["--format", "json", "--desc", "off", "--progress-spinner", "off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)  # noqa: S603
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it says nothing but how it failed: it is not installed, or reaches no database
        return Findings([], f"pip-audit: {(done.stderr.strip() or 'no answer').splitlines()[-1]}")
    known = [
        f"{one['name']} {one['version']}: {', '.join([flaw['id'], *flaw['aliases']])}; mended in "
        f"{' and '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in found
        for flaw in one.get("vulns", [])
    ]
    # It calls it a success to have found none of them in its database.
    unknown = [one["skip_reason"] for one in found if "skip_reason" in one]
    return Findings(known, f"{len(unknown)} of {len(found)} packages: {'; '.join(unknown[:SHOWN])}" if unknown else "")


def _is_excepted(name: str, said: str) -> bool:
    return any(fnmatchcase(name, pattern) and said == expected for pattern, (expected, _) in EXCEPTIONS.items())


CHECKS = {"licences": licences, "pins": pins, "vulnerabilities": vulnerabilities}
