"""The report: what stands on the page, and how it behaves in a browser."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from kdcore.results import dvc_plots
from kdcore.results.entry import PLAIN, STUDENT
from kdcore.results.published import Published
from kdcore.results.report import calibration, charts, heat
from kdcore.results.report import page as report
from kdcore.results.report.svg import linear, powers, whole
from kdcore.results.report.values import NOTHING
from kdcore.results.rows import Results
from kdcore.system import yamlfile
from tests import chromium, made_up
from tests.conftest import ROOT

PAIRS = made_up.PAIRS
MISSING = ("vgg13-vgg8-kd-2-True-base-1", "resnet56-resnet20-dkd-4-False-base-0")
WIDE, PHONE = (1280, 900), (360, 740)
CONTRASTS = """
const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
  .getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};
const light = (colour) => {
  const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = rgba(getComputedStyle(element).backgroundColor);
  return colour[3] === 255 || !element.parentElement ? colour : behind(element.parentElement);
};
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const style = getComputedStyle(element);
  const ink = light(rgba(element instanceof SVGElement ? style.fill : style.color));
  const [high, low] = [ink, light(behind(element))].sort((a, b) => b - a);
  return [element.textContent, (high + 0.05) / (low + 0.05)];
});
"""
"""Text and contrast ratio (WCAG 2.2, 1.4.3) of all elements that match a selector."""


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag):
        return [found for name, found in zip(self.tags, self.attributes, strict=True) if name == tag]


@pytest.fixture(scope="module")
def results():
    return made_up.matrix(missing=MISSING)


@pytest.fixture(scope="module")
def text(results):
    return report.render(results)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_pair_row_and_cell_is_there(results, page):
    texts = set(page.texts)
    cells = {cell["name"] for evaluation in results.evaluations for cell in evaluation["cells"]}
    assert len(cells) == 271
    assert cells <= texts
    assert {entry.row.label for entry in results.entries} <= texts
    assert set(PAIRS) <= texts


def test_what_is_missing_is_said_to_be_missing(text):
    page = Page(text)
    assert page.texts.count("missing") == 6  # the two rows, in the two heat maps and in the table
    assert "vgg13-vgg8, KD + SDD [1,2] + stand: 1 of 3 seeds have no result" in text
    assert "KD + SDD [1,2] + stand (2 of 3 seeds, no mean)" in page.texts
    assert not set(MISSING) & set(page.texts)


def test_the_heat_map_says_what_was_measured(results):
    found = over_plain(results)
    tiles = tiles_of(found, "KD", "resnet56-resnet20") + tiles_of(found, "DKD", "resnet56-resnet20")
    entries = [entry for entry in results.entries_of("resnet56-resnet20") if entry.row.scale is not None]
    assert [tile.is_strong for tile in tiles] == [entry.is_significant for entry in entries]
    assert [tile.of for tile in tiles] == [(entry.place,) for entry in entries]
    assert any(tile.is_strong for tile in tiles)
    assert tiles[0].kind == "plain"
    assert tiles[4].text == f"{entries[4].gain:+.2f}{entries[4].signs}"
    assert found.columns == [
        "M=[1]", "M=[1,2]", "M=[1,2,4]", "M=[1], stand", "M=[1,2], stand", "M=[1,2,4], stand",
    ]  # fmt: skip


def over_plain(results):
    """Return the heat map of gains over the plain rows."""
    return heat.heat_maps(results)[0]


def tiles_of(found, *names):
    """Return the tiles of a line of a heat map."""
    return next(line.tiles for line in found.lines if line.names == names)


def line(results, pair, label):
    """Return a pair's row in the table of all rows, by the titles of its columns."""
    sheet = report.lines(results)
    found = next(row for row in sheet.rows if (row[0].text, row[1].text) == (pair, label))
    return dict(zip((column.title for column in sheet.columns), found, strict=True))


def with_entry(results, index, **changes):
    entries = [replace(entry, **changes) if i == index else entry for i, entry in enumerate(results.entries)]
    return replace(results, entries=entries)


def signs(page):
    """Return the label of each sign on a page."""
    return [found["aria-label"] for found in page.all("span") if found.get("class") == "sign"]


