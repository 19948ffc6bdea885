"""What the project stands on and what it leaves: packages, file modes, and no network."""

import json
import shlex
import socket
import stat
import subprocess
import sys
from importlib.metadata import Distribution, distribution

import pytest

from kdcore.system import audit, yamlfile
from stages import audit as stage
from tests.conftest import ROOT
from tests.project import TINY, Project, copy_of_project
from tests.sweeps import PAIR

UNSHARED = ["unshare", "--net"]
"""A command in a network of its own, of which not even the loopback is up."""


class TestPackages:
    def test_every_licence_is_on_the_list(self):
        needed = audit.needed()
        assert [text for text in audit.licences().problems if text.split()[0] in needed] == []

    @pytest.mark.parametrize(("expression", "expected"), [
        ("MIT", True), ("GPL-3.0-only", False), ("", False), ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT AND GPL-3.0-only", False), ("MPL-2.0 AND (Apache-2.0 OR GPL-2.0-only)", True),
        ("MIT AND (GPL-2.0-only OR (GPL-3.0-only AND MIT))", False), ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ])  # fmt: skip
    def test_licences_are_read_as_spdx_means_them(self, expression, expected):
        assert audit.is_allowed(expression) == expected

    def test_a_licence_that_is_not_on_the_list(self, monkeypatch):
        monkeypatch.setattr(audit, "ALLOWED", audit.ALLOWED - {"MIT"})
        (problem,) = [text for text in audit.licences().problems if text.startswith("pytest ")]
        version = distribution("pytest").version
        assert problem.startswith(f"pytest {version}: its licence, MIT, is not on the list. Look at it, ")

    def test_an_exception_is_for_one_licence(self, monkeypatch):
        """One that changes is looked at again."""
        monkeypatch.setitem(audit.EXCEPTIONS, "pygit2", ("GPLv3", "never looked at"))
        assert "pygit2" in [text.split()[0] for text in audit.licences().problems]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 takes the newest versions that support it")
    def test_everything_that_is_needed_is_pinned(self):
        needed = audit.needed()
        assert {"torch", "dvc", "fsspec", "pytest", "execnet"} <= set(needed)
        assert audit.pins(ROOT / audit.CONSTRAINTS) == audit.Findings([])

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 takes the newest versions that support it")
    @pytest.mark.parametrize("line", [
        "requests", "requests>=1", "requests==2.*", "requests>=1,==2.34.2", "requests===2.34.2", "requests~=2.0",
        "requests!=2.0",
    ])  # fmt: skip
    def test_pins_that_are_none(self, tmp_path, line):
        lines = (ROOT / audit.CONSTRAINTS).read_text().splitlines()
        assert sum(old.startswith("requests==") for old in lines) == 1
        changed = [line if old.startswith("requests==") else old for old in lines]
        (tmp_path / "constraints.txt").write_text("\n".join(changed))
        problem = audit.pins(tmp_path / "constraints.txt").problems[0]
        assert problem.startswith("requests: ")
        assert problem.endswith(", no pin; write requests==VERSION")

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 takes the newest versions that support it")
    def test_comments_beside_pins(self, tmp_path):
        lines = (ROOT / audit.CONSTRAINTS).read_text().splitlines()
        (tmp_path / "constraints.txt").write_text("\n".join(f"{line}  # why: a==1" for line in [*lines, ""]))
        assert audit.pins(tmp_path / "constraints.txt") == audit.Findings([])

    @pytest.mark.parametrize(("said", "classifiers", "expected"), [
        ("License: MIT", ["GNU General Public License v3 (GPLv3)"], "MIT, but by its classifiers GNU General Public"),
        ("License: BSD", ["BSD License", "GNU Affero General Public License v3"], "BSD-3-Clause, but by its"),
        ("License-Expression: MIT", ["Other/Proprietary License"], "MIT, but by its classifiers Other/Prop"),
        ("License: MIT", ["MIT License", "OSI Approved"], "MIT"),
    ])  # fmt: skip
    def test_licences_that_contradict(self, tmp_path, said, classifiers, expected):
        made = tmp_path / "odd-1.0.dist-info"
        made.mkdir()
        lines = [f"Classifier: License :: OSI Approved :: {name}" for name in classifiers]
        (made / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: odd", "Version: 1.0", said, *lines]))
        found = audit.licence(Distribution.at(made))
        assert found.startswith(expected)
        assert audit.is_allowed(found) == (expected == "MIT")

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 takes the newest versions that support it")
    def test_pins_that_are_missing_or_others(self, tmp_path):
        lines = (ROOT / audit.CONSTRAINTS).read_text().splitlines()
        lines = [line for line in lines if not line.startswith("fsspec==")]
        changed = [line.split(";")[0] + "0" if line.startswith("execnet==") else line for line in lines]
        (tmp_path / "constraints.txt").write_text("\n".join(changed))
        other, missing = audit.pins(tmp_path / "constraints.txt").problems
        assert other.startswith(f"execnet {distribution('execnet').version}: ")
        assert missing.endswith("constraints.txt pins no version of it")


GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "odd", "skip_reason": "odd (3.0) not found"}
FLAW, UNKNOWN = "bad 2.0: PYSEC-1, CVE-2; mended in 2.1", "1 of 2 packages: odd (3.0) not found"


