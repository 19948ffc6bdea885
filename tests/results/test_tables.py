"""Tables from evaluations made up by hand."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from kdcore.results import captions, tables, typeset
from kdcore.results.published import Published
from kdcore.results.report import page
from kdcore.results.row import Row, rows
from kdcore.results.rows import Results, figure_of
from kdcore.system import yamlfile
from tests import made_up
from tests.conftest import ROOT
from tests.reference import REQUIRED

CARD = {
    "data": "cifar100",
    "pairs": ["resnet56-resnet20"],
    "methods": ["kd"],
    "scales": [1, 2],
    "stand": [False, True],
    "baselines": ["vanilla", "at"],
    "seeds": [0, 1],
    "stand_recipe": "paper",
    "accuracy": "top1",
    "epochs": 240,
    "optimizer": "sgd",
    "exceptions": [],
    "subset": False,
    "teachers": {"resnet56": "published checkpoint"},
    "variants": {"base": {"train": {}, "recipes": {}}},
    "excluded": [],
}
RECIPES = {
    "resnet56-resnet20-kd-1-False-base-0": {"temperature": [4.0, "a"], "kd_weight": [0.9, "a"]},
    "resnet56-resnet20-kd-1-True-base-0": {"temperature": [2.0, "b"], "kd_weight": [9.0, "inherited from x: b"]},
}


def card(*, recipes=RECIPES, **changes):
    """The card, where every cell that it declares has a recipe."""
    made = {**CARD, **changes}
    axes = [(method, scale, stand) for method in made["methods"] for scale in made["scales"] for stand in made["stand"]]
    of_rows = [Row(*one) for one in (*axes, *((baseline,) for baseline in made["baselines"]))]
    names = [row.cell(pair, seed) for pair in made["pairs"] for row in of_rows for seed in made["seeds"]]
    return {**made, "recipes": {**{name: {} for name in names}, **recipes}}


def cell(method, seed, top1, scale=None, stand=None):
    name = "-".join(str(v) for v in ("resnet56-resnet20", method, scale, stand, "base", seed) if v is not None)
    found = {"name": name, "method": method, "variant": "base", "seed": seed, "top1": top1, "top1_best": top1 + 1,
             "recipe": {"ce_weight": 1.0}, "versions": {"torch": "2"}, "commit": "abc", "device": "cpu", "threads": 1,
             "computed_in": "float32", "epochs": 240}  # fmt: skip
    return found if scale is None else {**found, "scale": scale, "levels": [1], "stand": stand}


EVALUATION = {
    "pair": "resnet56-resnet20",
    "train_images": 50_000,
    "classes": 100,
    "teacher": {"top1": 72.0, "parameters": 861_620, "multiply_adds": 125_490_000},
    "student": {"parameters": 278_324, "multiply_adds": 40_810_000},
    "cells": [
        cell("vanilla", 0, 69.0), cell("vanilla", 1, 70.0), cell("at", 0, 70.0), cell("at", 1, 71.0),
        cell("kd", 0, 70.0, 1, False), cell("kd", 1, 71.0, 1, False), cell("kd", 0, 72.0, 2, False),
        cell("kd", 1, 72.0, 2, False), cell("kd", 0, 71.0, 1, True), cell("kd", 1, 71.0, 1, True),
        cell("kd", 0, 73.0, 2, True), cell("kd", 1, 74.0, 2, True),
    ],
}  # fmt: skip
NOTHING = Published({}, {})
RENAMED = {"reason": "renamed kd.", "commit": "abc", "from": {"kd": "1"}, "to": {"kd": "2"}}
SOURCE = {"title": "T", "file": "F", "protocol": "P"}


@pytest.fixture(scope="module")
def published():
    return Published.of(yamlfile.read(ROOT / "data/published.yaml"), "cifar100")


def results(published=NOTHING, *, evaluations=(EVALUATION,), histories=(), **changes):
    return Results.of(card(**changes), list(evaluations), dict(histories), published)


def frame(found):
    """The first table's."""
    return tables.tables(found)[0].text


def test_rows_in_their_order():
    assert [row.label for row in rows(card())] == [
        "Teacher", "Student", "AT", "KD", "KD + SDD [1,2]", "KD + stand", "KD + SDD [1,2] + stand",
    ]  # fmt: skip


SEVERAL = {"methods": ["crd+kd", "kd"], "baselines": ["at+sp", "crd", "vanilla", "at"]}
"""Methods of all groups, not in the groups' order."""


def test_rows_stand_in_groups():
    labels = [row.label for row in rows(card(**SEVERAL, scales=[1], stand=[False]))]
    assert labels == ["Teacher", "Student", "CRD", "AT", "KD", "AT+SP", "CRD+KD"]


def test_groups_have_titles_where_there_are_several():
    def first_columns(found):
        lines = typeset.markdown(tables.tables(found), "", []).splitlines()
        return [line.split("|")[1].strip() for line in lines if line.startswith("|")]

    several = results(**SEVERAL, scales=[1], stand=[False])
    assert first_columns(several)[2:12] == [
        "**Trained alone**", "Teacher", "Student", "**Feature methods**", "CRD", "AT", "**Logit methods**", "KD",
        "**Sums of methods**", "AT+SP",
    ]  # fmt: skip
    assert not any("**" in text for text in first_columns(results(baselines=["vanilla"])))


