"""Figures of made-up results: what they draw, and the files they become."""

from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from kdcore.results import drawing, figures, heat
from kdcore.results.row import rows
from kdcore.results.rows import Results
from tests import made_up

PAIRS = made_up.PAIRS
NAMES = ["accuracy-over-scales", "curves", "gains", "gains-over-student", "published"]


def narrowed(results, **changes):
    """The same cells under a smaller matrix."""
    card = {**results.card, **changes}
    return Results.of(card, results.evaluations, results.histories, results.published)


def entry(results, pair, label):
    return next(entry for entry in results.entries_of(pair) if entry.row.label == label)


def with_budget(results, pair, label):
    """One row trained longer than the caption says."""
    marked = [
        replace(e, budget=("480 epochs",)) if (e.pair, e.row.label) == (pair, label) else e for e in results.entries
    ]
    return replace(results, entries=marked)


def with_epochs(results, pair, method, epochs):
    """One method's rows trained for another number of epochs; accuracy rises throughout, as far as it did before."""
    history = results.histories[pair]
    names = [name for name in history["cell"].unique() if f"-{method}-" in name]
    parts = [history[~history["cell"].isin(names)]]
    for name in names:
        end = history[history["cell"] == name]["test_top1"].iloc[-1]
        epoch = np.arange(1, epochs + 1)
        parts.append(pd.DataFrame({"cell": name, "epoch": epoch, "test_top1": end * (1 - np.exp(-epoch / 5))}))
    return replace(results, histories={**results.histories, pair: pd.concat(parts, ignore_index=True)})


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def bars(axes):
    """Per label of an error bar plot: its values, and half the heights of its bars."""
    found = {}
    for container in axes.containers:
        line, _, (segments,) = container.lines
        heights = [np.ptp(segment[:, 1]) / 2 for segment in segments.get_segments() if len(segment)]
        found[container.get_label()] = line, np.asarray(line.get_ydata(), float), heights
    return found


class TestOverScales:
    def test_lines_are_means_and_bars_deviations(self):
        results = made_up.matrix()
        figure = figures.over_scales(results)
        assert list(panels(figure)) == PAIRS
        drawn = bars(panels(figure)[PAIRS[1]])
        assert list(drawn) == ["KD", "KD + stand", "DKD", "DKD + stand"]
        _, values, heights = drawn["DKD + stand"]
        expected = [entry(results, PAIRS[1], f"DKD{sdd} + stand") for sdd in ("", " + SDD [1,2]", " + SDD [1,2,4]")]
        assert values == pytest.approx([e.mean for e in expected])
        assert heights == pytest.approx([e.deviation for e in expected])
        assert [drawn[label][0].get_linestyle() for label in drawn] == ["-", "--", "-", "--"]
        assert [text.get_text() for text in panels(figure)[PAIRS[1]].get_xticklabels()] == ["[1]", "[1,2]", "[1,2,4]"]

    def test_methods_differ_by_colour_and_marker(self):
        drawn = bars(panels(figures.over_scales(made_up.matrix(pairs=PAIRS[:1])))[PAIRS[0]])
        kd, dkd = drawn["KD"][0], drawn["DKD"][0]
        assert to_hex(kd.get_color()) != to_hex(dkd.get_color())
        assert kd.get_marker() != dkd.get_marker()
        assert to_hex(kd.get_color()) == to_hex(drawn["KD + stand"][0].get_color())

    def test_missing_seed_leaves_a_gap(self):
        results = made_up.matrix(pairs=PAIRS[:1], missing=[f"{PAIRS[0]}-kd-2-False-base-1"])
        _, values, _ = bars(panels(figures.over_scales(results))[PAIRS[0]])["KD"]
        assert np.isnan(values).tolist() == [False, True, False]

    def test_one_seed_has_no_bars(self):
        (axes,) = panels(figures.over_scales(made_up.matrix(pairs=PAIRS[:1], seeds=[0]))).values()
        assert not any(container.has_yerr for container in axes.containers)

    def test_one_scale_or_no_result_has_no_figure(self):
        results = made_up.matrix(pairs=PAIRS[:1])
        assert figures.over_scales(narrowed(results, scales=[1])) is None
        assert figures.over_scales(Results.of(results.card, [], {}, results.published)) is None

    def test_axis_says_which_epoch(self):
        results = narrowed(made_up.matrix(pairs=PAIRS[:1]), accuracy="top1_best")
        assert "best epoch" in panels(figures.over_scales(results))[PAIRS[0]].get_ylabel()

    def test_points_of_another_budget_are_marked(self):
        results = with_budget(made_up.matrix(pairs=PAIRS[:2]), PAIRS[1], "KD + SDD [1,2]")
        drawn = panels(figures.over_scales(results))
        assert [text.get_text() for text in drawn[PAIRS[0]].texts] == []
        (mark,) = drawn[PAIRS[1]].texts
        assert mark.get_text() == "§"
        assert mark.xy[1] == entry(results, PAIRS[1], "KD + SDD [1,2]").mean


