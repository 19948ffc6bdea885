"""The diagnostics of the page: what students have of their teacher, and what their accuracy costs."""

import math
from collections.abc import Sequence

from kdcore.results import pareto
from kdcore.results.diagnostics.summary import SURE, Diagnosed, diagnosed
from kdcore.results.entry import Entry
from kdcore.results.pareto import Cost
from kdcore.results.report import charts
from kdcore.results.report.charts import Figure, Group, Key, places_of, row_styles
from kdcore.results.report.svg import Axis, Chart, Style, linear, whole
from kdcore.results.report.values import ABSENT, Column, Sheet, Value, number
from kdcore.results.row import Row
from kdcore.results.rows import Results

DOTS = 40
"""How many images of each network are drawn in the chart of logits."""
CLASSES = 50
"""How many classes a line of gains shows at most, evenly spaced in their order."""
GREY = Style(dash=2, is_context=True)
TEACHER = "Teacher"


def figures(results: Results) -> list[Figure]:
    """Draw the diagnostics: a figure per pair that has some, a group per method, then the features of all rows."""
    return [_figure(results, pair) for pair in results.card["pairs"] if pair in results.diagnoses]


def images(results: Results) -> str:
    """Say on how many test images the diagnostics are."""
    counts = dict.fromkeys(one["images"] for one in results.diagnoses.values())
    of_class = [count for one in results.diagnoses.values() for count in one["class_images"] if count]
    fewest, most = (min(of_class), max(of_class)) if of_class else (0, 0)
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{' or '.join(f'{count:,}' for count in counts)} test images, {each} of each class"


def rows(results: Results) -> Sheet:
    """Return the table of all rows that were diagnosed."""
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Correlation difference", about="of teacher's and student's logits, mean over pairs of classes, 0 to 2"),
        Column("Largest", about="the largest difference of correlations, mean over seeds"),
        Column("Logit mean", about="mean over images of the mean over classes"),
        Column("Logit deviation", about="mean over images of the deviation over classes"),
        Column("Agreement, sure", about=f"with the teacher where its confidence is {SURE} or more, percent of images"),
        Column("Agreement, unsure", about="with the teacher where it is less, percent of images"),
        Column("CKA", about="of the pooled vectors of student and teacher, 1 where they are alike"),
        Column(
            "Complementary regions", about="where just one of region and whole image is right, percent; finest level"
        ),
        Column("Right regions", about="percent of the regions of the finest level"),
    )
    found = [one for pair in results.card["pairs"] for one in diagnosed(results, pair)]
    return Sheet("Diagnostics of rows", columns, [_row(one) for one in found], heads=2, of=_places(found))


def _row(one: Diagnosed) -> list[Value]:
    regions, complementary = one.region_accuracies, one.complementary
    finest = max(regions, default=0)
    shares = (None, None) if one.is_teacher else one.sure_and_unsure
    sure, unsure = (None if share is None else 100 * share for share in shares)
    return [
        Value(one.entry.pair),
        Value(one.entry.row.label),
        number(one.mean("correlation_mean"), 3),
        number(one.mean("correlation_max"), 3),
        number(one.mean("logit_mean")),
        number(one.mean("logit_deviation")),
        number(sure),
        number(unsure),
        number(one.cka_of_pooled, 3),
        number(complementary.get(finest)),
        number(regions.get(finest)),
    ]


def _places(found: Sequence[Diagnosed]) -> list[tuple[tuple[str, Row], ...]]:
    return [(one.entry.place,) for one in found]


def _figure(results: Results, pair: str) -> Figure:
    by_row = {one.entry.row: one for one in diagnosed(results, pair)}
    teacher = next((one for row, one in by_row.items() if row.method is None), None)
    if teacher is None or len(by_row) == 1:
        return Figure(pair, lacks="No cell of this pair has diagnostics yet.", of=places_of(results, pair))
    found = []
    for title, entries in charts.groups(results, pair).items():
        styles = dict(zip((entry.row for entry in entries), row_styles(entries), strict=True))
        some = [(by_row[row], style) for row, style in styles.items() if row in by_row]
        if some:
            keys = [Key(TEACHER, GREY), *(_key(one, style) for one, style in some)]
            drawn = [draw(f"{pair}, {title}", teacher, some) for draw in CHARTS]
            found.append(Group(title, keys, [chart for chart in drawn if chart is not None]))
    return Figure(pair, [*found, *_features(pair, list(by_row.values()))], of=places_of(results, pair))