def test_titles_of_groups_in_latex():
    several = results(**SEVERAL, scales=[1], stand=[False])
    text = typeset.latex(tables.tables(several)[:1], "", [], [])
    titles = re.findall(r"^\\multicolumn\{2\}\{l\}\{\\textit\{(.*)\}\} \\\\$", text, re.MULTILINE)
    assert titles == ["Trained alone", "Feature methods", "Logit methods", "Sums of methods"]


def test_every_part_of_a_long_latex_table_begins_with_a_title():
    table = typeset.Table("t", pd.DataFrame({("p", ""): ["1"] * 60}, index=[f"r{i}" for i in range(60)]),
                          pd.DataFrame({("p", ""): [False] * 60}, index=[f"r{i}" for i in range(60)]),
                          ["A"] * 10 + ["B"] * 50)  # fmt: skip
    parts = typeset.latex([table], "", [], []).split("\\begin{table}")[1:]
    assert len(parts) == 3
    for part in parts:
        body = part.split("\\midrule")[1].split("\\bottomrule")[0].split()
        assert body[0].startswith("\\multicolumn{2}{l}{\\textit{")
        assert sum("&" in word for word in body) <= typeset.LATEX_LINES


def test_means_deviations_and_gains():
    assert frame(results())["resnet56-resnet20", ""].to_dict() == {
        "Teacher": "72.00",
        "Student": "69.50 ± 0.71",
        "AT": "70.50 ± 0.71",
        "KD": "70.50 ± 0.71",
        "KD + SDD [1,2]": "72.00 ± 0.00 (+1.50)",
        "KD + stand": "71.00 ± 0.00 (+0.50)",
        "KD + SDD [1,2] + stand": "73.50 ± 0.71 (+3.00)",
    }


def test_best_epoch_instead_of_last():
    assert frame(results(accuracy="top1_best"))["resnet56-resnet20", ""]["AT"] == "71.50 ± 0.71"
    assert "best epoch, chosen on the test images" in captions.caption(card(accuracy="top1_best"), [EVALUATION])


def test_published_figures_stand_beside(published):
    """Measured minus published stands behind; equal seeds do not show their noise, nor does the one teacher."""
    assert frame(results(published))["resnet56-resnet20", "published"].to_dict() == {
        "Teacher": "72.34 (-0.34)", "Student": "69.06 (+0.44 ≈)", "AT": "70.55 (-0.05 ≈)", "KD": "70.66 (-0.16 ≈)",
        "KD + SDD [1,2]": "–", "KD + stand": "71.43 (-0.43)", "KD + SDD [1,2] + stand": "71.57 (+1.93 ≈)",
    }  # fmt: skip


def test_numbers(published):
    lines = tables.numbers(results(published)).set_index("row")
    assert lines.loc["KD + stand", ["M", "stand", "top1_mean", "n", "gain_over_plain", "published"]].tolist() == [
        "1", True, 71.0, 2, 0.5, 71.43,
    ]  # fmt: skip
    assert lines.loc["KD + stand", "published_source"] == "lskd_paper"


def test_metrics_do_not_depend_on_the_matrix():
    full = tables.metrics(results())
    del full["teachers"]
    assert full == {"resnet56-resnet20": {
        "vanilla": {"plain": 69.5, "rows": {"plain": 69.5}}, "at": {"plain": 70.5, "rows": {"plain": 70.5}},
        "kd": {"plain": 70.5, "headline": 73.5, "rows": {"1": 70.5, "1_2": 72.0, "1-stand": 71.0, "1_2-stand": 73.5}},
    }}  # fmt: skip
    assert tables.metrics(results(scales=[2], stand=[False]))["resnet56-resnet20"]["kd"] == {
        "plain": None,
        "headline": 72.0,
        "rows": {"1_2": 72.0},
    }


@pytest.mark.parametrize(("share", "record", "is_said"), [
    (0.2, {"adopted": {"source": "a.pth", "sha256": "01"}}, True), (0.2, {"train": {"epochs": 3}}, False),
    (None, {"adopted": {"source": "a.pth", "sha256": "01"}}, False),
])  # fmt: skip
def test_teachers_that_may_have_seen_the_test_images(share, record, is_said):
    found = results()
    found.card.update(captions.with_teachers(card(), {"resnet56": {"source": "a.pth", **record}}))
    found.card.update({"test_share": share} if share else {})
    said = [note for note in captions.notes(found) if "may have been trained on them: resnet56." in note]
    assert [note.split(",")[1] for note in said] == [" 20% of each class"] * is_said


