"""Section `data`: optional keys, and paths in the home folder."""

from pathlib import Path

import pytest

from kdcore.matrix import data_section, params
from kdcore.matrix.cards import make_cards
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT

OWN = {"name": "pets", "source": "folder:x", "image_size": 32}
PARQUET = {**OWN, "source": "parquet:x"}
KNOWN = [
    {"name": "digits", "source": "embedded", "image_size": 16, "train_per_class": 20},
    {"name": "cifar100", "source": "download"},
    {"name": "tiny_imagenet", "source": "download"},
    {"name": "stl10", "source": "download"},
    {"name": "cub200", "source": "download"},
    {"name": "imagenet", "source": "x"},
]
MEAN, STD = [0.5, 0, 1], [0.5, 0.25, 1]


def cards(**changes):
    content = yamlfile.read(PARAMS)
    matrix = params.Params.model_validate({**content, "data": {**content["data"], **changes}})
    recipes, teachers = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
    return make_cards(matrix, published_recipes=recipes, known_teachers=teachers)


@pytest.mark.parametrize("section", [OWN, PARQUET, *KNOWN], ids=lambda section: section["source"] + section["name"])
def test_a_card_holds_new_keys_only_where_they_are_set(section):
    """So that cards are as they were before there were these keys."""
    plain = params.data_section(**section)
    old = {"subset", "flip", "augmentation", "stem", "test_share", "train_per_class"}
    assert set(plain) - set(section) <= old
    given = params.data_section(**section, mean=MEAN, std=STD)
    assert given == {**plain, "mean": MEAN, "std": STD}


def test_only_the_data_sets_card_knows():
    before, after = cards(), cards(mean=MEAN, std=STD)
    assert {name for name in before if before[name] != after[name]} == {"data"}


@pytest.mark.parametrize(("section", "options"), [
    (OWN, {"scale_16bit": "largest"}), (OWN, {"scale_16bit": 4095}), (OWN, {"background": "white"}),
    (OWN, {"scale_16bit": [0, 1]}), (PARQUET, {"scale_16bit": [29315, 65535]}),
    (PARQUET, {"background": [1, 2, 3]}), (PARQUET, {"image_column": "a", "label_column": "b"}),
    (KNOWN[1], {"label_column": "b"}),
])  # fmt: skip
def test_allowed(section, options):
    assert params.data_section(**section, **options) == {**params.data_section(**section), **options}


@pytest.mark.parametrize(("section", "options", "message"), [
    (OWN, {"mean": MEAN}, "mean is set, but not std; set both, three numbers each, or none"),
    (KNOWN[1], {"std": STD}, "std is set, but not mean; set both, three numbers each, or none"),
    (OWN, {"mean": 0.5, "std": STD}, "mean: 0.5: must be three numbers from 0 to 1, for red, green and blue"),
    (OWN, {"mean": [0.5, 0.5], "std": STD}, "mean: [0.5, 0.5]: must be three numbers from 0 to 1"),
    (OWN, {"mean": [127, 127, 127], "std": STD}, "mean: [127, 127, 127]: must be three numbers from 0 to 1"),
    (OWN, {"mean": [True] * 3, "std": STD}, "mean: [True, True, True]: must be three numbers from 0 to 1"),
    (OWN, {"mean": MEAN, "std": [0.5, 0, 0.5]}, "std: [0.5, 0, 0.5]: must be three numbers above 0 and up to 1"),
    (OWN, {"mean": MEAN, "std": [float("nan")] * 3}, "std: [nan, nan, nan]: must be three numbers above 0"),
    (OWN, {"scale_16bit": 0}, "scale_16bit: 0: must be the 16-bit value that becomes white, a whole number from 1 to"),
    (OWN, {"scale_16bit": "full"}, "scale_16bit: 'full': must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": True}, "scale_16bit: True: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": [5, 5]}, "scale_16bit: [5, 5]: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": [9, 5]}, "or those that become black and white, such as [29000, 32000]; or largest"),
    (OWN, {"scale_16bit": [-1, 5]}, "scale_16bit: [-1, 5]: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": [1, 65536]}, "scale_16bit: [1, 65536]: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": [1, 2, 3]}, "scale_16bit: [1, 2, 3]: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": [1.0, 2]}, "scale_16bit: [1.0, 2]: must be the 16-bit value that becomes white"),
    (OWN, {"scale_16bit": []}, "scale_16bit: []: must be the 16-bit value that becomes white"),
    (OWN, {"background": "red"}, "background: 'red': must be white, black, or the red, green and blue of a colour"),
    (OWN, {"background": [1, 2, 256]}, "background: [1, 2, 256]: must be white, black, or the red, green and blue"),
    (OWN, {"label_column": "b"}, "label_column is for source parquet:<path>; folders of images have no columns"),
    (KNOWN[1], {"background": "white"}, "background: unknown key"),
    (KNOWN[3], {"image_column": "b"}, "image_column: unknown key"),
    (OWN, {"background": "white", "augmentation": "random_resized_crop"},
     "background is for images that are decoded once, not for augmentation random_resized_crop; set augmentation"),
])  # fmt: skip
def test_refused(section, options, message):
    with pytest.raises(UserError) as error:
        params.data_section(**section, **options)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(("section", "there"), [
    ({**OWN, "source": "folder:~/pets"}, "folder:/home/ada/pets"),
    ({**OWN, "source": "parquet:~/pets"}, "parquet:/home/ada/pets"),
    ({**KNOWN[1], "source": "~/cifar"}, "/home/ada/cifar"),
    (OWN, "folder:x"), (KNOWN[1], "download"), (KNOWN[0], "embedded"),
])  # fmt: skip
def test_home(monkeypatch, section, there):
    """The card keeps what the user wrote, for on another machine home is elsewhere."""
    monkeypatch.setenv("HOME", "/home/ada")
    source = params.data_section(**section)["source"]
    assert source == section["source"]
    assert data_section.located(source) == there
    if "/" in there:
        assert data_section.path(source) == Path(there.partition(":")[2] or there)


def test_a_source_in_the_home_folder_that_the_pipeline_would_delete(monkeypatch):
    monkeypatch.setenv("HOME", str(Path("runs").absolute()))
    content = yamlfile.read(PARAMS)
    content["data"] = {"name": "pets", "source": "folder:~/pets", "image_size": 16}
    with pytest.raises(UserError, match=r"data\.source: .*overlaps with runs, which the pipeline writes"):
        make_cards(params.Params.model_validate(content), published_recipes={}, known_teachers={})