def _key(one: Diagnosed, style: Style) -> Key:
    return Key(one.entry.row.label, style, has_mark=True, of=(one.entry.place,))


Drawn = Sequence[tuple[Diagnosed, Style]]


def _logits(title: str, teacher: Diagnosed, some: Drawn) -> Chart | None:
    """Draw deviation over mean of the logits: a dot per image, a mark for each network's mean."""
    clouds = [(one, style, _cloud(one)) for one, style in ((teacher, GREY), *some)]
    x = linear("Mean of an image's logits", [mean for _, _, points in clouds for mean, _ in points])
    y = linear("Deviation of its logits", [value for _, _, points in clouds for _, value in points])
    told = "; ".join(
        f"{one.entry.row.label} {one.mean('logit_mean'):.2f} and {one.mean('logit_deviation'):.2f}"
        for one, _, _ in clouds
    )
    chart = Chart(f"Logits of {title}", f"Scatter plot. Mean and deviation over all images: {told}.", x, y)
    for one, style, points in clouds:
        chart.dots(one.entry.row.label, style, points, of=_of(one))
    for one, style, points in clouds:
        mean, deviation = (sum(values) / len(points) for values in zip(*points, strict=True))
        label = f"{one.entry.row.label}: mean {mean:.2f}, deviation {deviation:.2f} of the images drawn"
        is_hollow = bool(one.entry.row.stand)
        chart.mark(label, style, mean, deviation, radius=5, is_hollow=is_hollow, of=_of(one))
    return chart


def _cloud(one: Diagnosed) -> list[tuple[float, float]]:
    """Return mean and deviation of the first images' logits, of the first seed."""
    means, deviations = one.cells[0]["logits"]
    return list(zip(means, deviations, strict=True))[:DOTS]


def _of(one: Diagnosed) -> tuple[tuple[str, Row], ...]:
    """Return the row that a line is of; none for the teacher, which is drawn whatever is chosen."""
    return () if one.is_teacher else (one.entry.place,)


def _agreement(title: str, teacher: Diagnosed, some: Drawn) -> Chart | None:
    """Draw the agreement with the teacher over its confidence."""
    x, y = linear("Confidence of the teacher (%)", [0, 100]), linear("Agreement with it (%)", [0, 100])
    chart = Chart(f"Agreement by confidence, {title}", "", x, y)
    told = []
    for one, style in some:
        points = [(100 * at, 100 * share) for at, share, _ in one.agreement]
        chart.line(one.entry.row.label, style, points, of=_of(one))
        for at, share, count in one.agreement:
            size = 1.2 + 3.3 * math.sqrt(count / one.diagnosis["images"])
            text = f"{one.entry.row.label}: {share:.1%} of {count} images"
            chart.mark(text, style, 100 * at, 100 * share, radius=size, of=_of(one))
        told.append(f"{one.entry.row.label} {points[-1][1]:.1f}")
    chart.description = f"Line chart. Agreement in percent where the teacher is surest: {'; '.join(told)}."
    return chart


def _classes(title: str, teacher: Diagnosed, some: Drawn) -> Chart | None:
    """Draw the gains of classes over the student trained alone, sorted; None where there is no such student."""
    gains = [(one, style, one.class_gains) for one, style in some]
    gains = [(one, style, values) for one, style, values in gains if values]
    if not gains:
        return None
    y = linear("Gain of a class (points)", [value for _, _, values in gains for value in values])
    x = linear("Classes, from the smallest gain (%)", [0, 100])
    told = "; ".join(
        f"{one.entry.row.label} {values[0]:+.1f} to {values[-1]:+.1f}, {_share_below(values):.0f}% of classes below 0"
        for one, _, values in gains
    )
    chart = Chart(f"Gains of classes over the student alone, {title}", f"Sorted lines. {told}.", x, y)
    for one, style, values in gains:
        last = len(values) - 1
        kept = sorted({round(i * last / (CLASSES - 1)) for i in range(CLASSES)}) if last >= CLASSES else range(last + 1)
        points = [(100 * i / max(1, last), values[i]) for i in kept]
        chart.line(one.entry.row.label, style, points, of=_of(one))
    return chart