def test_metrics_say_which_teacher_taught():
    """Its accuracy, and its checkpoint; of one that was trained here, or whose record is not there, what was asked."""
    top1 = round(EVALUATION["teacher"]["top1"], 2)
    asked = {"top1": top1, "origin": "published checkpoint"}
    assert tables.metrics(results())["teachers"] == {"resnet56": asked}
    adopted = {"source": "checkpoints/cifar100/resnet56.pth", "member": None, "sha256": "0123456789abcdef" * 4}
    for member, origin in ((None, ""), ("a/b.pth", ": a/b.pth")):
        metas = {"resnet56": {"source": "published", "adopted": {**adopted, "member": member}}}
        found = results()
        found.card.update(captions.with_teachers(card(), metas))
        assert tables.metrics(found)["teachers"]["resnet56"] == {
            "top1": top1,
            "origin": f"checkpoints/cifar100/resnet56.pth{origin}",
            "sha256": "0123456789ab",
        }
    half, read = [0.5, 0.5, 0.5], ", ema, images of mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5]"
    metas = {"resnet56": {"source": "a.pth", "adopted": adopted, "weights_key": "ema", "mean": half, "std": half}}
    taught = captions.with_teachers(card(), metas)
    assert taught["checkpoints"]["resnet56"]["origin"] == f"checkpoints/cifar100/resnet56.pth{read}"
    assert taught["teachers"]["resnet56"] == f"published checkpoint{read}"
    trained = {"resnet56": {"source": "published", "train": {"epochs": 3}}}
    found = results()
    found.card.update(captions.with_teachers(card(), trained))
    assert tables.metrics(found)["teachers"]["resnet56"] == {
        "top1": top1,
        "origin": "trained here, 3 epochs, for no published checkpoint could be had",
    }


def test_caption_says_which_images_chose_and_how_many_are_left():
    card = {**CARD, "validation": 0.1}
    left = {**EVALUATION, "train_images": 45_000}
    caption = captions.caption({**card, "accuracy": "top1_best"}, [left])
    assert "of the best epoch, chosen on the validation images (10% of the training images) (teachers" in caption
    assert "of 45,000 training images; the validation images (10% of the training images) are not among" in caption
    assert "of the last epoch;" in captions.caption(card, [left])
    few = captions.caption({**CARD, "per_class": 25}, [EVALUATION])
    assert "240 epochs of 2,500 training images, 25 of each class." in few


@pytest.mark.parametrize(("declared", "used", "budget"), [
    (None, 25, "25 training images of each class"), (25, None, "all training images"), (25, 25, None),
    (None, 500, None), (500, None, None), (25, 500, "all training images"),
])  # fmt: skip
def test_another_number_of_training_images_is_another_budget(declared, used, budget):
    declaring = card(**({"per_class": declared} if declared else {}))
    kd = [{**one, "per_class": used} if used and one["method"] == "kd" else one for one in EVALUATION["cells"]]
    found = Results.of(declaring, [{**EVALUATION, "cells": kd}], {}, NOTHING)
    of_kd = {entry.budget for entry in found.entries if entry.row.method == "kd"}
    assert of_kd == {(budget,) if budget else ()}


def test_notes_say_that_images_were_not_augmented():
    assert list(captions._training_notes({**CARD, "recipes": {}, "augmentation": "none"})) == [
        "Training images were seen without augmentation (train.augmentation: none)."
    ]


def test_caption_names_seeds_protocol_and_teachers():
    caption = captions.caption(card(), [EVALUATION])
    assert (
        "of the last epoch; mean ± sample standard deviation over n = 2 seeds; 240 epochs of 50,000 training images."
        in caption
    )
    assert "resnet56 (published checkpoint)" in caption
    assert "n = 1 seed;" in captions.caption(card(seeds=[0]), [EVALUATION])


def test_caption_explains_m_and_stand_where_rows_have_them():
    for changes, explained in (({}, True), ({"scales": [1]}, True), ({"scales": [1], "stand": [False]}, False)):
        assert ("stand: logits are standardised" in captions.caption(card(**changes), [EVALUATION])) == explained


def test_notes(published):
    remarks = captions.notes(results(published))
    costs = "teacher 0.86 M parameters, 125.5 M multiply-adds; student 0.28 M parameters, 40.8 M multiply-adds"
    assert f"resnet56-resnet20: {costs}." in remarks
    assert "KD: stand changes the z-score and temperature (4 to 2), kd_weight (0.9 to 9)." in remarks
    assert "Hyper-parameters inherited from another data set or method: kd with stand." in remarks
    assert not any("views" in remark or "Optimizer" in remark for remark in remarks)
    assert any("arXiv:2403.01427" in remark and "protocol: best epoch" in remark for remark in remarks)


def test_students_with_another_end_have_their_own_cost():
    own = {"cost": {"parameters": 1_312_000, "multiply_adds": 48_140_000}}
    larger = {"cost": {"parameters": 2_000_000, "multiply_adds": 60_000_000}}
    cells = [{**cell("simkd", seed, 70.0), **own} for seed in (0, 1)]
    cells += [{**cell("at+simkd", 0, 70.0), **larger}, cell("at+simkd", 1, 70.0)]
    evaluation = {**EVALUATION, "cells": [*EVALUATION["cells"], *cells]}
    found = results(evaluations=[evaluation], baselines=["vanilla", "at", "simkd", "at+simkd"])
    remarks = captions.notes(found)
    assert remarks[0].startswith("resnet56-resnet20: teacher 0.86 M")
    assert remarks[1:3] == [
        "resnet56-resnet20, SIMKD: the evaluated student has 1.31 M parameters, 48.1 M multiply-adds.",
        "resnet56-resnet20, AT+SIMKD: the evaluated student has 2.00 M parameters, 60.0 M multiply-adds.",
    ]
    frame = tables.cells(found).set_index("name")
    costs = frame.loc[[f"resnet56-resnet20-{name}-base-0" for name in ("vanilla", "simkd", "at+simkd")]]
    assert costs["parameters"].tolist() == [278_324, 1_312_000, 2_000_000]
    assert costs["multiply_adds"].tolist() == [40_810_000, 48_140_000, 60_000_000]
    assert "cost" not in frame
    shown = [[value.text for value in row] for row in page.networks(found).rows]
    assert shown == [
        ["resnet56-resnet20", "0.86", "0.28", "125.49", "40.81", "16"],
        ["resnet56-resnet20, SIMKD", "–", "1.31", "–", "48.14", "2"],
        ["resnet56-resnet20, AT+SIMKD", "–", "2.00", "–", "60.00", "1"],
    ]


