"""A teacher's file that was replaced under the same path stops a sweep."""

from pathlib import Path

import pytest

from kdcore.matrix import params, replaced
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_digests, file_sha256
from tests.project import PARAMS

FILE = Path("params.yaml")


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """A matrix with a teacher of a file and one that is trained here, planned and recorded."""
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").write_bytes(b"first")
    content = yamlfile.read(PARAMS)
    content["teachers"]["resnet20"] = {"source": "mine.pth"}
    yamlfile.write(FILE, content)
    yamlfile.write(Path("cards/teacher/resnet20.yaml"), {"source": "mine.pth", "sha256": file_sha256(Path("mine.pth"))})
    yamlfile.write(Path("cards/teacher/wrn_16_2.yaml"), {"source": "train"})
    md5 = file_digests(FILE, "md5")["md5"]
    lock = ["stages:", "  plan:", "    cmd: x", "    deps:", "    - path: params.yaml", f"      md5: {md5}"]
    Path("dvc.lock").write_text("\n".join([*lock, ""]))
    return params.load(FILE)


def test_the_same_file_goes_on(matrix):
    replaced.check(matrix, FILE)


def test_another_one_is_refused(matrix):
    Path("mine.pth").write_bytes(b"second")
    with pytest.raises(
        UserError, match=r"^params\.yaml: teachers\.resnet20\.source: mine\.pth is another file .*'dvc repro -f plan'"
    ):
        replaced.check(matrix, FILE)


@pytest.mark.parametrize("change", [
    lambda: FILE.write_text(FILE.read_text() + "# more\n"),
    lambda: Path("dvc.lock").unlink(),
    lambda: Path("cards/teacher/resnet20.yaml").unlink(),
    lambda: Path("mine.pth").unlink(),
])  # fmt: skip
def test_what_the_plan_will_see_itself_is_left_to_it(matrix, change):
    Path("mine.pth").write_bytes(b"second")
    change()
    replaced.check(matrix, FILE)