def _share_below(values: Sequence[float]) -> float:
    return 100 * sum(value < 0 for value in values) / len(values)


def _layers(title: str, teacher: Diagnosed, some: Drawn) -> Chart | None:
    """Draw CKA with the teacher over the student's layers; None where nothing is known of them."""
    lines = [(one, style, one.cka_by_depth) for one, style in some]
    lines = [(one, style, values) for one, style, values in lines if values and all(map(math.isfinite, values))]
    if not lines:
        return None
    x = whole("Layer of the student", 1, max(len(values) for _, _, values in lines))
    y = linear("CKA with the teacher's layer", [0, 1, *(value for _, _, values in lines for value in values)])
    told = "; ".join(
        f"{one.entry.row.label} {', '.join(f'{value:.2f}' for value in values)}" for one, _, values in lines
    )
    chart = Chart(f"CKA of layers, {title}", f"Line chart, from the first stage to the pooled vector. {told}.", x, y)
    for one, style, values in lines:
        chart.line(one.entry.row.label, style, list(enumerate(values, 1)), of=_of(one))
    return chart


def _regions(title: str, teacher: Diagnosed, some: Drawn) -> Chart | None:
    """Draw the accuracy of regions over the pyramid's levels; None where no row has regions."""
    lines = [(one, style, one.region_accuracies) for one, style in ((teacher, GREY), *some)]
    lines = [(one, style, values) for one, style, values in lines if values]
    if len(lines) < 2:
        return None
    levels = sorted({level for _, _, values in lines for level in values})
    x = Axis("Level (m x m regions)", levels[0], max(levels[-1], levels[0] + 1), tuple(map(float, levels)))
    y = linear("Right regions (%)", [value for _, _, values in lines for value in values.values()])
    told = "; ".join(
        f"{one.entry.row.label} {', '.join(f'{level}: {value:.1f}' for level, value in values.items())}; complementary "
        f"{', '.join(f'{level}: {value:.1f}' for level, value in one.complementary.items())}"
        for one, _, values in lines
    )
    chart = Chart(f"Accuracy of regions, {title}", f"Line chart over levels, in percent. {told}.", x, y)
    for one, style, values in lines:
        chart.line(one.entry.row.label, style, list(values.items()), of=_of(one))
    return chart


CHARTS = (_logits, _agreement, _classes, _layers, _regions)
"""The charts of a group, in their order."""


def _features(pair: str, found: Sequence[Diagnosed]) -> list[Group]:
    """Draw the pictures of features, one per row, a colour per class; no group where there are no pictures."""
    shown = [one for one in found if one.first is not None]
    if not shown:
        return []
    names = shown[0].diagnosis["picture"]["classes"]
    keys = [Key(name, Style(i), has_mark=True) for i, name in enumerate(names)]
    return [Group("Features (t-SNE of the pooled vector, first seed)", keys, [_picture(pair, one) for one in shown])]


def _picture(pair: str, one: Diagnosed) -> Chart:
    """Draw where t-SNE places the images of some classes."""
    label, of = one.entry.row.label, one.diagnosis["picture"]
    points = one.first["picture"] if one.first else []
    numbers = list(dict.fromkeys(of["labels"]))
    text = f"Scatter plot of {len(points)} test images of {len(numbers)} classes by t-SNE; axes have no unit."
    chart = Chart(f"{label}, {pair}", text, Axis(label, 0, 1, ()), Axis("", 0, 1, ()), 220, 220)
    for i, (wanted, name) in enumerate(zip(numbers, of["classes"], strict=True)):
        of_class = [(x, y) for (x, y), number_ in zip(points, of["labels"], strict=True) if number_ == wanted]
        chart.dots(f"{label}: {name}", Style(i), of_class, of=_of(one))
    return chart


def pareto_figures(results: Results) -> list[Figure]:
    """Draw accuracy over the time of a training step: a figure per pair and device, a mark per row, a line through the
    rows that none beats in both.
    """
    return [_pareto(pair, device, some) for (pair, device), some in pareto.timed(results).items()]


