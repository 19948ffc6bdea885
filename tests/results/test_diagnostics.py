"""Diagnostics by row: their means, on the page, in figures and tables; and accuracy over the time of a step."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kdcore.results import diagnostic_figures, figures, pareto, tables
from kdcore.results.diagnostics.summary import diagnosed, numbers
from kdcore.results.report import diagnostics, page
from kdcore.results.report.svg import linear
from kdcore.results.row import Row
from tests import made_up
from tests.results.test_report import Page

PAIR, OTHER = made_up.PAIRS[:2]


@pytest.fixture(scope="module")
def results():
    return made_up.diagnosed(made_up.matrix(pairs=[PAIR, OTHER]))


def of(results, row, pair=PAIR):
    return next(one for one in diagnosed(results, pair) if one.entry.row == row)


def changed(results, row, **values):
    """Return the results with other values of a row's cells, in the order of seeds, each made by its function."""
    names = [row.cell(PAIR, seed) for seed in results.card["seeds"]]
    cells = [
        {**cell, **{key: make(names.index(cell["name"])) for key, make in values.items()}}
        if cell["name"] in names
        else cell
        for cell in results.diagnoses[PAIR]["cells"]
    ]
    return replace(results, diagnoses={**results.diagnoses, PAIR: {**results.diagnoses[PAIR], "cells": cells}})