class TestGains:
    def test_gains_of_another_budget_are_marked(self):
        results = with_budget(made_up.matrix(pairs=PAIRS[:2]), PAIRS[1], "KD + SDD [1,2]")
        texts = [text.get_text() for axes in panels(heat.over_plain(results)).values() for text in axes.texts]
        gain = entry(results, PAIRS[1], "KD + SDD [1,2]").gain
        assert [text for text in texts if "§" in text] == [f"{gain:+.2f} §"]

    def test_gains_over_fewer_seeds_say_so(self):
        made = made_up.matrix(pairs=PAIRS[:1], excluded=[f"{PAIRS[0]}-kd-1-True-base-1"])
        texts = [text.get_text() for axes in panels(heat.over_plain(made)).values() for text in axes.texts]
        assert sum("\nn = 2" in text for text in texts) == 1

    def test_every_gain_and_bold_where_it_is_supported(self):
        results = made_up.matrix(pairs=PAIRS[:2])
        figure = heat.over_plain(results)
        assert list(panels(figure)) == ["KD", "DKD"]
        texts = panels(figure)["DKD"].texts
        shown = [e for e in results.entries if e.row.method == "dkd" and e.gain is not None]
        assert [text.get_text() for text in texts] == [f"{e.gain:+.2f}" for e in shown]
        assert [text.get_weight() == "bold" for text in texts] == [e.is_significant for e in shown]
        assert any(e.is_significant for e in shown)
        assert [label.get_text() for label in panels(figure)["KD"].get_yticklabels()] == PAIRS[:2]
        assert panels(figure)["KD"].yaxis_inverted()

    def test_colours_are_those_of_the_gains(self):
        results = made_up.matrix(pairs=PAIRS[:2], gain=-1.0)
        axes = panels(heat.over_plain(results))["KD"]
        assert (
            axes.texts[4].get_text()
            == f"\N{MINUS SIGN}{-entry(results, PAIRS[0], 'KD + SDD [1,2,4] + stand').gain:.2f} ↓"
        )
        mesh = axes.collections[0]
        plain = [e for e in results.entries if e.row.method == "kd" and e.gain is not None]
        assert mesh.get_array().ravel().tolist() == pytest.approx([e.gain for e in plain])
        assert mesh.norm.vcenter == 0

    def test_missing_seeds_are_said(self):
        missing = [f"{PAIRS[0]}-kd-4-False-base-1", f"{PAIRS[1]}-kd-1-False-base-0"]
        figure = heat.over_plain(made_up.matrix(pairs=PAIRS[:2], missing=missing))
        texts = [text.get_text() for text in panels(figure)["KD"].texts]
        assert texts[1] == "missing"
        assert texts[5:] == ["no plain"] * 5
        assert "missing" not in [text.get_text() for text in panels(figure)["DKD"].texts]

    def test_one_seed_supports_nothing(self):
        figure = heat.over_plain(made_up.matrix(pairs=PAIRS[:1], seeds=[0]))
        assert {text.get_weight() for axes in panels(figure).values() for text in axes.texts} == {"normal"}

    def test_plain_rows_alone_have_no_figure(self):
        results = made_up.matrix(pairs=PAIRS[:1])
        assert heat.over_plain(narrowed(results, scales=[1], stand=[False])) is None

    def test_gains_over_the_student_have_all_rows_and_the_feature_methods(self):
        """Three panels beside two on a line: the place of the fourth is empty."""
        results = made_up.matrix(pairs=PAIRS[:2], baselines=("vanilla", "at"))
        drawn = panels(heat.over_student(results))
        assert list(drawn) == ["KD", "DKD", "Feature methods"]
        shown = [e.gains["student"] for e in results.entries if e.row.method == "kd"]
        texts = [text.get_text().removesuffix(" ↓").replace("\N{MINUS SIGN}", "-") for text in drawn["KD"].texts]
        assert texts == [f"{gain.points:+.2f}" for gain in shown]
        assert [text.get_weight() == "bold" for text in drawn["KD"].texts] == [gain.is_supported for gain in shown]
        below = [text.get_text().endswith("↓") for axes in drawn.values() for text in axes.texts]
        assert below == [
            e.gains["student"].points < 0
            for method in ("kd", "dkd", "at") for e in results.entries if e.row.method == method
        ]  # fmt: skip
        assert heat.over_student(made_up.matrix(pairs=PAIRS[:1], baselines=())) is None

    def test_variants_have_panels_of_their_own(self):
        excluded = [f"{PAIRS[0]}-kd-2-False-t2-{seed}" for seed in range(3)]
        results = made_up.matrix(pairs=PAIRS[:2], variants={"t2": {"kd": {"temperature": 2}}}, excluded=excluded)
        drawn = panels(heat.over_plain(results))
        assert list(drawn) == ["KD", "KD, T=2", "DKD"]
        texts = [text.get_text() for text in drawn["KD, T=2"].texts]
        assert texts.count("excluded") == 1
        plain = entry(results, PAIRS[0], "KD, T=2")
        assert texts[0] == f"{plain.gain:+.2f}".replace("-", "\N{MINUS SIGN}") + plain.signs