class TestVulnerabilities:
    """With a pip-audit that says what the test wants."""

    @pytest.fixture
    def answer(self, tmp_path, monkeypatch):
        def answer(stdout, stderr="", code=0):
            lines = ("import sys", f"print({stdout!r})", f"print({stderr!r}, file=sys.stderr)", f"sys.exit({code})")
            (tmp_path / "pip_audit.py").write_text("\n".join(lines))
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
            return audit.vulnerabilities()

        return answer

    @pytest.mark.parametrize(("found", "problems", "unchecked"), [
        ([GOOD], [], ""), ([GOOD, BAD], [FLAW], ""), ([GOOD, SKIPPED], [], UNKNOWN), ([BAD, SKIPPED], [FLAW], UNKNOWN),
    ])  # fmt: skip
    def test_what_is_not_in_the_database_is_no_pass(self, answer, found, problems, unchecked):
        """For pip-audit it is."""
        assert answer(json.dumps({"dependencies": found})) == audit.Findings(problems, unchecked)

    def test_no_database(self, answer):
        found = answer("", "Traceback\nConnectionError: no way out\n", 1)
        assert found == audit.Findings([], "pip-audit: ConnectionError: no way out")

    @pytest.mark.parametrize(("licences", "vulnerabilities", "code"), [
        ("", "", 0), ("bad", "", 1), ("", "bad", 1), ("", "unknown", 3), ("bad", "unknown", 1),
    ])  # fmt: skip
    def test_exit_codes(self, monkeypatch, capsys, licences, vulnerabilities, code):
        def check(verdict):
            return lambda: audit.Findings(["bad"] * (verdict == "bad"), "why" * (verdict == "unknown"))

        monkeypatch.setattr(audit, "CHECKS", {"licences": check(licences), "vulnerabilities": check(vulnerabilities)})
        with pytest.raises(SystemExit) as caught:
            stage.main()
        assert caught.value.code == code
        said = capsys.readouterr().out
        assert ("NOT CHECKED: why" in said) == (vulnerabilities == "unknown")
        assert said.count("no problem found") == [licences, vulnerabilities].count("")


PROBE = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
except OSError as error:
    print("cut off:", error)
else:
    sys.exit("the test's own network can be reached")
"""


@pytest.fixture(scope="module")
def cut_off():
    """Run a command in a network of its own, after it was proved that nothing can be reached from there."""
    if subprocess.run([*UNSHARED, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network can be made here that is cut off")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # which can be done outside

        def run(project, *command):
            script = f'umask 077 && python -c "$PROBE" {port} && {shlex.join(command)}'
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PROBE", PROBE)
                said = project.run(*UNSHARED, "sh", "-c", script)
            assert said.startswith("cut off: ")
            return said

        yield run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, cut_off):
    """A matrix that was run without a network, for a user who shares nothing: begun by DVC, and ended by a sweep."""
    folder = tmp_path_factory.mktemp("supply") / "project"
    copy_of_project(folder)
    project = Project(folder)
    train = {**yamlfile.read(folder / "params.yaml")["train"], "epochs": 2, "schedule": "cosine"}
    project.set(**{**TINY, "methods": ["kd"], "scales": [1], "train": train})
    project.run("git", "init", "-q")
    project.commit()
    project.before = set(folder.rglob("*"))
    cut_off(project, "dvc", "repro", f"baseline@{PAIR}-vanilla-0")
    project.said = cut_off(project, "python", "-m", "stages.sweep", "--jobs", "2")
    return project


@pytest.mark.pipeline
class TestTinyRun:
    def test_needs_no_network(self, tiny):
        """Nor an interface that is up, though Dask listens on one."""
        assert tiny.said.endswith("3 done, 5 up to date\n")
        assert "Warning" not in tiny.said
        assert tiny.dvc("status").strip() == "Data and pipelines are up to date."
        assert (tiny.folder / "tables/report.html").is_file()

    def test_leaves_nothing_to_others(self, tiny):
        """What it writes can be read by nobody whom the umask excludes, and executed by nobody."""
        made = {path for path in tiny.folder.rglob("*") if ".git" not in path.parts} - tiny.before
        files = {path for path in made if path.is_file()}
        assert len(files) > 50
        modes = {path.relative_to(tiny.folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in made}
        assert [name for name, mode in modes.items() if mode & 0o022] == []
        assert [name for name, mode in modes.items() if mode & 0o077 and not name.startswith(".dvc/")] == []
        assert [path for path in files if path.stat().st_mode & 0o111] == []