def test_notes_of_views_and_optimizer():
    remarks = list(captions._training_notes(card(methods=["kd", "mlkd", "at+mlkd"], optimizer="dot")))
    assert "MLKD: trained on weak and strong views of each image, with cross-entropy on both." in remarks
    assert "AT+MLKD: trained on weak and strong views of each image, with cross-entropy on both." in remarks
    assert any(remark.startswith("Optimizer: DOT") for remark in remarks)
    assert not any(remark.startswith("KD:") for remark in remarks)


@pytest.mark.parametrize(("values", "change"), [
    ({False: 0.5, True: 0.5}, "alone"),
    ({False: "exclude_target", True: "all_classes"}, "and mu (exclude_target to all_classes)"),
])  # fmt: skip
def test_values_that_stand_changes(values, change):
    recipes = {f"resnet56-resnet20-kd-1-{stand}-base-0": {"mu": [value, "a"]} for stand, value in values.items()}
    assert f"KD: stand changes the z-score {change}." in captions.notes(results(recipes=recipes))


def test_values_that_regions_change():
    """With stand they are not told again; without a plain row there is nothing to compare with."""
    temperatures = {"1-False": 1.0, "2-False": 4.0, "4-False": 4.0, "1-True": 2.0, "4-True": 3.0}
    recipes = {
        f"resnet56-resnet20-kd-{cell}-base-0": {"temperature": [value, "a"], "ce_weight": [0.1, "a"]}
        for cell, value in temperatures.items()
    }
    assert list(captions._scale_notes(card(scales=[4, 1, 2], recipes=recipes))) == [
        "KD: SDD changes temperature (1 to 4)."
    ]
    assert list(captions._scale_notes(card(scales=[4, 2], recipes=recipes))) == []
    two = card(scales=[4, 1, 2], recipes=recipes, pairs=[*CARD["pairs"], "a-b"])
    assert list(captions._scale_notes(two)) == ["KD (resnet56-resnet20): SDD changes temperature (1 to 4)."]


def test_figures_of_dot_are_not_those_of_sgd():
    records = [
        {"teacher": "a", "student": "b", "method": "kd", "levels": [1], "stand": False, "top1": 10.0, "source": "s"},
        {"teacher": "a", "student": "b", "method": "at", "top1": 20.0, "source": "s"},
        {"teacher": None, "student": "b", "method": "vanilla", "top1": 30.0, "source": "s"},
    ]
    dot = {**records[0], "optimizer": "dot", "top1": 40.0}
    published = Published.of({"sources": {"s": SOURCE}, "x": [*records, dot]}, "x")
    row = Row("kd", 1, False)
    for optimizer, expected in (("sgd", [10.0, 20.0, 30.0]), ("dot", [40.0, None, 30.0])):
        found = [
            figure_of("a-b", shown, published, optimizer=optimizer, stand_recipe="paper")
            for shown in (row, Row("at"), Row("vanilla"))
        ]
        assert [figure and figure.top1 for figure in found] == expected


def test_a_data_set_named_as_the_sources_has_no_figures():
    assert Published.of({"sources": {"paper": SOURCE}}, "sources").figures == {}


def test_inherited_values_of_every_row():
    recipes = {
        f"resnet56-resnet20-{name}": {"ce_weight": [1, "inherited from x: a"]}
        for name in ("kd-1-False-base-0", "kd-1-True-base-0", "at-base-0", "vanilla-base-0")
    }
    remarks = list(captions._training_notes(card(recipes=recipes, scales=[1])))
    assert remarks == ["Hyper-parameters inherited from another data set or method: of every row."]


def test_inherited_values_of_some_rows():
    recipes = {
        "resnet56-resnet20-kd-1-False-base-0": {"ce_weight": [1, "params.yaml"]},
        "resnet56-resnet20-kd-4-False-base-0": {"ce_weight": [1, "inherited from x: a"]},
        "resnet56-resnet20-vanilla-base-0": {"ce_weight": [1, "inherited from x: a"]},
    }
    remarks = list(captions._training_notes(card(recipes=recipes, baselines=["vanilla"], scales=[1, 4], stand=[False])))
    assert remarks == ["Hyper-parameters inherited from another data set or method: kd with regions, vanilla."]


def test_matched_stand_is_no_publication(published):
    matched = results(published, stand_recipe="matched")
    assert {entry.row.label for entry in matched.entries if entry.figure} == {"Teacher", "Student", "AT", "KD"}
    assert any("stand_recipe: matched" in remark for remark in captions.notes(matched))


