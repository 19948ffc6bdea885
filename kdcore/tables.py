"""The tables of a paper from the evaluations of a matrix: Markdown, LaTeX, CSV, and metrics for DVC."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdcore import catalog
from kdcore.errors import UserError
from kdcore.levels import levels
from kdcore.published import Figure, Published
from kdcore.train_params import SELECTORS

PROTOCOLS = {
    "top1": "of the last epoch",
    "top1_best": "of the best epoch, chosen on the test images (teachers: as they taught)",
}
Card = dict[str, Any]
Evaluation = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of the table: an experiment without its pair and seed."""

    label: str
    method: str | None
    """None for the teacher's row."""
    scale: int | str | None = None
    stand: bool | None = None

    @property
    def levels(self) -> list[int] | None:
        """Pyramid levels, None for rows without M."""
        return None if self.scale is None else list(levels(self.scale))

    @property
    def is_plain(self) -> bool:
        """A logit method as its paper has it."""
        return self.levels == [1] and not self.stand


@dataclass(frozen=True)
class Entry:
    """One row for one pair."""

    pair: str
    row: Row
    values: list[float]
    """Percent, one per seed."""
    published: float | None
    source: str | None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed."""
        return float(pd.Series(self.values).std(ddof=1)) if len(self.values) > 1 else None


def rows(card: Card) -> list[Row]:
    """The rows of the table in their order: teacher, baselines, and per method plain, SDD, stand and both."""
    found = [Row("Teacher", None)]
    for baseline in card["baselines"]:
        found.append(Row("Student" if baseline == catalog.VANILLA else baseline.upper(), baseline))
    for method in card["methods"]:
        for stand in sorted(card["stand"]):
            for scale in sorted(card["scales"], key=_by_size):
                label = method.upper()
                if levels(scale) != (1,):
                    label += f" + SDD [{','.join(map(str, levels(scale)))}]"
                found.append(Row(label + (" + stand" if stand else ""), method, scale, stand))
    return found


def collect(card: Card, evaluations: list[Evaluation], published: Published) -> list[Entry]:
    """What was measured and published for every row and pair.

    Raises:
        UserError: an evaluation does not hold exactly the seeds of the matrix; no seed is left out of a mean.
    """
    entries = []
    for evaluation in evaluations:
        for row in rows(card):
            figure = _figure(card, evaluation["pair"], row, published)
            top1, source = (figure.top1, figure.source) if figure else (None, None)
            entries.append(Entry(evaluation["pair"], row, _values(card, evaluation, row), top1, source))
    return entries


def table(entries: list[Entry]) -> pd.DataFrame:
    """Rows x pairs, as text: mean, deviation where there are several seeds, gain over plain, published figure."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        gain = _gain(entry, entries)
        text = f"{entry.mean:.2f}" + ("" if entry.deviation is None else f" ± {entry.deviation:.2f}")
        text += "" if gain is None else f" ({gain:+.2f})"
        columns.setdefault((entry.pair, "measured"), {})[entry.row.label] = text
        if any(other.published is not None for other in entries if other.pair == entry.pair):
            shown = "–" if entry.published is None else f"{entry.published:.2f}"
            columns.setdefault((entry.pair, "published"), {})[entry.row.label] = shown
    frame = pd.DataFrame(columns)
    if set(frame.columns.get_level_values(1)) == {"measured"}:
        frame = frame.droplevel(1, axis=1)
    return frame


def numbers(entries: list[Entry]) -> pd.DataFrame:
    """The table as numbers, one line per row and pair."""
    lines = []
    for entry in entries:
        gain = _gain(entry, entries)
        deviation = None if entry.deviation is None else round(entry.deviation, 4)
        lines.append(
            {
                "pair": entry.pair,
                "row": entry.row.label,
                "method": entry.row.method,
                "M": entry.row.levels and " ".join(map(str, entry.row.levels)),
                "stand": entry.row.stand,
                "top1_mean": round(entry.mean, 4),
                "top1_std": deviation,
                "n": len(entry.values),
                "gain_over_plain": None if gain is None else round(gain, 4),
                "published": entry.published,
                "published_source": entry.source,
            }
        )
    return pd.DataFrame(lines)


