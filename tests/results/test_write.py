"""All results of matrices with gaps: nothing may fail where rows, seeds or whole axes are left out."""

import pytest

from kdcore.results.rows import Results
from kdcore.results.write import write_results
from tests import made_up

PAIR = made_up.PAIRS[0]
STUDY = {"t2": {"kd": {"temperature": 2}}, "fast": {"train": {"lr": 0.1}, "only": {"methods": ["kd", "vanilla"]}}}

pytestmark = pytest.mark.slow


def names(**options):
    return [cell for evaluation in made_up.matrix(**options).evaluations for cell in evaluation["cells"]]


@pytest.mark.parametrize("left_out", [
    lambda cell: cell["variant"] == "base",
    lambda cell: cell["variant"] == "t2",
    lambda cell: cell["method"] == "vanilla",
    lambda cell: cell["method"] == "kd",
    lambda cell: cell.get("scale") == 1,
    lambda cell: cell["seed"] == 1,
    lambda cell: cell["name"].endswith("-kd-1-False-base-0"),
], ids=["base", "a variant", "students", "kd", "plain", "a seed", "one plain cell"])  # fmt: skip
@pytest.mark.parametrize("how", ["excluded", "missing"])
def test_what_is_left_out(tmp_path, left_out, how):
    """As excluded by params.yaml, or as not trained yet."""
    options = {"pairs": [PAIR], "seeds": (0, 1), "variants": STUDY}
    gone = [cell["name"] for cell in names(**options) if left_out(cell)]
    write_results(made_up.matrix(**options, **{how: gone}), tmp_path / "tables")
    text = (tmp_path / "tables/cifar100.md").read_text()
    assert (how in text or "n = 1" in text) == bool(gone)
    assert ("missing" in text) == (how == "missing")


@pytest.mark.parametrize("variants", [None, STUDY])
def test_nothing_trained_yet(tmp_path, variants):
    made = made_up.matrix(pairs=[PAIR], variants=variants)
    write_results(Results.of(made.card, [], {}, made.published), tmp_path / "tables")
    assert "Missing: " in (tmp_path / "tables/cifar100.md").read_text()