def test_plain_comes_first_whatever_the_order_of_the_axes():
    assert rows(card(stand=[True, False], scales=[2, 1])) == rows(card())


def test_trailing_zeros_stay():
    assert "| 72.00 " in tables.markdown(tables.tables(results()), "", [])


def test_markdown_and_latex(published):
    found = tables.tables(results(published))
    text = tables.markdown(found, "A title.", ["A note."])
    assert "| KD + stand             | 71.00 ± 0.00 (+0.50) " in text
    assert text.startswith("A title.\n\n### Identical structures\n")
    assert text.endswith("- A note.\n")
    tex = tables.latex(found, "100 % of a_b", ["A note."], ["§ a $1 note^2."])
    assert r"\caption{Identical structures. 100 \% of a\_b}" in tex
    assert r"KD + stand & 71.00 $\pm$ 0.00 (+0.50) & 71.43 ($-$0.43) \\" in tex
    assert tex.startswith("% A note.\n")
    assert r"\par \S a \$1 note\textasciicircum{}2." in tex
    assert tex.rstrip().endswith(r"\end{table}")
    assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_only_supported_gains_are_bold():
    """A gain far above its noise is bold, no gain is not; one seed supports nothing."""
    for gain, supported in ((5.0, True), (0.0, False)):
        found = tables.tables(made_up.matrix(gain=gain, pairs=made_up.PAIRS[:1]))
        assert found[0].bold.to_numpy().any() == supported
        assert ("**" in tables.markdown(found, "", [])) == (r"\textbf{" in tables.latex(found, "", [], [])) == supported
    alone = made_up.matrix(gain=5.0, seeds=(0,), pairs=made_up.PAIRS[:1])
    assert "**" not in tables.markdown(tables.tables(alone), "", [])
    assert "with one seed no gain is told from noise, and none is bold" in captions.caption(
        alone.card, alone.evaluations
    )


def test_pairs_stand_in_tables_of_their_kind_and_scales_in_one_of_their_own():
    identical, distinct, over_student, over_kd, ablation = tables.tables(made_up.matrix())
    assert {pair for pair, _ in identical.text.columns} == set(made_up.PAIRS[:5])
    assert {pair for pair, _ in distinct.text.columns} == set(made_up.PAIRS[5:])
    assert [scale for scale, _ in ablation.text.columns] == ["M=[1]", "M=[1,2]", "M=[1,2,4]"]
    assert len(ablation.text) == 7 * 2 * 2
    assert [list(table.text.columns) for table in (over_student, over_kd)] == [
        [(pair, "") for pair in made_up.PAIRS]
    ] * 2
    (only,) = tables.tables(results(scales=[1], stand=[False], baselines=[]))
    assert only.name == "identical structures"
    assert "###" not in tables.markdown([only], "", [])


@pytest.mark.parametrize(("changes", "shown"), [
    ({"scales": ["L2"]}, {"KD + SDD [2]": "missing"}),
    ({"seeds": [0, 1, 2]}, {"AT": "missing (1 of 3)", "KD + stand": "missing (1 of 3)"}),
])  # fmt: skip
def test_no_seed_is_left_out_of_a_mean(changes, shown):
    found = results(**changes)
    assert frame(found)["resnet56-resnet20", ""][list(shown)].to_dict() == shown
    assert any(remark.startswith("Missing: ") for remark in captions.notes(found))
    of = tables.numbers(found).set_index("row").loc[next(iter(shown))]
    assert of["missing"] > 0
    assert of[["top1_mean", "gain_over_plain"]].isna().all()


def test_a_pair_that_has_not_been_evaluated():
    found = results(evaluations=[])
    assert set(frame(found)["resnet56-resnet20", ""]) == {"missing", "missing (2 of 2)"} - {"missing (2 of 2)"}
    assert "Missing: 12 cells of 6 rows have no result yet." in captions.notes(found)


def test_cells_that_were_made_otherwise_are_noted():
    mixed = [{**c, **({"commit": "def", "threads": 2} if c["method"] == "at" else {})} for c in EVALUATION["cells"]]
    remarks = captions.notes(results(evaluations=[{**EVALUATION, "cells": mixed}]))
    assert "Cells were made with several commits: abc | def (each in cells.csv)." in remarks
    assert "Cells were made with several numbers of threads: 1 | 2 (each in cells.csv)." in remarks
    assert not any("several" in remark for remark in captions.notes(results()))


def test_other_budgets_are_marked():
    """Epochs from the cells themselves; more views from the method."""
    longer = [{**c, "epochs": 480} if c["method"] == "at" else c for c in EVALUATION["cells"]]
    found = results(evaluations=[{**EVALUATION, "cells": longer}])
    assert frame(found)["resnet56-resnet20", ""]["AT"] == "70.50 ± 0.71 §"
    assert "§ Trained with another budget, 480 epochs: resnet56-resnet20: AT." in captions.notes(found)
    assert r"70.50 $\pm$ 0.71 \S" in tables.latex(tables.tables(found), "", [], [])
    views = results(methods=["mlkd"], scales=[1], stand=[False])
    expected = "§ Trained with another budget, weak and strong views of each image: resnet56-resnet20: MLKD."
    assert expected in captions.notes(views)
    assert not any("§" in remark for remark in captions.notes(results()))