def cells(card: Card, evaluations: list[Evaluation]) -> pd.DataFrame:
    """Every cell with its metrics, recipe, the sources of the recipe's values, and provenance."""
    lines = []
    for evaluation in evaluations:
        for cell in evaluation["cells"]:
            recipe = "; ".join(f"{key}={value}" for key, value in cell["recipe"].items())
            sources = "; ".join(f"{key}: {source}" for key, (_, source) in card["recipes"][cell["name"]].items())
            versions = "; ".join(f"{name} {version}" for name, version in cell["versions"].items())
            line = {**cell, "recipe": recipe, "recipe_sources": sources, "versions": versions}
            if "levels" in line:
                line |= {"scale": str(line["scale"]), "levels": " ".join(map(str, line["levels"]))}
            lines.append(line)
    return pd.DataFrame(lines)


def metrics(card: Card, entries: list[Entry]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Per pair and method, under keys that do not depend on the matrix, so that revisions can be compared.

    plain: M=[1] without standardisation. headline: the highest scale of the matrix, standardised if stand is in it.
    Baselines have plain alone. Means over seeds, rounded to hundredths; None where the matrix holds no such row.
    """
    highest = max(card["scales"], key=_by_size)
    headline = (highest, True in card["stand"])
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for entry in entries:
        if entry.row.method is None:
            continue
        values = found.setdefault(entry.pair, {}).setdefault(entry.row.method, {"plain": None})
        if entry.row.scale is None or entry.row.is_plain:
            values["plain"] = round(entry.mean, 2)
        if entry.row.scale is not None:
            values.setdefault("headline", None)
        if (entry.row.scale, entry.row.stand) == headline:
            values["headline"] = round(entry.mean, 2)
    return found


def origins(card: Card, metas: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Where each teacher's weights came from: as params.yaml has it, or, where it left that open, as it turned out.

    Args:
        card: of stage tables.
        metas: what made each teacher.
    """
    missed = [name for name, meta in metas.items() if meta["source"] == "published" and "adopted" not in meta]
    instead = {
        name: f"trained here, {metas[name]['train']['epochs']} epochs, for no published checkpoint could be had"
        for name in missed
    }
    return {**card["teachers"], **instead}


def caption(card: Card, evaluations: list[Evaluation]) -> str:
    """What the numbers are."""
    images = " or ".join(sorted({f"{evaluation['train_images']:,}" for evaluation in evaluations}))
    seeds = card["seeds"]
    over = f"mean ± sample standard deviation over n = {len(seeds)} seeds" if len(seeds) > 1 else "n = 1 seed"
    teachers = ", ".join(
        f"{name} ({origin})"
        for name, origin in card["teachers"].items()
        if name in {pair.split("-")[0] for pair in card["pairs"]}
    )
    return (
        f"Top-1 accuracy (%) on {_data(card, evaluations)} {PROTOCOLS[card['accuracy']]}; {over}; "
        f"{_count(card['epochs'], 'epoch')} of {images} training images. "
        f"In parentheses, the gain over the method's plain row. Teachers: {teachers}."
    )


def notes(card: Card, evaluations: list[Evaluation], entries: list[Entry], published: Published) -> list[str]:
    """What a reader must know to compare: costs, what stand and SDD change, inherited values, published protocols."""
    costs = [
        f"{evaluation['pair']}: teacher {_cost(evaluation['teacher'])}; student {_cost(evaluation['student'])}."
        for evaluation in evaluations
    ]
    return [*costs, *_of_stand(card), *_of_scales(card), *_of_training(card), *_of_publications(entries, published)]


def markdown(frame: pd.DataFrame, title: str, remarks: list[str]) -> str:
    """The table for a README or an issue."""
    flat = frame.copy()
    flat.columns = pd.Index([" ".join(column) if isinstance(column, tuple) else column for column in frame.columns])
    body = flat.to_markdown(stralign="left", disable_numparse=True)
    return "\n".join([title, "", body, "", *(f"- {remark}" for remark in remarks), ""])


def latex(frame: pd.DataFrame, title: str, remarks: list[str]) -> str:
    """The table for a paper; needs the package booktabs, nothing else."""
    style = frame.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    text = style.to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        caption=_escape(title),
        column_format="l" + "c" * frame.shape[1],
        multicol_align="c",
    )
    comments = "".join(f"% {remark}\n" for remark in remarks)
    return comments + text.replace("±", r"$\pm$").replace("–", "--").replace("(-", "($-$")