def test_doubtful_figures_are_marked(results, text, page):
    doubtful = [entry for entry in results.entries if entry.figure and entry.figure.doubt]
    assert doubtful
    for entry in doubtful:
        value = line(results, entry.pair, entry.row.label)["Published"]
        assert (value.text, value.sign) == (f"{entry.figure.top1:.2f}", "†")
        assert entry.figure.doubt in value.about
    assert page.texts.count("†") == len(doubtful)
    assert f"doubtful: {doubtful[0].figure.doubt}" in signs(page)
    group = charts.published(results)
    shown = [entry for entry in results.entries if entry.figure and entry.mean is not None]
    assert [mark.is_hollow for mark in group.charts[0].marks] == [bool(entry.figure.doubt) for entry in shown]
    assert [key.label for key in group.keys if key.is_hollow] == ["Doubtful figure"]
    assert text.count('class="mark hollow') == sum(bool(entry.figure.doubt) for entry in shown) + 1


def test_figures_of_a_doubtful_source_are_marked(results):
    """All of them, with one note for all."""
    content = yamlfile.read(ROOT / "data/published.yaml")
    for source in content["sources"].values():
        source["doubt"] = "read second hand"
    published = Published.of(content, results.card["data"])
    page = Page(report.render(Results.of(results.card, results.evaluations, results.histories, published)))
    figures = [entry.figure for entry in results.entries if entry.figure]
    assert page.texts.count("†") == len(figures)
    notes = [text for text in page.texts if text.startswith("† Every figure from ")]
    assert len(notes) == len({published.sources[figure.source].title for figure in figures})
    assert all(text.endswith(": read second hand.") for text in notes)


@pytest.mark.slow
def test_figures_within_noise_are_marked(results, page):
    within = [entry for entry in results.entries if entry.is_within_noise]
    assert within
    assert page.texts.count("≈") == len(within)
    for entry in results.entries:
        found = line(results, entry.pair, entry.row.label)
        assert (found["Difference"].sign == "≈") == (found["Within noise"].text == "yes") == bool(entry.is_within_noise)


@pytest.mark.slow
def test_other_budgets_are_marked(results, page):
    assert "§" not in page.texts
    budget = ("480 epochs", "weak and strong views of each image")
    gains = [-1e9 if entry.gain is None else entry.gain for entry in results.entries]
    best = gains.index(max(gains))
    entry = results.entries[best]
    marked = with_entry(results, best, budget=budget)
    page = Page(report.render(marked))
    assert line(marked, entry.pair, entry.row.label)["Top-1"].sign == "§"
    assert page.texts.count("§") == 2  # the row's mean, and the largest gain
    assert set(signs(page)) >= {f"trained with another budget: {' and '.join(budget)}"}
    tile = next(tile for line in over_plain(marked).lines for tile in line.tiles if tile.of == (entry.place,))
    assert tile.text == f"{entry.gain:+.2f} §"
    assert "480 epochs and weak and strong views" in tile.about
    plain = next(i for i, other in enumerate(results.entries) if other.row.is_plain)
    assert tiles_of(over_plain(with_entry(results, plain, budget=budget)), "KD", PAIRS[0])[0].text.endswith(" §")


def test_adjusted_p_stands_beside_p(results):
    titles = [column.title for column in report.lines(results).columns]
    assert titles.index("p, adjusted") == titles.index("p") + 1
    compared = [entry for entry in results.entries if PLAIN in entry.gains and entry.gains[PLAIN].adjusted is not None]
    assert compared
    shown = [line(results, e.pair, e.row.label)["p, adjusted"].key for e in compared]
    assert shown == [e.gains[PLAIN].adjusted for e in compared]
    tiles = [tile for line in over_plain(results).lines for tile in line.tiles if ", p " in tile.about]
    assert tiles
    assert all(", adjusted " in tile.about for tile in tiles)


def test_an_incomplete_matrix_says_so_first(page):
    said = "Incomplete: 271 of 273 cells have a result"
    assert page.texts.index(said) < next(i for i, text in enumerate(page.texts) if text.startswith("Top-1 accuracy"))
    whole_one = Page(report.render(made_up.matrix(pairs=PAIRS[:1], seeds=(0, 1))))
    assert not any(text.startswith("Incomplete") for text in whole_one.texts)


def test_the_footer_names_both_that_write_it(text):
    footer = text[text.index("<footer>") :]
    assert "<code>dvc repro</code>" in footer
    assert "<code>python -m stages.report</code>" in footer