def doubted(*, source=(), figure=()):
    """One figure of AT, with these further keys of its source and of itself."""
    record = {"teacher": "resnet56", "student": "resnet20", "method": "at", "top1": 70.0, "source": "s", **dict(figure)}
    return Published.of({"sources": {"s": {**SOURCE, **dict(source)}}, "cifar100": [record]}, "cifar100")


def printed(found):
    """The tables in Markdown and in LaTeX, with their notes."""
    shown, remarks = tables.tables(found), captions.notes(found)
    return tables.markdown(shown, "", remarks), tables.latex(shown, "", remarks, captions.marks(found))


def test_doubts_are_marked():
    found = results(doubted(figure={"doubt": "a log says 69"}))
    assert frame(found)["resnet56-resnet20", "published"]["AT"] == "70.00† (+0.50 ≈)"
    assert [remark for remark in captions.notes(found) if "†" in remark] == [
        "† AT, resnet56-resnet20, published 70.00: a log says 69."
    ]
    assert not any("†" in text for text in printed(results(doubted())))


def test_figures_of_a_doubtful_source_are_marked():
    """With one note for all of them; a figure with a doubt of its own has a note of its own too."""
    found = results(doubted(source={"doubt": "read second hand"}))
    assert frame(found)["resnet56-resnet20", "published"]["AT"] == "70.00† (+0.50 ≈)"
    of_source = "† Every figure from T: read second hand."
    assert [remark for remark in captions.notes(found) if "†" in remark] == [of_source]
    both = results(doubted(source={"doubt": "read second hand"}, figure={"doubt": "a log says 69"}))
    assert [remark for remark in captions.notes(both) if "†" in remark] == [
        of_source,
        "† AT, resnet56-resnet20, published 70.00: a log says 69.",
    ]
    text, typeset = printed(found)
    assert "70.00† (+0.50 ≈)" in text
    assert of_source in text
    assert r"70.00$^\dagger$ (+0.50 $\approx$)" in typeset
    assert r"\par $^\dagger$ Every figure from T: read second hand." in typeset
    [line] = tables.numbers(found).query("row == 'AT'").to_dict("records")
    assert line["published_doubt"] == "read second hand"


def test_every_cell_is_traced():
    recipes = {c["name"]: {"ce_weight": [1.0, "paper"]} for c in EVALUATION["cells"]}
    lines = tables.cells(results(recipes=recipes))
    assert len(lines) == 12
    assert set(lines["accepted"]) == {""}
    assert set(lines["recipe"]) == {"ce_weight=1.0"}
    assert set(lines["recipe_sources"]) == {"ce_weight: paper"}
    assert set(lines["commit"]) == {"abc"}


def test_accepted_changes_of_code_are_told(tmp_path):
    """Each reason once, with how many cells and which teachers it is about."""
    given = [[], [RENAMED], [RENAMED, RENAMED, {**RENAMED, "reason": "a field\nmore"}]]
    cells = [{**c, **({"accepted": given[i]} if i in (1, 2) else {})} for i, c in enumerate(EVALUATION["cells"])]
    taught = captions.with_teachers(card(), {"resnet56": {"source": "train", "accepted": [RENAMED]}})
    recipes = {c["name"]: {} for c in cells}
    found = Results.of({**taught, "recipes": recipes}, [{**EVALUATION, "cells": cells}], {}, NOTHING)
    told = "Trained with earlier code, accepted without training again"
    renamed, field = f"{told} (2 cells; teachers: resnet56): renamed kd.", f"{told} (1 cell): a field more."
    assert [note for note in captions.notes(found) if note.startswith("Trained")] == [renamed, field]
    tables.write(found, tmp_path)
    assert f"- {renamed}\n- {field}\n" in (tmp_path / "cifar100.md").read_text()
    assert f"\\par {renamed}\n\\par {field}\n" in (tmp_path / "cifar100.tex").read_text()
    column = pd.read_csv(tmp_path / "cells.csv", keep_default_na=False)["accepted"]
    assert column.tolist() == ["", "renamed kd.", "renamed kd.; a field more", *[""] * 9]


def test_parts_of_data_sets_are_called_so():
    assert "on cifar100 of the last epoch" in captions.caption(card(), [EVALUATION])
    assert "on a part of cifar100 (100 classes) of the" in captions.caption(card(subset=True), [EVALUATION])


def test_other_training_settings_are_noted():
    exceptions = [{"students": ["vgg8", "resnet20"], "lr": 0.01},
                  {"methods": ["kd"], "scales": [1, "L2"], "stand": [False], "epochs": 480}]  # fmt: skip
    expected = (
        "Trained with other settings: students vgg8, resnet20: lr 0.01; "
        "methods kd and scales 1, L2 and stand False: epochs 480."
    )
    assert expected in captions.notes(results(exceptions=exceptions))
    assert not any("Trained with other settings" in remark for remark in captions.notes(results()))