def curves(card: Card, evaluations: list[Evaluation], histories: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Test accuracy per pair, row and epoch, mean over seeds: what `dvc plots` draws."""
    labels = {
        cell["name"]: row.label
        for evaluation in evaluations
        for cell in evaluation["cells"]
        for row in rows(card)
        if row.method is not None and _belongs(cell, row)
    }
    parts = []
    for pair, history in histories.items():
        labelled = history.assign(pair=pair, row=history["cell"].map(labels))
        mean = labelled.groupby(["pair", "row", "epoch"], sort=False)["test_top1"].mean().round(2)
        parts.append(mean.reset_index())
    return pd.concat(parts, ignore_index=True)


def _by_size(scale: int | str) -> tuple[int, int, tuple[int, ...]]:
    """Order of scales: by their finest level, then by how many they have, then by the levels themselves."""
    return max(levels(scale)), len(levels(scale)), levels(scale)


def _belongs(cell: dict[str, Any], row: Row) -> bool:
    return (cell["method"], cell.get("scale"), cell.get("stand")) == (row.method, row.scale, row.stand)


def _values(card: Card, evaluation: Evaluation, row: Row) -> list[float]:
    """The accuracies of a row in percent, in the order of the seeds; of the teacher its one."""
    if row.method is None:
        return [evaluation["teacher"]["top1"]]
    of_seed = {cell["seed"]: cell for cell in evaluation["cells"] if _belongs(cell, row)}
    if sorted(of_seed) != sorted(card["seeds"]):
        raise UserError(
            f"evaluation of {evaluation['pair']}: {row.label} has seeds {sorted(of_seed)}, the matrix has "
            f"{sorted(card['seeds'])}; run 'dvc repro'"
        )
    return [of_seed[seed][card["accuracy"]] for seed in card["seeds"]]


def _figure(card: Card, pair: str, row: Row, published: Published) -> Figure | None:
    teacher, student = pair.split("-")
    if row.method is None:
        return published.find(None, teacher, catalog.VANILLA)
    if row.stand and card["stand_recipe"] == "matched":
        return None  # publications change temperature and weight too
    if row.method == catalog.VANILLA:
        return published.find(None, student, row.method)
    return published.find(teacher, student, row.method, row.levels, row.stand, optimizer=card["optimizer"])


def _gain(entry: Entry, entries: list[Entry]) -> float | None:
    """Over the plain row of the same method and pair; None for that row itself and for rows without one."""
    if entry.row.scale is None or entry.row.is_plain:
        return None
    for other in entries:
        if other.pair == entry.pair and other.row.method == entry.row.method and other.row.is_plain:
            return entry.mean - other.mean
    return None


def _of_stand(card: Card) -> Iterator[str]:
    for method in card["methods"]:
        changes: dict[str, list[str]] = {}
        for pair in card["pairs"]:
            changes.setdefault(_stand_changes(card, method, pair), []).append(pair)
        for change, pairs in changes.items():
            where = "" if len(pairs) == len(card["pairs"]) else f" ({', '.join(pairs)})"
            if change:
                yield f"{method.upper()}{where}: stand changes the z-score {change}."
    if card["stand_recipe"] == "matched" and True in card["stand"]:
        yield "stand changes the z-score alone (stand_recipe: matched), unlike publications."


def _of_scales(card: Card) -> Iterator[str]:
    scales = sorted(card["scales"], key=_by_size)
    for method in card["methods"]:
        changed: dict[str, list[str]] = {}
        for pair in card["pairs"]:
            names = [f"{pair}-{method}-{scale}-False-{card['seeds'][0]}" for scale in scales]
            first, *others = (card["recipes"].get(name, {}) for name in names)
            plain = first if levels(scales[0]) == (1,) else {}
            changes = dict.fromkeys(change for other in others for change in _changes(plain, other))
            changed.setdefault(", ".join(changes), []).append(pair)
        for change, pairs in changed.items():
            where = "" if len(pairs) == len(card["pairs"]) else f" ({', '.join(pairs)})"
            if change:
                yield f"{method.upper()}{where}: SDD changes {change}."


def _of_training(card: Card) -> Iterator[str]:
    inherited = _inherited(card)
    if inherited:
        which = (
            "of every row" if len(inherited) == len(card["baselines"]) + len(card["methods"]) else ", ".join(inherited)
        )
        yield f"Hyper-parameters inherited from another data set or method: {which}."
    for method in (*card["baselines"], *card["methods"]):
        views = max((entry.views for entry in catalog.terms(method)), key=len, default=())
        if len(views) > 1:
            yield f"{method.upper()}: trained on {' and '.join(views)} views of each image, with cross-entropy on both."
    if card["exceptions"]:
        yield f"Trained otherwise: {'; '.join(_exception(exception) for exception in card['exceptions'])}."
    if card["optimizer"] == "dot":
        yield "Optimizer: DOT, with separate momenta for the gradients of cross-entropy and of distillation."


def _of_publications(entries: list[Entry], published: Published) -> Iterator[str]:
    for source in dict.fromkeys(entry.source for entry in entries if entry.source):
        about = published.sources[source]
        yield f"Published figures from {about['title']} ({about['file']}); protocol: {about['protocol']}."


def _inherited(card: Card) -> list[str]:
    """Methods whose rows hold inherited values, with the rows' stand where the other ones do not."""
    marked: dict[str, set[bool]] = {}
    for name, recipe in card["recipes"].items():
        parts = name.split("-")
        if any("inherited" in source for _, source in recipe.values()):
            marked.setdefault(parts[2], set()).add("True" in parts)
    return [f"{method} with stand" if stands == {True} else method for method, stands in sorted(marked.items())]


def _stand_changes(card: Card, method: str, pair: str) -> str:
    """ "and temperature (4 to 2)", "alone", or "" where the matrix does not hold both or all methods have it alone."""
    of_stand: dict[bool, dict[str, Any]] = {}
    for name, recipe in card["recipes"].items():
        parts = name.removeprefix(f"{pair}-").split("-")
        if name.startswith(f"{pair}-{method}-") and len(parts) == 4:
            of_stand.setdefault(parts[2] == "True", recipe)
    if len(of_stand) < 2:
        return ""
    changes = ", ".join(_changes(of_stand[False], of_stand[True]))
    if card["stand_recipe"] == "matched":
        return ""
    return f"and {changes}" if changes else "alone"


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key, (value, _) in after.items():
        if key in before and before[key][0] != value:
            yield f"{key} ({_short(before[key][0])} to {_short(value)})"


def _exception(exception: dict[str, Any]) -> str:
    """ "students mobilenetv2, vgg8: lr 0.01"."""
    which = " and ".join(f"{key} {', '.join(exception[key])}" for key in SELECTORS if key in exception)
    return f"{which}: {', '.join(f'{key} {value}' for key, value in exception.items() if key not in SELECTORS)}"


def _data(card: Card, evaluations: list[Evaluation]) -> str:
    if not card["subset"]:
        return card["data"]
    return f"a part of {card['data']} ({' or '.join(sorted({str(found['classes']) for found in evaluations}))} classes)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _cost(network: dict[str, Any]) -> str:
    return f"{network['parameters'] / 1e6:.2f} M parameters, {network['multiply_adds'] / 1e6:.1f} M multiply-adds"


def _escape(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, f"\\{character}")
    return text