def test_columns_say_which_epoch_they_are_of(results):
    def about(found):
        return {column.title: column.about for column in report.lines(found).columns}

    best = Results.of(
        {**results.card, "accuracy": "top1_best"}, results.evaluations, results.histories, results.published
    )
    assert about(best)["Top-1"].startswith("of the best epoch")
    assert all("of the last epoch, not" in about(best)[title] for title in ("Agreement", "ECE", "NLL", "Top-5"))
    assert about(results)["Top-1"].startswith("of the last epoch")
    assert not any("not of the one" in said for said in about(results).values())
    assert "best epoch" in charts.published(best).charts[0].y.title


def test_one_failed_cell_does_not_pale_the_others(results):
    failed = {PLAIN: replace(results.entries[3].gains[PLAIN], points=-70.0)}
    found = over_plain(with_entry(results, 3, gains=failed))
    assert found.limit < 5
    assert max(tile.strength for line in found.lines for tile in line.tiles) == 100


def test_nothing_is_fetched(text, page):
    links = [value for found in page.attributes for key, value in found.items() if key in {"src", "href", "xlink:href"}]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    ids = {found["id"] for found in page.attributes if "id" in found}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_it_shows_all_that_dvc_plots_show():
    """So that nobody needs a network: accuracies with deviations, curves and calibration of every pair and row."""
    made = made_up.matrix(pairs=PAIRS[:2])
    for entry in dvc_plots.top1(made).itertuples():
        shown = line(made, entry.pair, entry.row)
        deviation = "–" if math.isnan(entry.deviation) else f"{entry.deviation:.2f}"
        assert (shown["Top-1"].text, shown["Deviation"].text) == (f"{entry.top1:.2f}", deviation)
    for frame, figures, quantity in (
        (dvc_plots.curves(made), charts.curves(made), "Test accuracy"),
        (dvc_plots.reliability(made), calibration.reliability(made), "Accuracy"),
    ):
        drawn = {(figure.title, drawn.label) for figure in figures for group in figure.groups for chart in group.charts
                 if chart.y.title.startswith(quantity) for drawn in chart.lines}  # fmt: skip
        wanted = set(zip(frame["pair"], frame["row"], strict=True))
        assert wanted
        assert drawn == wanted


def test_headings_are_in_order_and_ids_are_unique(page):
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [found["id"] for found in page.attributes if "id" in found]
    assert len(ids) == len(set(ids))
    assert {"header", "nav", "main", "footer"} <= set(page.tags)
    assert page.open == []


def test_every_drawing_says_what_it_shows(page):
    drawings = [found for found in page.all("svg") if found.get("class") == "chart"]
    assert len(drawings) > 100
    assert all(found["role"] == "img" and len(found["aria-label"]) > 40 for found in drawings)
    assert page.tags.count("desc") == len(drawings)
    assert all("aria-hidden" in found for found in page.all("svg") if found not in drawings)


def test_long_runs_stay_small(monkeypatch, tmp_path):
    monkeypatch.setattr(made_up, "EPOCHS", 240)
    report.write(made_up.matrix(), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) <= 5e6
    assert "Line chart over epochs 1 to 240" in page


def test_what_comes_from_parameters_is_escaped():
    evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    made = made_up.matrix(pairs=[f"a{evil}-b"], seeds=(0, 1), data=evil)
    for cell in made.evaluations[0]["cells"]:
        cell |= {"device": evil, "commit": evil, "recipe": {evil: evil}, "versions": {evil: evil}}
    histories = {pair: frame.rename(columns={"ce": evil}) for pair, frame in made.histories.items()}
    card = {**made.card, "teachers": {f"a{evil}": evil}}
    text = report.render(Results.of(card, made.evaluations, histories, made.published))
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not any(key.startswith("on") for found in page.attributes for key in found)
    assert any(evil in shown for shown in page.texts)


def test_provenance_names_accepted_changes_where_there_are_some(page):
    title = "Accepted without training again"
    assert title not in page.texts
    made = made_up.matrix(pairs=PAIRS[:1], seeds=(0, 1))
    made.evaluations[0]["cells"][3]["accepted"] = [{"reason": "a field more"}]
    sheet = report.cells(made)
    assert sheet.columns[-1].title == title
    assert [row[-1].text for row in sheet.rows].count("a field more") == 1


def test_a_half_finished_matrix():
    made = made_up.matrix(missing=MISSING)
    done = PAIRS[:2]
    histories = {pair: made.histories[pair] for pair in done}
    page = Page(report.render(Results.of(made.card, made.evaluations[:2], histories, made.published)))
    assert page.texts.count("No cell of this pair has a history yet.") == 5
    assert page.texts.count("This pair has not been evaluated yet.") == 5
    nothing = Page(report.render(Results.of(made.card, [], {}, made.published)))
    assert "No cell has a result yet." in nothing.texts
    assert "No pair has been evaluated yet." in nothing.texts