class TestVariants:
    def test_accuracy_and_curves_have_a_panel_per_pair_and_variant(self):
        variants = {
            "t2": {"kd": {"temperature": 2}},
            "w4": {"kd": {"complementary_weight": 4}, "only": {"scales": [2]}},
        }
        results = made_up.matrix(pairs=PAIRS[:2], variants=variants)
        drawn = panels(figures.over_scales(results))
        assert list(drawn) == [f"{pair}{change}" for pair in PAIRS[:2] for change in ("", "\nT=2")]
        assert len({axes.get_ylim() for axes in list(drawn.values())[:2]}) == 1
        _, values, _ = bars(drawn[f"{PAIRS[0]}\nT=2"])["KD + stand"]
        labels = [f"KD{sdd} + stand, T=2" for sdd in ("", " + SDD [1,2]", " + SDD [1,2,4]")]
        assert values == pytest.approx([entry(results, PAIRS[0], label).mean for label in labels])
        figure = figures.curves(results)
        changes = ("", "\nT=2", "\ncomplementary_weight=4")
        assert list(panels(figure)) == [f"{pair}{change}" for pair in PAIRS[:2] for change in changes]
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == [row.label for row in rows(results.card) if row.variant == "base" and row.method]

    @pytest.mark.parametrize("draw", [figures.over_scales, figures.curves])
    def test_titles_neither_overlap_nor_leave_the_figure(self, draw):
        grid = made_up.grid(temperature=(1, 16), complementary_weight=(1, 4))
        figure = draw(made_up.matrix(pairs=PAIRS[:2], seeds=(0,), variants=grid))
        FigureCanvasAgg(figure).draw()
        boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        assert len(boxes) == 2 * 5
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


