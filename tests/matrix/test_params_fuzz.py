"""params.yaml of any content: read, or refused with a message, and nothing else."""

import copy
import json
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcore.matrix import cards, params, teacher_cards
from kdcore.matrix.data_section import Cifar100, Own
from kdcore.matrix.train_section import SpecialCase, Train
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.once import code
from tests.project import PARAMS, ROOT

TEXT = (PARAMS).read_text()
SHIPPED = yamlfile.read(PARAMS)
RECIPES = yamlfile.read(ROOT / "data/recipes.yaml")
TEACHERS = yamlfile.read(ROOT / "data/teachers.yaml")
KEY_LINES = [number for number, line in enumerate(TEXT.splitlines()) if re.match(r" *\w+: *\S", line)]

WORDS = st.sampled_from(["kd", "dkd", "crd+kd", "at", "resnet20-resnet8", "resnet20", "train", "published", "digits"])
NAMES = st.sampled_from(
    ["stand", "pairs", "temperature", "ce_weight", "decoupling", "source", "name", "lr", "kd", "crd"]
)
KEYS = st.one_of(
    st.text(max_size=10), WORDS, NAMES, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.dates()
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-4, 40), st.floats(), st.text(max_size=20), WORDS, st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
TOKENS = st.sampled_from([
    *"[]{},:-?&*!|>'\"%@`#~=<\n\t ", "\n  ", "\n    ", ": ", "- ", "? ", "&a ", "*a", "<<: *a", "!!int ", "!!float ",
    "!!set ", "!!binary ", "!!timestamp ", "!!omap ", "!!python/name:os.system ", "---\n", "...\n", "%YAML 1.1\n", "0x",
    "0o7", "1e999", ".nan", "-.inf", "1_000", "12:30:45", "2001-01-01", "null", "true", "pairs", "seeds", "train", "lr",
    "\x00", "\x85", "\ufeff", "\u2028", "é",
])  # fmt: skip


def quick(examples):
    """Without a deadline, for other tests may be at work."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(deadline=None, max_examples=examples, suppress_health_check=checks)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Whether a params file is accepted, and all that stage plan writes of it; any error but ours ends the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cards, "Code", code)
    file = tmp_path / "params.yaml"

    def check(content):
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        try:
            matrix = params.load(file)
            teacher_cards.check_teachers(matrix, TEACHERS, str(file))
            made = cards.make_cards(matrix, published_recipes=RECIPES, known_teachers=TEACHERS)
        except UserError as error:
            said = str(error)
        else:
            for card in made.values():
                yamlfile.text(card).encode("utf-8")
            return True
        assert said.startswith((f"{file}", "params.yaml: ", "data/recipes.yaml: "))
        assert len(said) < 20_000
        return False

    return check


def dumped(content):
    """As YAML; or as JSON, which is YAML too, and escapes whatever is not ASCII."""
    as_yaml = st.builds(yaml.safe_dump, st.just(content), sort_keys=st.just(False), allow_unicode=st.just(True))
    return as_yaml | st.builds(json.dumps, st.just(content), default=st.just(str), skipkeys=st.just(True))


def paths(content, start=()):
    """Of every value in nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*start, key)
        yield from paths(value, (*start, key))


def shaped(model):
    """A section with the keys that it has, and anything as their values."""
    return st.dictionaries(st.sampled_from(list(model.model_fields)), VALUES, max_size=6)


def layer(*more):
    """Of hyper-parameters, and of whatever else may stand where they do."""
    return st.dictionaries(NAMES | KEYS, st.one_of(st.floats(), st.integers(-2, 10), VALUES, *more), max_size=3)


SECTIONS = st.one_of(
    st.tuples(st.just("teachers"), st.dictionaries(st.just("resnet20"), shaped(params.Teacher), min_size=1)),
    st.tuples(st.just("data"), shaped(Own)),
    st.tuples(st.just("data"), shaped(Cifar100).map(lambda section: {**section, "name": "cifar100"})),
    st.tuples(st.just("train"), shaped(SpecialCase).map(lambda case: {**SHIPPED["train"], "exceptions": [case]})),
    st.tuples(st.just("train"), shaped(Train).map(lambda section: {**SHIPPED["train"], **section})),
)
METHODS = st.sampled_from(["kd", "dkd", "at", "crd+kd"])
PAIRS = st.dictionaries(st.just("resnet20-resnet8") | KEYS, layer(layer()) | VALUES, max_size=2)
OVERRIDES = st.dictionaries(METHODS, st.one_of(layer(layer()), st.builds(dict, pairs=PAIRS), VALUES), max_size=2)


def test_the_shipped_one_is_accepted(check):
    assert check(TEXT)


@quick(400)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), st.lists(TOKENS, max_size=25).map("".join)))
def test_any_text(check, content):
    check(content)


@quick(120)
@given(st.dictionaries(st.sampled_from(list(SHIPPED)) | KEYS, VALUES, max_size=12).flatmap(dumped))
def test_any_values(check, content):
    check(content)


@quick(120)
@given(st.data())
def test_other_values_than_the_shipped(check, data):
    content = copy.deepcopy(SHIPPED)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([*paths(content), ("new",)]))
        section = content
        for key in parents:
            section = section[key]
        if data.draw(st.booleans()):
            section[last] = data.draw(VALUES)
        elif isinstance(section, dict):
            section.pop(last, None)
            section[data.draw(KEYS)] = data.draw(VALUES)
        else:
            section.pop(last)
    check(data.draw(dumped(content)))


@quick(100)
@given(SECTIONS.map(lambda section: {**SHIPPED, section[0]: section[1]}).flatmap(dumped))
def test_other_sections_than_the_shipped(check, content):
    check(content)


@quick(200)
@given(OVERRIDES.map(lambda overrides: {**SHIPPED, "methods_config": overrides}).flatmap(dumped))
def test_any_overrides(check, content):
    check(content)


@quick(40)
@given(st.integers(0, len(TEXT)), st.integers(0, 80), st.one_of(st.text(max_size=5), TOKENS), st.booleans())
def test_another_text_than_the_shipped(check, start, length, text, twice):
    """A part of it replaced, or there twice."""
    end = start + length
    check(TEXT[:end] + TEXT[start:] if twice else TEXT[:start] + text + TEXT[end:])


@quick(30)
@given(st.sampled_from(KEY_LINES))
def test_a_key_that_is_there_twice(check, number):
    lines = TEXT.splitlines()
    assert not check("\n".join([*lines[: number + 1], *lines[number:]]))