def test_a_row_without_any_result():
    made = made_up.matrix(pairs=PAIRS[:1], missing=[f"{PAIRS[0]}-kd-4-True-base-{seed}" for seed in range(3)])
    page = Page(report.render(made))
    assert page.texts.count("missing") == 3
    assert "Reliability of resnet56-resnet20, KD" in page.texts


def test_evaluations_without_reliability():
    made = made_up.matrix(pairs=PAIRS[:1], seeds=(0,))
    for cell in made.evaluations[0]["cells"]:
        del cell["reliability"]
    text = report.render(made)
    assert "has no reliability bins" in text
    assert "one seed tells none of them from noise" in text


def test_times_are_shown_where_they_are_known(text):
    assert "Networks of pairs" in text
    assert "raining time" not in text
    assert "Images/s" not in text
    made = made_up.matrix(pairs=PAIRS[:2], seeds=(0, 1))
    names = [f"{PAIRS[0]}-kd-2-True-base-{seed}" for seed in (0, 1)]
    sizes = (32, 96)
    timings = {name: made_up.timing(name, seconds=600 * (i + 1), batch_size=sizes[i]) for i, name in enumerate(names)}
    timed = replace(made, timings=timings)
    (row,) = report.times(timed).rows
    assert [value.text for value in row] == [
        PAIRS[0],
        "KD + SDD [1,2] + stand",
        "2",
        "15.00",
        "30.00",
        "1,000",
        "64.00",
    ]
    of_old_logs = {name: made_up.timing(name) for name in names}
    (row,) = report.times(replace(made, timings=of_old_logs)).rows
    assert row[-1].is_absent
    hours = {row[0].text: row[-1].text for row in report.networks(timed).rows}
    assert hours == {PAIRS[0]: "0.50", PAIRS[1]: NOTHING}
    page = Page(report.render(timed))
    assert {"Networks and training time of pairs", "Training time (h)", "Training time of rows"} <= set(page.texts)


def test_empty_bins_are_not_drawn():
    made = made_up.matrix(pairs=PAIRS[:1], seeds=(0, 1))
    for cell in made.evaluations[0]["cells"]:
        bins = cell["reliability"]
        bins["count"][0], bins["confidence"][0], bins["accuracy"][0] = 0, None, None
    assert "Reliability of resnet56-resnet20, DKD" in report.render(made)


def test_a_matrix_without_methods():
    made = made_up.matrix(pairs=PAIRS[:1], baselines=("vanilla", "at"))
    text = report.render(Results.of({**made.card, "methods": []}, made.evaluations, made.histories, made.published))
    assert "no plain row to gain over" in text


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (linear("", [0.3, 96]), (0, 25, 50, 75, 100)),
        (linear("", [71.2, 71.2]), (60, 80)),
        (linear("", [0.0, 0.0], starts_at=0), (0, 0.25)),
        (linear("", [-1.5, 3]), (-2, -1, 0, 1, 2, 3)),
        (powers("", [0.0005, 0.05]), (0.0001, 0.001, 0.01, 0.1)),
        (whole("", 1, 240), (1, 50, 100, 150, 200, 240)),
        (whole("", 1, 1), (1, 2)),
    ],
)
def test_axes_hold_their_values_between_round_ticks(axis, ticks):
    assert axis.low <= axis.high
    assert axis.share(axis.low) == 0
    assert axis.share(axis.high) == 1
    assert axis.ticks == pytest.approx(ticks)


