"""YAML is read as DVC reads it, and written so that DVC reads the same."""

import pytest
from ruamel.yaml import YAML

from kdcore.system import yamlfile
from kdcore.system.errors import UserError

VALUES = [
    "5e-4", "1e5", "1e+5", "12e4", "1.", "1.5e3", ".5", ".5e-3", ".5e3", "1_000", "1__0", "0.5_0", "010", "08",
    "0o17", "0o9", "0x1F", "-0x1f", "0b101", "+3", "12:30", "1.2.3", "1e", "e5", "_1", "off", "on", "yes", "no",
    "true", "TRUE", "tRUE", "null", "Null", "~", "nan", ".nan", ".NaN", "Inf", "-.inf", "+.inf", "2001-01-01",
    "'1'",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_values_are_those_that_dvc_reads(value):
    text = f"key: {value}\n"
    assert repr(yamlfile.parse(text, "file")) == repr(YAML(typ="safe", pure=True).load(text))


@pytest.mark.parametrize("value", ["12e4", "1e5", "0o17", "off", "5e-4", "1_000", "null", "é", "a: b"])
def test_text_stays_text(tmp_path, value):
    yamlfile.write(tmp_path / "x.yaml", {"key": value, value: 1})
    for read in (yamlfile.read, YAML(typ="safe", pure=True).load):
        assert read(tmp_path / "x.yaml") == {"key": value, value: 1}


def test_aliases_and_merged_keys():
    """A key may be named again where it overrides a merged one, wherever the merged mapping stands."""
    text = "a: &a {x: 1, y: 2}\nb: &b\n  <<: {x: 5}\n  y: 3\nc: {<<: [*a, *b], y: 4}\nd: *b\n"
    merged = {"x": 5, "y": 3}
    assert yamlfile.parse(text, "file") == {"a": {"x": 1, "y": 2}, "b": merged, "c": {"x": 1, "y": 4}, "d": merged}


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: {b: 1, c: 2, b: 3}", "a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}\n"])
def test_no_key_twice(text):
    with pytest.raises(UserError, match=r'^file, line [12]: is not valid YAML: found duplicate key "[abd]"; mend'):
        yamlfile.parse(text, "file")


@pytest.mark.parametrize("aliases", [100, 101])
def test_few_aliases(aliases):
    text = f"a: &a [1]\nb: [{', '.join(['*a'] * aliases)}]\n"
    if aliases <= yamlfile.MOST_ALIASES:
        assert yamlfile.parse(text, "file")["b"] == [[1]] * aliases
    else:
        with pytest.raises(UserError, match="line 2: is not valid YAML: more than 100 aliases"):
            yamlfile.parse(text, "file")
