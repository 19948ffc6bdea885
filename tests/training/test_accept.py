"""What may be accepted of a network by name: another version of its package, or an edit of its file; no other value."""

import json

import pytest

from kdcore.system.files import write_json
from kdcore.training import accept, run_folder

NETWORK = {"timm": "resnet18", "package": "timm 1.0.0", "arguments": {"stem_width": 32, "base_width": 64}}
CARD = {"name": "a", "seed": 0, "networks": {"mine": NETWORK}, "code": {"trainer": "1"}}


def other(**changes):
    return {**CARD, "networks": {"mine": {**NETWORK, **changes}}}


def test_only_fingerprints_are_left_out_of_differences():
    assert list(accept.differences(other(package="timm 1.0.1"), CARD)) == []
    assert list(accept.differences(other(arguments={"stem_width": 32, "base_width": 32}), CARD)) == [
        "networks.mine.arguments.base_width was 64, is 32"
    ]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A folder of results, beside which DVC and the check of the folder stand for themselves."""
    monkeypatch.setattr(accept, "_dvc_commit", lambda *_: None)
    monkeypatch.setattr(run_folder, "check", lambda *_: None)
    write_json(tmp_path / run_folder.META, CARD)
    return tmp_path


def test_a_package_of_another_version_is_accepted_with_the_reason(recorded):
    card = other(package="timm 1.0.1")
    candidate = accept.Candidate("train@a", recorded, card, CARD, ())
    assert candidate.changed_code == ["network mine"]
    accept.accept([candidate], "equal bits of one cell")
    meta = json.loads((recorded / run_folder.META).read_text())
    (entry,) = meta.pop("accepted")
    assert meta == card
    assert entry["reason"] == "equal bits of one cell"
    assert (entry["from"]["network mine"], entry["to"]["network mine"]) == ("timm 1.0.0", "timm 1.0.1")
    assert accept._is_rewritten(recorded, {**meta, "accepted": [entry]})