@pytest.fixture(scope="module")
def browser(text, tmp_path_factory):
    """Chromium with the page open."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(text, encoding="utf-8")
    with chromium.driven(folder / "profile") as driver:
        driver.get((folder / "report.html").as_uri())
        yield driver


def resize(browser, size):
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def column(browser, index):
    """Return the texts and the head of a column in the table of all rows: 0 is the pair, 3 the accuracy."""
    table = browser.find_element("css selector", "#rows table")
    cells = "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent)"
    head = table.find_elements("css selector", "thead th")[index]
    return browser.execute_script(cells, table, index), head


def test_the_page_opens_without_an_error(browser):
    assert "cifar100" in browser.title
    assert browser.get_log("browser") == []
    assert browser.find_element("css selector", "#curves svg.chart").size["width"] > 100


def test_a_click_sorts_and_another_one_turns(browser):
    resize(browser, WIDE)
    _, head = column(browser, 3)
    button = head.find_element("css selector", "button")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        shown, head = column(browser, 3)
        numbers = [float(value.rstrip("↓")) for value in shown if value != "missing"]
        assert head.get_attribute("aria-sort") == direction
        assert numbers == sorted(numbers, key=lambda value: sign * value)
        assert shown[-2:] == ["missing", "missing"]
    assert len(browser.find_elements("css selector", "#rows th[aria-sort]")) == 1


def test_the_keyboard_sorts(browser):
    from selenium.webdriver.common.keys import Keys

    _, head = column(browser, 0)
    button = head.find_element("css selector", "button")
    for key, direction in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        button.send_keys(key)
        shown, head = column(browser, 0)
        assert head.get_attribute("aria-sort") == direction
        assert shown[0] == ("resnet32x4-resnet8x4" if direction == "ascending" else "wrn_40_2-wrn_16_2")
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"


def test_words_choose_rows(browser):
    from selenium.webdriver.common.keys import Keys

    field = browser.find_element("css selector", "#rows input[type=search]")
    field.send_keys("vgg13 stand")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#rows tbody tr:not([hidden])')].map((row) => row.textContent)"
    )
    assert len(shown) == 6
    assert all("vgg13" in row and "stand" in row for row in shown)
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert not browser.find_elements("css selector", "#rows tbody tr[hidden]")


def test_the_first_tab_reaches_the_skip_link(browser):
    from selenium.webdriver.common.keys import Keys

    browser.refresh()
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("href").endswith("#main")


def test_contrast_in_both_themes_and_the_toggle(browser):
    resize(browser, WIDE)
    button = browser.find_element("id", "theme")
    browser.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    backgrounds = set()
    for pressed in ("true", "false"):
        if button.get_attribute("aria-pressed") != pressed:
            button.click()
        assert button.get_attribute("aria-pressed") == pressed
        backgrounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        tiles = browser.execute_script(CONTRASTS, ".heat td")
        assert len(tiles) == 2 * 7 * 12
        others = "p, li, dt, dd, th, h1, h2, h3, button, nav a, #rows td, .chart text, footer code"
        low = [(text, ratio) for text, ratio in tiles + browser.execute_script(CONTRASTS, others) if ratio < 4.5]
        assert low == []
    assert len(backgrounds) == 2


@pytest.mark.parametrize("width", [320, 360, 400])
def test_a_phone_does_not_scroll_sideways(browser, width):
    resize(browser, (width, PHONE[1]))
    browser.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("scrollTo(200, 0); return scrollX") == 0
    inside = browser.find_element("css selector", "#rows .scroll")
    assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", inside)
    assert browser.get_log("browser") == []


MANY = {"methods": ("kd", "nkd", "at+kd"), "scales": (1, 2),
        "baselines": ("at", "cc", "crd", "fitnet", "nst", "ofd", "pkt", "rkd", "at+sp", "vanilla")}  # fmt: skip


@pytest.fixture(scope="module")
def many():
    return made_up.matrix(pairs=PAIRS[:2], seeds=(0, 1), **MANY)


class TestManyMethods:
    def test_rows_stand_in_groups(self, many):
        sheet = report.lines(many)
        kinds = [row[2].text for row in sheet.rows if row[0].text == PAIRS[0]]
        assert list(dict.fromkeys(kinds)) == ["Trained alone", "Feature methods", "Logit methods", "Sums of methods"]
        assert sorted(kinds, key=kinds.index) == kinds
        assert len(sheet.starts) == 7
        assert all((sheet.rows[i][0], sheet.rows[i][2]) != (sheet.rows[i - 1][0], sheet.rows[i - 1][2])
                   for i in sheet.starts)  # fmt: skip

    def test_no_chart_has_more_rows_without_scales_than_colours(self, many):
        found = charts.curves(many)[0].groups
        labels = [[key.label for key in group.keys] for group in found if group.title.startswith(charts.ALONE)]
        assert labels == [
            ["Student", "AT", "CC", "CRD", "FITNET", "NST", "OFD"], ["Student", "PKT", "RKD", "AT+SP"],
        ]  # fmt: skip
        assert all(len({key.style for key in group.keys}) == len(group.keys) for group in found)
        titles = [figure.title for figure in calibration.reliability(many)[0].groups]
        assert (
            titles[:2]
            == [group.title for group in found[:2]]
            == ["Without scales: AT to OFD", "Without scales: PKT to AT+SP"]
        )

    def test_methods_without_scales_have_a_heat_map(self, many):
        *_, found = heat.heat_maps(many)
        assert found.columns == PAIRS[:2]
        assert {group: [line.names for line in lines] for group, lines in found.groups.items()} == {
            "Feature methods": [(name.upper(),) for name in MANY["baselines"][:-2]], "Sums of methods": [("AT+SP",)],
        }  # fmt: skip
        entry = next(entry for entry in many.entries_of(PAIRS[1]) if entry.row.method == "crd")
        expected = f"{entry.gains[STUDENT].points:+.2f}{entry.signs}".replace("-", "\N{MINUS SIGN}")
        assert tiles_of(found, "CRD")[1].text == expected

    def test_every_part_names_its_rows(self, many):
        """So that filters reach all tables, curves, marks and tiles: only context is left."""
        page = Page(report.render(many))
        count = len(many.entries)
        named = {int(number) for found in page.attributes for number in found.get("data-of", "").split()}
        assert named == set(range(count))
        for kind in ("line", "band", "mark", "bar"):
            drawn = [found for found in page.attributes if found.get("class", "").split()[:1] == [kind]]
            assert all("data-of" in found for found in drawn if "context" not in found["class"] and "d" in found
                       and found["d"] != "M1 6H27")  # fmt: skip
        rows = json.loads(next(found for found in page.all("form"))["data-rows"])
        assert [(row["pair"], row["kind"], row["m"]) for row in rows] == [
            (entry.pair, entry.row.group, "none" if entry.row.scale is None else entry.row.m) for entry in many.entries
        ]

    def test_coinciding_lines_are_of_all_their_rows(self, many):
        group = charts.curves(many)[0].groups[0]
        (rate,) = [chart for chart in group.charts if chart.y.title == charts.TITLES[charts.RATE]]
        (line,) = rate.lines
        assert [row.label for _, row in line.of] == [key.label for key in group.keys]


@pytest.fixture
def filtered(many, browser, tmp_path):
    """Open the page of many methods at a fragment of its address."""
    (tmp_path / "report.html").write_text(report.render(many), encoding="utf-8")

    def open_at(fragment=""):
        browser.get("about:blank")
        browser.get((tmp_path / "report.html").as_uri() + fragment)
        resize(browser, WIDE)
        return browser

    return open_at


SEEN = """
const isSeen = (element) => element.getClientRects().length > 0;
return [...document.querySelectorAll(arguments[0])].filter(isSeen).map((element) => element.textContent.trim());
"""


def seen(browser, selector):
    return browser.execute_script(SEEN, selector)


class TestFilters:
    def test_everything_is_shown_at_first(self, filtered, many):
        browser = filtered()
        assert len(seen(browser, "#rows tbody tr")) == len(many.entries)
        assert seen(browser, "#to-filters") == ["Filter"]
        assert seen(browser, ".out") == []
        assert browser.get_log("browser") == []

    def test_of_a_kind_and_a_pair_everywhere(self, filtered):
        browser = filtered(f"#rows?kind=feature&pair={PAIRS[1]}")
        assert seen(browser, "#to-filters") == ["Filter: 8 of 46 rows"]
        assert seen(browser, "#filters output") == ["8 of 46 rows are shown."]
        names = [name.upper() for name in MANY["baselines"][:-2]]
        assert seen(browser, "#rows tbody tr th:nth-child(2)") == names
        assert set(seen(browser, "#rows tbody tr th:first-child")) == {PAIRS[1]}
        assert seen(browser, ".heat tbody th[scope=row]") == names
        assert seen(browser, ".heat thead th") == ["Method", PAIRS[1]]
        assert seen(browser, "#curves summary") == [PAIRS[1]]
        assert seen(browser, "#curves .legend li") == names  # the pair is open, for no other one is
        assert seen(browser, "#calibration .legend li") == ["Teacher", *names[:6], "Teacher", *names[6:]]
        assert set(seen(browser, "#provenance tbody tr th")) == {
            f"{PAIRS[1]}-{name.lower()}-base-{seed}" for name in names for seed in (0, 1)
        }
        assert all(box.is_displayed() for box in browser.find_elements("css selector", "#filters input:checked"))
        assert browser.get_log("browser") == []

    @pytest.mark.parametrize(("query", "shown"), [
        ("method=kd&stand=yes&m=[1]", ["KD + stand", "AT+KD + stand"]),
        ("method=kd&kind=logit&stand=no", ["KD", "KD + SDD [1,2]"]),
        ("method=at%2Bkd&m=[1]", ["AT+KD", "AT+KD + stand"]),
        ("method=nk%2C+PK&m=[1]&m=none", ["PKT", "NKD", "NKD + stand"]),
        ("kind=alone", ["Teacher", "Student"]),
        ("method=student", ["Student"]),
        ("method=nothing", []),
        ("kind=unknown", None),
    ])  # fmt: skip
    def test_methods_scales_and_stand(self, filtered, many, query, shown):
        browser = filtered(f"#?{query}&pair={PAIRS[0]}")
        all_rows = [entry.row.label for entry in many.entries_of(PAIRS[0])]
        assert seen(browser, "#rows tbody tr th:nth-child(2)") == (all_rows if shown is None else shown)

    def test_heat_maps_lose_lines_and_columns(self, filtered):
        browser = filtered("#overview?m=[1]&m=none&stand=yes&method=kd")
        assert seen(browser, ".map:first-of-type thead th") == ["Method, Pair", "M=[1], stand"]
        assert [text.split()[0] for text in seen(browser, ".map:first-of-type tbody th[scope=row]")] == (
            ["KD"] * 2 + ["AT+KD"] * 2
        )
        assert seen(browser, ".heat .kind")[:2] == ["Logit methods", "Sums of methods"]

    def test_the_keyboard_chooses_and_the_address_holds_it(self, filtered):
        from selenium.webdriver.common.keys import Keys

        browser = filtered()
        browser.find_element("css selector", "#to-filters a").send_keys(Keys.ENTER)
        browser.find_element("css selector", "#filters input[type=search]").send_keys("crd")
        box = browser.find_element("css selector", f"#filters input[value='{PAIRS[0]}']")
        box.send_keys(Keys.SPACE)
        assert browser.execute_script("return location.hash") == f"#filters?method=crd&pair={PAIRS[0]}"
        assert seen(browser, "#rows tbody tr th:nth-child(2)") == ["CRD"]
        browser.find_element("css selector", "nav a[href='#curves']").send_keys(Keys.ENTER)
        wait(browser, "return location.hash", f"#curves?method=crd&pair={PAIRS[0]}")
        assert seen(browser, "#to-filters") == ["Filter: 1 of 46 rows"]
        browser.refresh()
        assert seen(browser, "#rows tbody tr th:nth-child(2)") == ["CRD"]
        browser.find_element("css selector", "#filters button").send_keys(Keys.ENTER)
        wait(browser, "return location.hash", "#curves")
        assert seen(browser, "#to-filters") == ["Filter"]

    def test_a_link_inside_an_open_page_chooses_anew(self, filtered):
        browser = filtered("#rows?kind=logit")
        browser.execute_script("location.hash = '#rows?kind=sum'")
        wait(browser, "return document.querySelector('#to-filters').textContent", "Filter: 10 of 46 rows")
        assert [box.get_attribute("value") for box in browser.find_elements("css selector", "input:checked")] == ["sum"]

    def test_words_search_among_the_chosen(self, filtered):
        browser = filtered("#rows?kind=logit")
        browser.find_element("css selector", "#rows input[type=search]").send_keys("nkd stand")
        assert browser.find_element("css selector", "#rows .filter output").text == "4 of 16"

    def test_every_field_has_a_name_to_read_aloud(self, filtered):
        browser = filtered()
        browser.find_element("css selector", "#to-filters a").click()
        fields = browser.find_elements("css selector", "#filters input, #filters fieldset, #filters button")
        assert len(fields) > 10
        assert all(field.accessible_name for field in fields)
        assert browser.find_element("css selector", "#filters output").aria_role == "status"

    @pytest.mark.parametrize("width", [320, 400])
    def test_it_fits_on_a_phone(self, filtered, width):
        browser = filtered("#filters?kind=feature")
        resize(browser, (width, PHONE[1]))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def wait(browser, script, wanted):
    """Wait until a script returns what is wanted."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(script) == wanted)