@pytest.mark.skipif(not (shutil.which("pdflatex") or REQUIRED), reason="no LaTeX here")
@pytest.mark.parametrize("variants", [None, {"t2": {"kd": {"temperature": 2, "complementary_weight": 0.5}}}])
@pytest.mark.parametrize("missing", [(), ("resnet56-resnet20-kd-1-False-base-0",)])
def test_the_preview_compiles_as_it_is(tmp_path, missing, variants):
    """Without missing characters, which plain LaTeX leaves out of the page silently, and within the page."""
    tables.write(made_up.matrix(missing=missing, baselines=("vanilla", "at"), variants=variants), tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "preview.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "preview.pdf").read_bytes().startswith(b"%PDF")
    log = (tmp_path / "preview.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "Overfull" not in log
    assert "too large" not in log


class TestVariants:
    STUDY = {"t2": {"kd": {"temperature": 2}}, "w4": {"kd": {"complementary_weight": 4}}}  # noqa: RUF012

    def made(self, **options):
        return made_up.matrix(**{"pairs": made_up.PAIRS[:2], "variants": self.STUDY, **options})

    def test_they_have_rows_in_every_table(self):
        made = self.made()
        found = tables.tables(made)
        assert [table.name for table in found] == [
            "identical structures", "gains over the student trained alone, in percentage points",
            "gains over plain KD, in percentage points", "ablation over M", "ablation over kd.temperature",
            "ablation over kd.complementary_weight",
        ]  # fmt: skip
        assert list(found[0].text.index)[2:6] == ["KD", "KD, T=2", "KD + SDD [1,2]", "KD + SDD [1,2], T=2"]
        entry = next(entry for entry in made.entries if entry.row.label == "KD + SDD [1,2], T=2")
        assert f"({entry.gain:+.2f})" in found[0].text.loc[entry.row.label, (entry.pair, "measured")]
        over = {table.name.split(",")[0]: table for table in found}
        for name, kind in (("gains over the student trained alone", "student"), ("gains over plain KD", "kd")):
            shown = over[name].text.loc[entry.row.label, (entry.pair, "")]
            assert shown == f"{entry.gains[kind].points:+.2f}{entry.signs}"
            assert over[name].bold.loc[entry.row.label, (entry.pair, "")] == entry.gains[kind].is_supported
        assert f"{made_up.PAIRS[0]} KD + stand, T=2" in over["ablation over M"].text.index

    def test_what_a_pair_has_not_is_a_dash(self):
        """One variant is for one pair alone."""
        only = {"t2": {"kd": {"temperature": 2}, "only": {"pairs": made_up.PAIRS[:1]}}}
        shown = tables.tables(self.made(variants=only))[0].text.loc["KD, T=2"]
        assert shown[made_up.PAIRS[0], "measured"] != "–"
        assert shown[made_up.PAIRS[1], "measured"] == "–"
        assert "1-t2" not in tables.metrics(self.made(variants=only))[made_up.PAIRS[1]]["kd"]["rows"]

    def test_excluded_cells_are_never_missing(self):
        pair = made_up.PAIRS[0]
        excluded = [f"{pair}-kd-2-False-t2-{seed}" for seed in range(3)] + [f"{pair}-kd-1-True-base-1"]
        made = self.made(excluded=excluded)
        text = tables.tables(made)[0].text
        assert text.loc["KD + SDD [1,2], T=2", (pair, "measured")] == "excluded"
        entry = next(entry for entry in made.entries if entry.row.label == "KD + stand")
        assert text.loc["KD + stand", (pair, "measured")] == (
            f"{sum(entry.values) / 2:.2f} ± {entry.deviation:.2f} ({entry.gain:+.2f}), n = 2{entry.signs}"
        )
        notes = captions.notes(made)
        assert not any("issing" in note for note in notes)
        assert "excluded: params.yaml leaves these cells out (exclude); they are not trained." in notes
        assert any(f"params.yaml excludes seed 1: {pair}: KD + stand." in note for note in notes)
        lines = tables.numbers(made)
        lines = lines[lines["pair"] == pair].set_index("row")
        assert lines.loc["KD + SDD [1,2], T=2", ["n", "missing", "excluded"]].tolist() == [0, 0, 3]
        assert lines.loc["KD + stand", ["n", "missing", "excluded"]].tolist() == [2, 0, 1]

    def test_a_gain_is_over_the_seeds_that_both_rows_have(self):
        """Its n stands in the parentheses where the row's own n is another."""
        pair = made_up.PAIRS[0]
        made = self.made(excluded=[f"{pair}-kd-1-False-base-1", f"{pair}-kd-1-False-t2-2"])
        plain, t2 = (next(e for e in made.entries if e.row.label == label) for label in ("KD", "KD, T=2"))
        (own, _), (other, _) = t2.values, plain.values  # noqa: PD011
        points = own - other
        shown = tables.tables(made)[0].text.loc["KD, T=2", (pair, "measured")]
        assert shown.startswith(f"{sum(t2.values) / 2:.2f} ± {t2.deviation:.2f} ({points:+.2f}, n = 1), n = 2")
        over_kd = next(table for table in tables.tables(made) if table.name.startswith("gains over plain KD"))
        assert over_kd.text.loc["KD, T=2", (pair, "")].startswith(f"{points:+.2f}, n = 1")
        lines = tables.numbers(made)
        line = lines[(lines["pair"] == pair) & (lines["row"] == "KD, T=2")].iloc[0]
        assert (line["gain_n"], line["n"]) == (1, 2)
        told = "n behind a gain: the two rows have other seeds; the gain is over those that both have, and has no test."
        assert told in captions.notes(made)
        assert told not in captions.notes(self.made())

    def test_gains_over_a_student_that_was_trained_otherwise_are_told_and_not_bold(self):
        only = {"scales": [1], "stand": [False], "methods": ["kd"]}
        variants = {"none": {"train": {"augmentation": "none"}, "only": only}}
        made = self.made(gain=5.0, variants=variants)
        name = "gains over the student trained alone"
        over = next(table for table in tables.tables(made) if table.name.startswith(name))
        assert not over.bold.loc["KD, augmentation=none"].any()
        assert over.bold.loc["KD + SDD [1,2] + stand"].all()
        assert (
            "Gains over rows that were trained with other settings, so partly due to these; never bold: "
            "KD, augmentation=none over Student."
        ) in captions.notes(made)
        own = self.made(variants={"none": {"train": {"augmentation": "none"}}})
        assert not any("trained with other settings, so" in note for note in captions.notes(own))

    def test_keys_of_metrics(self):
        found = tables.metrics(self.made())[made_up.PAIRS[0]]
        assert list(found["kd"]["rows"])[:5] == ["1", "1-t2", "1_2", "1_2-t2", "1_2-w4"]
        assert found["kd"]["plain"] == found["kd"]["rows"]["1"]
        assert found["kd"]["headline"] == found["kd"]["rows"]["1_2_4-stand"]
        assert found["vanilla"] == {"plain": found["vanilla"]["plain"], "rows": {"plain": found["vanilla"]["plain"]}}

    def test_numbers_and_cells_name_them(self):
        made = self.made()
        lines = tables.numbers(made).set_index(["pair", "row"])
        line = lines.loc[made_up.PAIRS[0], "KD + SDD [1,2], T=2"]
        over = ["gain_reference", "gain_over_student_reference", "gain_over_kd_reference"]
        assert line[["variant", *over]].tolist() == ["t2", "KD, T=2", "Student", "KD, T=2"]
        cells = tables.cells(made)
        assert set(cells[cells["variant"] == "t2"]["change"]) == {"T=2"}
        assert set(cells[cells["variant"] == "base"]["change"]) == {""}

    def test_long_changes_are_told_below_the_tables(self):
        change = {"train": {"batch_size": 128, "lr": 0.1, "milestones": [11, 22]}}
        notes = captions.notes(self.made(variants={"big": {**change, "kd": {"stand": {"temperature": 3}}}}))
        assert "big: kd.stand.T=3, batch_size=128, lr=0.1, milestones=[11,22]." in notes

    def test_figures_are_of_base_unless_they_name_values(self):
        of = {"teacher": "resnet56", "student": "resnet20", "method": "kd", "levels": [1, 2], "stand": False}
        records = [{**of, "top1": 70.0, "source": "s"},
                   {**of, "values": {"complementary_weight": 4}, "top1": 71.0, "source": "s"},
                   {**of, "values": {"complementary_weight": 9}, "top1": 72.0, "source": "s"}]  # fmt: skip
        published = Published.of({"sources": {"s": SOURCE}, "cifar100": records}, "cifar100")
        made = self.made()
        found = Results.of(made.card, made.evaluations, made.histories, published)
        figures = {entry.row.label: entry.figure.top1 for entry in found.entries if entry.figure}
        assert figures == {"KD + SDD [1,2]": 70.0, "KD + SDD [1,2], complementary_weight=4": 71.0}

    @pytest.mark.parametrize(("changed", "top1"), [({}, 70.0), ({"temperature": 7}, None), ({"mu": 4}, 71.0)])
    def test_no_figure_stands_beside_another_recipe(self, changed, top1):
        """Of methods_config; nor beside variants of it."""
        of = {"teacher": "resnet56", "student": "resnet20", "method": "kd", "levels": [1], "stand": False}
        records = [{**of, "top1": 70.0, "source": "s"}, {**of, "values": {"mu": 4}, "top1": 71.0, "source": "s"}]
        made = self.made()
        own = {key: [value, "params.yaml"] for key, value in changed.items()}
        names = {f"{made_up.PAIRS[0]}-kd-1-False-{variant}-{seed}" for variant in ("base", "w4") for seed in (0, 1, 2)}
        recipes = {name: one | (own if name in names else {}) for name, one in made.card["recipes"].items()}
        published = Published.of({"sources": {"s": SOURCE}, "cifar100": records}, "cifar100")
        found = Results.of({**made.card, "recipes": recipes}, made.evaluations, made.histories, published)
        figures = {entry.row.label: entry.figure.top1 for entry in found.entries if entry.figure}
        assert figures == ({} if top1 is None else {"KD": top1})

    def test_latex_pages_hold_what_fits(self):
        made = made_up.matrix(variants=made_up.grid(temperature=(1, 4, 8), complementary_weight=(1, 2, 4)), seeds=(0,))
        tex = tables.latex(tables.tables(made), "", [], [])
        for table in tex.split("\\begin{table}")[1:]:
            body = table.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
            assert len(body) <= 26
            assert max(len(re.sub(r"\\(\w+|_)|[{}&$]", "", line)) for line in body) <= 150