class TestCurves:
    def test_lines_are_means_over_seeds(self):
        results = made_up.matrix(pairs=PAIRS[:2])
        axes = panels(figures.curves(results))[PAIRS[1]]
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == [e.row.label for e in results.entries_of(PAIRS[1])][1:]
        history = results.histories[PAIRS[1]]
        names = [f"{PAIRS[1]}-kd-2-True-base-{seed}" for seed in range(3)]
        expected = history[history["cell"].isin(names)].groupby("epoch")["test_top1"].mean()
        assert lines["KD + SDD [1,2] + stand"].get_ydata() == pytest.approx(expected.to_numpy(), abs=0.006)
        assert lines["Student"].get_linestyle() == ":"

    def test_smaller_scales_are_paler(self):
        (axes,) = panels(figures.curves(made_up.matrix(pairs=PAIRS[:1]))).values()
        lines = {line.get_label(): line for line in axes.lines}
        colours = [sum(lines[label].get_color()) for label in ("KD", "KD + SDD [1,2]", "KD + SDD [1,2,4]")]
        assert all(before > after for before, after in pairwise(colours))

    def test_end_of_training_is_in_the_frame(self):
        (axes,) = panels(figures.curves(made_up.matrix(pairs=PAIRS[:1]))).values()
        low, high = axes.get_ylim()
        assert all(low < line.get_ydata()[-1] < high for line in axes.lines)

    def test_frame_is_as_long_as_the_longest_row_of_the_pair(self):
        results = with_epochs(made_up.matrix(pairs=PAIRS[:2]), PAIRS[1], "dkd", 2 * made_up.EPOCHS)
        first, second = panels(figures.curves(results)).values()
        assert first.get_xlim() == (0, made_up.EPOCHS)
        assert second.get_xlim() == (0, 2 * made_up.EPOCHS)
        late = [line.get_ydata()[line.get_xdata() > 2 * made_up.EPOCHS / 3] for line in second.lines]
        low, high = min(map(min, late)), max(map(max, late))
        assert second.get_ylim() == pytest.approx((low - 0.05 * (high - low), high + 0.05 * (high - low)))

    def test_legend_leaves_out_rows_outside_the_frame(self):
        results = with_epochs(made_up.matrix(pairs=PAIRS[:1]), PAIRS[0], "dkd", 3)
        figure = figures.curves(results)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == [row.label for row in rows(results.card) if row.method in ("vanilla", "kd")]

    def test_rows_with_a_missing_seed_are_left_out(self):
        missing = [f"{PAIRS[0]}-kd-1-False-base-0"]
        figure = figures.curves(made_up.matrix(pairs=PAIRS[:2], missing=missing))
        labels = [[line.get_label() for line in axes.lines] for axes in panels(figure).values()]
        assert "KD" not in labels[0]
        assert "KD" in labels[1]
        assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["Student", "KD"]

    def test_no_histories_have_no_figure(self):
        results = made_up.matrix(pairs=PAIRS[:1])
        assert figures.curves(Results.of(results.card, [], {}, results.published)) is None


class TestPublished:
    def test_points(self):
        results = made_up.matrix()
        (axes,) = figures.published(results).axes
        found = [e for e in results.entries if e.difference is not None]
        points = [container.lines[0] for container in axes.containers]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [
            (e.figure.top1, e.mean) for e in found
        ]
        hollow = [line.get_markerfacecolor() == "white" for line in points]
        assert hollow == [bool(e.figure.doubt) for e in found]
        assert axes.get_xlim() == axes.get_ylim()
        assert f"n = {len(found)}, mean difference" in axes.texts[0].get_text()

    @pytest.mark.parametrize("count", [1, 5, 9])
    @pytest.mark.parametrize("dpi", [100, 300])
    def test_nothing_is_clipped_with_many_methods(self, count, dpi):
        baselines = ("vanilla", "fitnet", "at", "crd", "reviewkd", "sp", "pkt", "rkd", "vid")[:count]
        figure = figures.published(made_up.matrix(pairs=PAIRS[:3], baselines=baselines))
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).draw()
        (axes,), (legend,) = figure.axes, figure.legends
        assert len(legend.get_texts()) > count
        assert axes.xaxis.label.get_window_extent().y0 >= 0
        assert axes.yaxis.label.get_window_extent().x0 >= 0
        width, height = axes.get_window_extent().size
        assert width == pytest.approx(height, rel=0.05)
        box = legend.get_window_extent()
        assert box.y0 >= axes.get_tightbbox().y1
        assert box.y1 <= figure.bbox.y1

    def test_axis_says_which_epoch(self):
        results = made_up.matrix(pairs=PAIRS[:1])
        (axes,) = figures.published(results).axes
        assert axes.get_ylabel() == "Measured top-1 accuracy (%)"
        (axes,) = figures.published(narrowed(results, accuracy="top1_best")).axes
        assert axes.get_ylabel() == "Measured top-1 accuracy of the best epoch (%)"

    def test_nothing_published(self):
        assert figures.published(made_up.matrix(pairs=PAIRS[:1], data="digits")) is None