def test_without_a_script_everything_is_shown(text):
    """And no control is offered that would do nothing."""
    page = Page(text)
    assert all("hidden" in found for found in page.attributes if found.get("id") in ("filters", "to-filters"))
    assert not any("out" in found.get("class", "").split() for found in page.attributes)


STUDY = {
    "t2": {"kd": {"temperature": 2}},
    "w4": {"kd": {"complementary_weight": 4}},
    "fast": {"train": {"lr": 0.1}, "only": {"methods": ["kd", "vanilla"]}},
}


@pytest.fixture(scope="module")
def study():
    excluded = [f"{PAIRS[0]}-kd-2-False-t2-{seed}" for seed in range(3)]
    missing = [f"{PAIRS[1]}-kd-2-False-t2-0"]
    return made_up.matrix(pairs=PAIRS[:2], variants=STUDY, excluded=excluded, missing=missing)


class TestVariants:
    def test_every_row_is_there(self, study):
        page = Page(report.render(study))
        assert page.open == []
        assert {entry.row.label for entry in study.entries} <= set(page.texts)
        ids = [found["id"] for found in page.attributes if "id" in found]
        assert len(ids) == len(set(ids))
        assert {"KD + SDD [1,2], T=2 (2 of 3 seeds, no mean)", "Ablations", "kd.temperature"} <= set(page.texts)

    def test_what_is_excluded_is_not_missing(self, study):
        top1 = [line(study, pair, "KD + SDD [1,2], T=2")["Top-1"].text for pair in PAIRS[:2]]
        assert top1 == ["excluded", "missing"]
        assert report.incomplete(study) == "Incomplete: 176 of 177 cells have a result"

    def test_the_heat_map_has_a_line_per_variant(self, study):
        found, over_student = heat.heat_maps(study)
        of_pairs = {"KD": ("", ", t2", ", w4", ", fast"), "DKD": ("",)}
        assert [one.names for one in found.lines] == [
            (method, f"{pair}{name}") for method, some in of_pairs.items() for pair in PAIRS[:2] for name in some
        ]
        assert {len(one.tiles) for one in (*found.lines, *over_student.lines)} == {6}
        assert tiles_of(found, "KD", f"{PAIRS[0]}, t2")[1].kind == "excluded"
        assert [tile.kind for tile in tiles_of(found, "KD", f"{PAIRS[0]}, w4")][::3] == ["nothing"] * 2
        plain = tiles_of(found, "KD", f"{PAIRS[0]}, t2")[0]
        assert "gain over KD " in plain.about
        entries = {entry.row.label: entry for entry in study.entries_of(PAIRS[0])}
        tile = tiles_of(over_student, "KD", f"{PAIRS[0]}, fast")[0]
        assert "gain over Student, lr=0.1 " in tile.about
        assert tile.text.startswith(
            f"{entries['KD, lr=0.1'].gains[STUDENT].points:+.2f}".replace("-", "\N{MINUS SIGN}")
        )

    def test_the_table_has_all_gains(self, study):
        entry = next(entry for entry in study.entries if entry.row.label == "KD + stand, T=2")
        shown = line(study, entry.pair, entry.row.label)
        points = [entry.gains[kind].points for kind in ("plain", "student", "kd")]
        assert [shown[title].key for title in ("Gain", "Over student", "Over KD")] == points
        assert shown["Variant"].text == "t2"

    def test_ablations_are_drawn(self, study):
        (temperature, weight) = charts.ablated(study)
        assert [chart.y.title for chart in temperature.groups[0].charts] == [
            f"Top-1 of {pair} (%)" for pair in PAIRS[:2]
        ]
        assert weight.title == "kd.complementary_weight"
        assert [len(chart.lines) for chart in temperature.groups[0].charts] == [5, 6]  # one is excluded
        assert [len(chart.marks) for chart in temperature.groups[0].charts] == [10, 11]  # one is missing
        assert len(temperature.groups[0].keys) == 6

    def test_ablations_have_bars_over_seeds_within_the_chart(self, study):
        for figure in charts.ablated(study):
            for chart in figure.groups[0].charts:
                for mark in chart.marks:
                    assert mark.bar is not None
                    assert chart.top <= mark.bar[1] < mark.y < mark.bar[0] <= chart.bottom
                    assert " ± " in mark.label


def test_rows_below_the_student_are_marked():
    made = made_up.matrix(pairs=PAIRS[:1], gain=-3.0)
    below = [entry for entry in made.entries if entry.is_below_student]
    assert len(below) >= 8
    page = Page(report.render(made))
    assert page.texts.count("↓") >= len(below)
    assert "below the student trained alone" in signs(page)
    assert any(text.startswith("↓ The mean lies below") for text in page.texts)