class TestSummary:
    def test_rows_are_those_of_the_matrix_the_teacher_first(self, results):
        assert [one.entry for one in diagnosed(results, PAIR)] == results.entries_of(PAIR)
        assert diagnosed(results, "a-b") == []

    def test_means_are_over_seeds(self, results):
        made = changed(results, Row("kd", 1, False), correlation_mean=lambda seed: [0.1, 0.2, 0.6][seed])
        assert of(made, Row("kd", 1, False)).mean("correlation_mean") == pytest.approx(0.3)

    def test_agreement_by_hand(self, results):
        half = [count // 2 for count in results.diagnoses[PAIR]["confidence_images"]]
        none = [0] * 10
        made = changed(results, Row("kd", 1, False), agreement=lambda seed: half if seed else none)
        counts = results.diagnoses[PAIR]["confidence_images"]
        expected = [((i + 0.5) / 10, 2 * (n // 2) / 3 / n, n) for i, n in enumerate(counts)]
        one = of(made, Row("kd", 1, False))
        assert one.agreement == [pytest.approx(point) for point in expected]
        sure, unsure = one.sure_and_unsure
        assert sure == pytest.approx(expected[-1][1])
        assert unsure == pytest.approx(sum(2 * (n // 2) / 3 for n in counts[:-1]) / sum(counts[:-1]))

    def test_bins_without_images_are_left_out(self, results):
        diagnosis = {**results.diagnoses[PAIR], "confidence_images": [0] * 9 + [2000]}
        made = replace(results, diagnoses={PAIR: diagnosis})
        one = of(made, Row("kd", 1, False))
        assert [at for at, _, _ in one.agreement] == [0.95]
        assert one.sure_and_unsure[1] is None

    def test_gains_of_classes_are_over_the_student_alone(self, results):
        student = of(results, Row("vanilla"))
        assert student.student is None
        assert student.class_gains == []
        right = [cell["class_right"] for cell in student.cells]
        one_more = changed(results, Row("kd", 1, False), class_right=lambda seed: [n + 1 for n in right[seed]])
        assert of(one_more, Row("kd", 1, False)).class_gains == pytest.approx([100 / 20] * 100)

    def test_regions_by_hand(self, results):
        kinds = {"1": [1500, 0, 0, 500], "2": [4000, 1000, 400, 2600]}
        made = changed(results, Row("kd", 2, False), regions=lambda _: kinds)
        one = of(made, Row("kd", 2, False))
        assert one.region_accuracies == {1: 75, 2: 55}
        assert one.complementary == {1: 0, 2: 17.5}
        assert of(results, Row("kd", 1, False)).region_accuracies == {}

    def test_layers_of_networks_of_other_depths(self, results):
        square = np.arange(12.0).reshape(3, 4) / 12
        made = changed(results, Row("kd", 1, False), cka=lambda _: square.tolist())
        assert of(made, Row("kd", 1, False)).cka_by_depth == pytest.approx([square[0, 0], square[1, 2], square[2, 3]])
        assert of(made, Row("kd", 1, False)).cka_of_pooled == pytest.approx(11 / 12)
        unknown = changed(results, Row("kd", 1, False), cka=lambda _: [[None] * 2] * 2)
        assert of(unknown, Row("kd", 1, False)).cka_of_pooled is None

    def test_numbers(self, results, tmp_path):
        frame = numbers(results)
        assert len(frame) == len(results.entries)
        assert frame["cka"].isna().sum() == 2  # the teachers
        assert frame["right_regions"].notna().sum() == 2 * (2 * 2 * 2 + 1)
        tables.write(results, tmp_path)
        assert len(pd.read_csv(tmp_path / "diagnostics.csv")) == len(frame)


@pytest.fixture(scope="module")
def text(results):
    return page.render(results)


class TestPage:
    def test_every_row_is_in_the_table_and_in_a_picture(self, results, text):
        assert {"Diagnostics", "Training of rows", "Speed of networks"} <= set(Page(text).texts)
        assert len(diagnostics.rows(results).rows) == len(results.entries)
        (features,) = [group for group in diagnostics.figures(results)[0].groups if group.title.startswith("Features")]
        assert len(features.charts) == len(results.entries_of(PAIR))
        assert all(len(chart.lines) == 7 for chart in features.charts)
        assert "2,000 test images, 20 of each class" in text

    def test_charts_of_a_method(self, results):
        figure = diagnostics.figures(results)[0]
        (group,) = [group for group in figure.groups if group.title == "KD"]
        names = [chart.title.split(",")[0].split(" of ")[0] for chart in group.charts]
        assert names == ["Logits", "Agreement by confidence", "Gains", "CKA", "Accuracy"]
        regions = group.charts[-1]
        assert [line.label for line in regions.lines] == [
            "Teacher", "KD + SDD [1,2]", "KD + SDD [1,2,4]", "KD + SDD [1,2] + stand", "KD + SDD [1,2,4] + stand",
        ]  # fmt: skip
        assert regions.x.ticks == (1, 2, 4)

    def test_nothing_stands_there_where_nothing_was_diagnosed(self, results):
        plain = replace(results, diagnoses={})
        text = page.render(plain)
        assert not {"Diagnostics", "Training of rows", "Accuracy over time per step"} & set(Page(text).texts)
        assert "diagnostics-title" not in text
        assert diagnostic_figures.all_figures(plain) == {}

    def test_some_cells_are_not_diagnosed_yet(self, results):
        first = {**results.diagnoses[PAIR], "cells": results.diagnoses[PAIR]["cells"][:1]}
        none = {**results.diagnoses[OTHER], "cells": []}
        text = page.render(replace(results, diagnoses={PAIR: first, OTHER: none}))
        assert "No cell of this pair has diagnostics yet." in text

    def test_252_cells_stay_small(self):
        made = made_up.diagnosed(made_up.matrix())
        assert len(page.render(made).encode()) < 6e6

    def test_dots_are_drawn_at_their_points(self):
        chart = diagnostics.Chart("t", "d", linear("", [0, 1]), linear("", [0, 1]))
        chart.dots("l", diagnostics.GREY, [(0, 0), (1, 1)])
        assert chart.lines[0].path == f"M{chart.left} {chart.bottom}h0M{chart.right} {chart.top}h0"


class TestCost:
    def test_times_of_this_machines_log_come_first(self, results):
        name = Row("kd", 1, False).cell(PAIR, 0)
        timing = made_up.timing(name, batch_size=20, images_per_second=1000.0, device="cuda: made up")
        cost = next(one for one in pareto.costs(results) if one.entry.place == (PAIR, Row("kd", 1, False)))
        assert (cost.milliseconds, cost.memory, cost.device) == (10, 3e9, "cuda: made up, 2 CPU threads")
        logged = pareto.costs(replace(results, timings={name: timing}))
        cost = next(one for one in logged if one.entry.place == (PAIR, Row("kd", 1, False)))
        assert cost.milliseconds == pytest.approx((20 + 10 + 10) / 3)

    def test_times_of_two_devices_have_no_mean(self, results):
        name = Row("kd", 1, False).cell(PAIR, 0)
        other = made_up.timing(name, batch_size=20, device="cpu: another")
        logged = pareto.costs(replace(results, timings={name: other}))
        cost = next(one for one in logged if one.entry.place == (PAIR, Row("kd", 1, False)))
        assert (cost.milliseconds, cost.device) == (None, "")

    def test_the_front_by_hand(self, results):
        entries = [entry for entry in results.entries_of(PAIR) if entry.mean is not None][:5]
        points = [(10, 70.0), (12, 69.0), (12, 71.0), (15, 71.0), (9, 60.0)]
        some = [
            pareto.Cost(replace(entry, values=(mean,), declared=(0,)), "", time, None, None)
            for entry, (time, mean) in zip(entries, points, strict=True)
        ]
        assert [(one.milliseconds, one.entry.mean) for one in pareto.front(some)] == [(9, 60), (10, 70), (12, 71)]

    def test_a_variant_on_other_images_is_no_rival(self, results):
        entries = [entry for entry in results.entries_of(PAIR) if entry.mean is not None][:2]
        changed = [
            replace(entry, row=replace(entry.row, variant=variant), values=(mean,), declared=(0,), budget=budget)
            for entry, (variant, mean, budget) in zip(
                entries * 2,
                [("base", 70.0, ()), ("half", 80.0, ("half of them",)), ("t2", 75.0, ()), ("base", 90.0, ("2 views",))],
                strict=True,
            )
        ]
        some = [pareto.Cost(entry, "", float(time), None, None) for time, entry in enumerate(changed)]
        assert [one.entry.mean for one in pareto.front(some)] == [70.0, 75.0, 90.0]

    def test_rows_are_grouped_by_pair_and_device(self, results):
        assert {key: len(some) for key, some in pareto.timed(results).items()} == {
            (pair, "cuda: made up, 2 CPU threads"): len(results.entries_of(pair)) - 1 for pair in (PAIR, OTHER)
        }


class TestFigures:
    def test_there_is_one_of_each_kind(self, results, tmp_path):
        names = set(diagnostic_figures.all_figures(results))
        of_rows = {f"{name}-{pair}" for name in ("cka", "correlations", "features") for pair in (PAIR, OTHER)}
        of_pairs = {"accuracy-over-time", "agreement-by-confidence", "class-gains", "logits", "regions"}
        assert names == of_rows | of_pairs

    def test_pareto_points_are_rows_and_its_line_the_front(self, results):
        figure = diagnostic_figures.accuracy_over_time(results)
        axes = next(axes for axes in figure.axes if axes.get_title().startswith(PAIR))
        some = pareto.timed(results)[PAIR, "cuda: made up, 2 CPU threads"]
        drawn = [tuple(container.lines[0].get_xydata()[0]) for container in axes.containers]
        assert drawn == [(one.milliseconds, one.entry.mean) for one in some]
        front = [(one.milliseconds, one.entry.mean) for one in pareto.front(some)]
        assert [tuple(point) for point in axes.lines[0].get_xydata()] == front

    def test_heat_maps_of_layers_hold_the_means(self, results):
        figure = diagnostic_figures.layers(diagnosed(results, PAIR))
        axes = next(axes for axes in figure.axes if axes.get_title() == "KD")
        held = axes.collections[0].get_array().reshape(5, 5)
        assert np.allclose(held, of(results, Row("kd", 1, False)).cka)

    def test_the_legend_of_regions_names_the_teachers_line(self, results):
        figure = diagnostic_figures.regions(results)
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        named = [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]
        assert "Teacher" in named
        axes = next(axes for axes in figure.axes if axes.get_title().startswith(PAIR))
        line = next(line for line in axes.lines if line.get_label() == "Teacher")
        teacher = next(one for one in diagnosed(results, PAIR) if one.is_teacher)
        assert dict(line.get_xydata()) == teacher.region_accuracies
        assert list(axes.get_xticks()) == list(teacher.region_accuracies)

    def test_pairs_without_the_student_alone_have_no_gains_of_classes(self):
        made = made_up.diagnosed(made_up.matrix(pairs=[PAIR], baselines=()))
        assert diagnostic_figures.class_gains(made) is None

    @pytest.mark.slow
    def test_are_written(self, tmp_path):
        made = made_up.diagnosed(made_up.matrix(pairs=[PAIR], seeds=(0,)))
        figures.write(made, tmp_path)
        assert (tmp_path / f"figures/features-{PAIR}.pdf").stat().st_size > 1000