class TestPanels:
    @pytest.mark.parametrize(
        ("pairs", "grid"), [(1, (1, 1)), (2, (1, 2)), (4, (1, 4)), (5, (2, 3)), (7, (2, 4)), (9, (3, 3)), (13, (4, 4))]
    )
    def test_many_pairs_wrap(self, pairs, grid):
        networks = ("resnet8", "resnet14", "resnet20", "resnet32")
        names = [f"{teacher}-{student}" for teacher in networks for student in networks][:pairs]
        figure = figures.over_scales(made_up.matrix(pairs=names, seeds=[0]))
        assert len(panels(figure)) == pairs
        assert figure.axes[0].get_gridspec().get_geometry() == grid
        assert figure.get_figwidth() == (3.3 if pairs < 3 else 6.9)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two pairs, twice."""
    results = made_up.matrix(pairs=PAIRS[:2])
    folders = [tmp_path_factory.mktemp("tables") for _ in range(2)]
    for folder in folders:
        figures.write(results, folder)
    return [folder / "figures" for folder in folders]


class TestFiles:
    def test_every_figure_as_pdf_and_png(self, written):
        expected = sorted(f"{name}.{suffix}" for name in NAMES for suffix in ("pdf", "png"))
        assert sorted(path.name for path in written[0].iterdir()) == expected

    def test_same_bytes_on_every_run(self, written):
        first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in written)
        assert first == second

    @pytest.mark.parametrize("name", NAMES)
    def test_pdf_is_vector_with_embedded_truetype(self, written, name):
        content = (written[0] / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert b"/Subtype /Image" not in content
        assert b"CreationDate" not in content
        assert len(content) < 60_000

    @pytest.mark.parametrize("name", NAMES)
    def test_png_is_sharp_and_small(self, written, name):
        path = written[0] / f"{name}.png"
        with Image.open(path) as image:
            image.load()
            assert image.width in (990, 2070) or name == "gains"
            assert image.height >= 300
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert not {"Software", "Creation Time"} & set(image.info)
        assert path.stat().st_size < 200_000

    def test_nothing_to_draw_writes_no_files(self, tmp_path):
        results = made_up.matrix(pairs=PAIRS[:1], data="digits")
        figures.write(Results.of(results.card, [], {}, results.published), tmp_path)
        assert list((tmp_path / "figures").iterdir()) == []

    def test_style_of_others_is_left_alone(self, tmp_path):
        before = dict(mpl.rcParams)
        figures.write(made_up.matrix(pairs=PAIRS[:1], seeds=[0]), tmp_path)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_titles_of_panels_break_between_words_alone(rate):
    """Not within a number that a variant sets."""
    entry = SimpleNamespace(row=SimpleNamespace(change=f"label_noise.symmetric={rate}, lr=0.01"))
    title = drawing.panel_titles({("a-b", "v"): [entry]})["a-b", "v"]
    assert title.splitlines() == ["a-b", f"label_noise.symmetric={rate},", "lr=0.01"]