def _pareto(pair: str, device: str, some: list[Cost]) -> Figure:
    entries = [cost.entry for cost in some]
    styles = _method_styles(entries)
    x = linear("Time per step (ms)", [cost.milliseconds or 0.0 for cost in some], ticks=5)
    y = linear("Top-1 (%)", [entry.mean or 0.0 for entry in entries], ticks=5)
    best = pareto.front(some)
    named = "; ".join(f"{cost.entry.row.label} {cost.milliseconds:.2f} ms, {cost.entry.mean:.2f}%" for cost in best)
    text = f"Scatter plot of {len(some)} rows, trained on {device}. Not beaten in both: {named}."
    chart = Chart(f"Accuracy over time per step of {pair}", text, x, y, 440, 320)
    chart.line("Not beaten in both", GREY, [(cost.milliseconds or 0.0, cost.entry.mean or 0.0) for cost in best])
    for cost in some:
        entry = cost.entry
        label = f"{entry.row.label}: {cost.milliseconds:.2f} ms per step, top-1 {entry.mean:.2f}"
        style, is_hollow = styles[entry.row], bool(entry.row.stand)
        place = (entry.place,)
        chart.mark(
            label, style, cost.milliseconds or 0.0, entry.mean or 0.0,
            deviation=entry.deviation, is_hollow=is_hollow, of=place,
        )  # fmt: skip
    keys = [Key(entry.row.label, styles[entry.row], bool(entry.row.stand), of=(entry.place,)) for entry in entries]
    of = tuple(entry.place for entry in entries)
    return Figure(f"{pair}, {device}", [Group(f"Accuracy over time per step of {pair}", keys, [chart])], of=of)


def _method_styles(entries: Sequence[Entry]) -> dict[Row, Style]:
    """Tell methods and variants apart by colour, and their rows by shape; stand is hollow."""
    methods = list(dict.fromkeys((entry.row.method, entry.row.variant) for entry in entries))
    scales = list(dict.fromkeys(entry.row.scale for entry in entries))
    return {
        entry.row: Style(methods.index((entry.row.method, entry.row.variant)), 0, scales.index(entry.row.scale))
        for entry in entries
    }


def costs(results: Results) -> Sheet:
    """Return what training each row took, where diagnostics or the log of this machine say it."""
    columns = (
        Column("Pair", is_number=False),
        Column("Row", is_number=False),
        Column("Time per step (ms)", about="evaluations included, mean over seeds"),
        Column("Peak memory (MB)", about="of a GPU what tensors took, else of the whole process; mean over seeds"),
        Column("Trained beside (k)", about="parameters that the method trains besides the student's, thousands"),
        Column("Device", is_number=False, about="that the cells were trained on, with the CPU threads of a process"),
    )
    found = pareto.costs(results) if results.diagnoses else []
    lines = [
        [
            Value(cost.entry.pair),
            Value(cost.entry.row.label),
            number(cost.milliseconds),
            number(None if cost.memory is None else cost.memory / 1e6, 0),
            number(None if cost.adapters is None else cost.adapters / 1e3, 1),
            Value(cost.device) if cost.device else ABSENT,
        ]
        for cost in found
    ]
    return Sheet("Training of rows", columns, lines, heads=2, of=[(cost.entry.place,) for cost in found])


def speeds(results: Results) -> Sheet:
    """Return images per second of the networks that were timed; a cell's name stands for a student with another end."""
    columns = (
        Column("Pair", is_number=False),
        Column("Network", is_number=False),
        Column("Images/s, batch 1", about="forward pass in float32, images on the device"),
        Column("Images/s, batch 250", about="forward pass in float32, images on the device"),
        Column("Device", is_number=False, about="that the networks were timed on, with the CPU threads of the process"),
    )
    lines = []
    for pair, one in results.diagnoses.items():
        cost = one["cost"]
        device = f"{cost['device']}, {cost['threads']} CPU thread{'s' * (cost['threads'] != 1)}"
        for name, by_batch in cost["images_per_second"].items():
            named = {"teacher": "Teacher", "student": "Student"}.get(name, name)
            counts = [number(by_batch.get(batch), 0) for batch in ("1", "250")]
            lines.append([Value(pair), Value(named), *counts, Value(device)])
    return Sheet("Speed of networks", columns, lines, heads=2)
