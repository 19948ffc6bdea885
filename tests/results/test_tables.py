"""Tables from evaluations made up by hand."""

import shutil
import subprocess

import pandas as pd
import pytest

from kdcore.results import captions, tables
from kdcore.results.published import Published
from kdcore.results.rows import Results, Row, figure_of, rows
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
    "recipes": {
        "resnet56-resnet20-kd-1-False-0": {"temperature": [4.0, "a"], "kd_weight": [0.9, "a"]},
        "resnet56-resnet20-kd-1-True-0": {"temperature": [2.0, "b"], "kd_weight": [9.0, "inherited from x: b"]},
    },
}


def cell(method, seed, top1, scale=None, stand=None):
    name = "-".join(str(v) for v in ("resnet56-resnet20", method, scale, stand, seed) if v is not None)
    found = {"name": name, "method": method, "seed": seed, "top1": top1, "top1_best": top1 + 1,
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
    return Results.of({**CARD, **changes}, list(evaluations), dict(histories), published)


def frame(found):
    """The first table's."""
    return tables.tables(found)[0].text


def test_rows_in_their_order():
    assert [row.label for row in rows(CARD)] == [
        "Teacher", "Student", "AT", "KD", "KD + SDD [1,2]", "KD + stand", "KD + SDD [1,2] + stand",
    ]  # fmt: skip


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
    assert "best epoch, chosen on the test images" in captions.caption({**CARD, "accuracy": "top1_best"}, [EVALUATION])


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
    assert full == {"resnet56-resnet20": {"vanilla": {"plain": 69.5}, "at": {"plain": 70.5},
                                         "kd": {"plain": 70.5, "headline": 73.5}}}  # fmt: skip
    assert tables.metrics(results(scales=[2], stand=[False]))["resnet56-resnet20"]["kd"] == {
        "plain": None,
        "headline": 72.0,
    }


def test_metrics_say_which_teacher_taught():
    """Its accuracy, and its checkpoint; of one that was trained here, or whose record is not there, what was asked."""
    top1 = round(EVALUATION["teacher"]["top1"], 2)
    asked = {"top1": top1, "origin": "published checkpoint"}
    assert tables.metrics(results())["teachers"] == {"resnet56": asked}
    adopted = {"source": "checkpoints/cifar100/resnet56.pth", "member": None, "sha256": "0123456789abcdef" * 4}
    for member, origin in ((None, ""), ("a/b.pth", ": a/b.pth")):
        metas = {"resnet56": {"source": "published", "adopted": {**adopted, "member": member}}}
        found = results()
        found.card.update(captions.with_teachers(CARD, metas))
        assert tables.metrics(found)["teachers"]["resnet56"] == {
            "top1": top1,
            "origin": f"checkpoints/cifar100/resnet56.pth{origin}",
            "sha256": "0123456789ab",
        }
    half, read = [0.5, 0.5, 0.5], ", ema, images of mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5]"
    metas = {"resnet56": {"source": "a.pth", "adopted": adopted, "weights_key": "ema", "mean": half, "std": half}}
    card = captions.with_teachers(CARD, metas)
    assert card["checkpoints"]["resnet56"]["origin"] == f"checkpoints/cifar100/resnet56.pth{read}"
    assert card["teachers"]["resnet56"] == f"published checkpoint{read}"
    trained = {"resnet56": {"source": "published", "train": {"epochs": 3}}}
    found = results()
    found.card.update(captions.with_teachers(CARD, trained))
    assert tables.metrics(found)["teachers"]["resnet56"] == {
        "top1": top1,
        "origin": "trained here, 3 epochs, for no published checkpoint could be had",
    }


def test_caption_names_seeds_protocol_and_teachers():
    caption = captions.caption(CARD, [EVALUATION])
    assert (
        "of the last epoch; mean ± sample standard deviation over n = 2 seeds; 240 epochs of 50,000 training images."
        in caption
    )
    assert "resnet56 (published checkpoint)" in caption
    assert "n = 1 seed;" in captions.caption({**CARD, "seeds": [0]}, [EVALUATION])


def test_caption_explains_m_and_stand_where_rows_have_them():
    for changes, explained in (({}, True), ({"scales": [1]}, True), ({"scales": [1], "stand": [False]}, False)):
        assert ("stand: logits are standardised" in captions.caption({**CARD, **changes}, [EVALUATION])) == explained


def test_notes(published):
    remarks = captions.notes(results(published))
    costs = "teacher 0.86 M parameters, 125.5 M multiply-adds; student 0.28 M parameters, 40.8 M multiply-adds"
    assert f"resnet56-resnet20: {costs}." in remarks
    assert "KD: stand changes the z-score and temperature (4 to 2), kd_weight (0.9 to 9)." in remarks
    assert "Hyper-parameters inherited from another data set or method: kd with stand." in remarks
    assert not any("views" in remark or "Optimizer" in remark for remark in remarks)
    assert any("arXiv:2403.01427" in remark and "protocol: best epoch" in remark for remark in remarks)


def test_notes_of_views_and_optimizer():
    card = {**CARD, "methods": ["kd", "mlkd", "at+mlkd"], "optimizer": "dot"}
    remarks = list(captions._training_notes(card))
    assert "MLKD: trained on weak and strong views of each image, with cross-entropy on both." in remarks
    assert "AT+MLKD: trained on weak and strong views of each image, with cross-entropy on both." in remarks
    assert any(remark.startswith("Optimizer: DOT") for remark in remarks)
    assert not any(remark.startswith("KD:") for remark in remarks)


@pytest.mark.parametrize(("values", "change"), [
    ({False: 0.5, True: 0.5}, "alone"),
    ({False: "exclude_target", True: "all_classes"}, "and mu (exclude_target to all_classes)"),
])  # fmt: skip
def test_values_that_stand_changes(values, change):
    recipes = {f"resnet56-resnet20-kd-1-{stand}-0": {"mu": [value, "a"]} for stand, value in values.items()}
    assert f"KD: stand changes the z-score {change}." in captions.notes(results(recipes=recipes))


def test_values_that_regions_change():
    """With stand they are not told again; without a plain row there is nothing to compare with."""
    temperatures = {"1-False": 1.0, "2-False": 4.0, "4-False": 4.0, "1-True": 2.0, "4-True": 3.0}
    recipes = {
        f"resnet56-resnet20-kd-{cell}-0": {"temperature": [value, "a"], "ce_weight": [0.1, "a"]}
        for cell, value in temperatures.items()
    }
    card = {**CARD, "scales": [4, 1, 2], "recipes": recipes}
    assert list(captions._scale_notes(card)) == ["KD: SDD changes temperature (1 to 4)."]
    assert list(captions._scale_notes({**card, "scales": [4, 2]})) == []
    assert list(captions._scale_notes({**card, "pairs": [*CARD["pairs"], "a-b"]})) == [
        "KD (resnet56-resnet20): SDD changes temperature (1 to 4)."
    ]


def test_figures_of_dot_are_not_those_of_sgd():
    records = [
        {"teacher": "a", "student": "b", "method": "kd", "levels": [1], "stand": False, "top1": 1.0, "source": "s"},
        {"teacher": "a", "student": "b", "method": "at", "top1": 2.0, "source": "s"},
        {"teacher": None, "student": "b", "method": "vanilla", "top1": 3.0, "source": "s"},
    ]
    dot = {**records[0], "optimizer": "dot", "top1": 4.0}
    published = Published.of({"sources": {"s": SOURCE}, "x": [*records, dot]}, "x")
    row = Row("KD", "kd", 1, False)
    for optimizer, expected in (("sgd", [1.0, 2.0, 3.0]), ("dot", [4.0, None, 3.0])):
        found = [
            figure_of("a-b", shown, published, optimizer=optimizer, stand_recipe="paper")
            for shown in (row, Row("AT", "at"), Row("Student", "vanilla"))
        ]
        assert [figure and figure.top1 for figure in found] == expected


def test_a_data_set_named_as_the_sources_has_no_figures():
    assert Published.of({"sources": {"paper": SOURCE}}, "sources").figures == {}


def test_inherited_values_of_every_row():
    recipes = {
        f"resnet56-resnet20-{name}": {"ce_weight": [1, "inherited from x: a"]}
        for name in ("kd-1-False-0", "kd-1-True-0", "at-0", "vanilla-0")
    }
    remarks = list(captions._training_notes({**CARD, "recipes": recipes}))
    assert remarks == ["Hyper-parameters inherited from another data set or method: of every row."]


def test_matched_stand_is_no_publication(published):
    matched = results(published, stand_recipe="matched")
    assert {entry.row.label for entry in matched.entries if entry.figure} == {"Teacher", "Student", "AT", "KD"}
    assert any("stand_recipe: matched" in remark for remark in captions.notes(matched))


def test_plain_comes_first_whatever_the_order_of_the_axes():
    assert rows({**CARD, "stand": [True, False], "scales": [2, 1]}) == rows(CARD)


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
    identical, distinct, ablation = tables.tables(made_up.matrix())
    assert {pair for pair, _ in identical.text.columns} == set(made_up.PAIRS[:5])
    assert {pair for pair, _ in distinct.text.columns} == set(made_up.PAIRS[5:])
    assert [scale for scale, _ in ablation.text.columns] == ["M=[1]", "M=[1,2]", "M=[1,2,4]"]
    assert len(ablation.text) == 7 * 2 * 2
    (only,) = tables.tables(results(scales=[1]))
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


def test_doubts_are_marked():
    record = {
        "teacher": "resnet56",
        "student": "resnet20",
        "method": "at",
        "top1": 70.0,
        "source": "s",
        "doubt": "a log says 69",
    }
    sources = {"s": {**SOURCE, "doubt": "no runs are stated"}}
    found = results(Published.of({"sources": sources, "cifar100": [record]}, "cifar100"))
    assert frame(found)["resnet56-resnet20", "published"]["AT"] == "70.00† (+0.50 ≈)"
    remarks = captions.notes(found)
    assert "† AT, resnet56-resnet20, published 70.00: a log says 69." in remarks
    assert "Doubt about figures from T: no runs are stated." in remarks


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
    card = captions.with_teachers(CARD, {"resnet56": {"source": "train", "accepted": [RENAMED]}})
    recipes = {c["name"]: {} for c in cells}
    found = Results.of({**card, "recipes": recipes}, [{**EVALUATION, "cells": cells}], {}, NOTHING)
    told = "Trained with earlier code, accepted without training again"
    renamed, field = f"{told} (2 cells; teachers: resnet56): renamed kd.", f"{told} (1 cell): a field more."
    assert [note for note in captions.notes(found) if note.startswith("Trained")] == [renamed, field]
    tables.write(found, tmp_path)
    assert f"- {renamed}\n- {field}\n" in (tmp_path / "cifar100.md").read_text()
    assert f"\\par {renamed}\n\\par {field}\n" in (tmp_path / "cifar100.tex").read_text()
    column = pd.read_csv(tmp_path / "cells.csv", keep_default_na=False)["accepted"]
    assert column.tolist() == ["", "renamed kd.", "renamed kd.; a field more", *[""] * 9]


def test_parts_of_data_sets_are_called_so():
    assert "on cifar100 of the last epoch" in captions.caption(CARD, [EVALUATION])
    assert "on a part of cifar100 (100 classes) of the" in captions.caption({**CARD, "subset": True}, [EVALUATION])


def test_other_training_settings_are_noted():
    exceptions = [{"students": ["vgg8", "resnet20"], "lr": 0.01}, {"methods": ["kd"], "pairs": ["a-b"], "epochs": 480}]
    expected = "Trained with other settings: students vgg8, resnet20: lr 0.01; methods kd and pairs a-b: epochs 480."
    assert expected in captions.notes(results(exceptions=exceptions))
    assert not any("Trained with other settings" in remark for remark in captions.notes(results()))


@pytest.mark.skipif(not (shutil.which("pdflatex") or REQUIRED), reason="no LaTeX here")
@pytest.mark.parametrize("missing", [(), ("resnet56-resnet20-kd-1-False-0",)])
def test_the_preview_compiles_as_it_is(tmp_path, missing):
    """Without missing characters, which plain LaTeX leaves out of the page silently, and within the page."""
    tables.write(made_up.matrix(missing=missing, baselines=("vanilla", "at")), tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "preview.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "preview.pdf").read_bytes().startswith(b"%PDF")
    log = (tmp_path / "preview.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "Overfull" not in log
