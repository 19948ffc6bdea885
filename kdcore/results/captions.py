"""What stands above and below the tables: what the numbers are, and what a reader must know to compare them."""

from collections.abc import Iterator
from typing import Any

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.train_section import SELECTORS
from kdcore.results.rows import Card, Entry, Evaluation, Results, by_size
from kdcore.results.significance import ALPHA

PROTOCOLS = {
    "top1": "of the last epoch",
    "top1_best": "of the best epoch, chosen on the test images (teachers: as they taught)",
}


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
    images = " or ".join(sorted({f"{evaluation['train_images']:,}" for evaluation in evaluations})) or "the"
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
        f"{_gains(card)}Teachers: {teachers}."
    )


def notes(results: Results) -> list[str]:
    """What a reader must know to compare: costs, what stand and SDD change, inherited values, published protocols and
    doubts, cells that are missing, have learnt nothing or were made otherwise than the others.
    """
    card = results.card
    costs = [
        f"{evaluation['pair']}: teacher {_cost(evaluation['teacher'])}; student {_cost(evaluation['student'])}."
        for evaluation in results.evaluations
    ]
    return [
        *costs,
        *_of_stand(card),
        *_of_scales(card),
        *_of_training(card),
        *_of_provenance(results.evaluations),
        *marks(results),
    ]


def marks(results: Results) -> list[str]:
    """Those of the notes that explain words, symbols and numbers in the tables."""
    return [
        *_of_missing(results.entries),
        *_of_collapsed(results.evaluations),
        *_of_budgets(results.entries),
        *_of_publications(results),
    ]


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
    scales = sorted(card["scales"], key=by_size)
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


def _of_missing(entries: list[Entry]) -> Iterator[str]:
    missing = [entry for entry in entries if entry.missing and entry.row.method is not None]
    if missing:
        cells = sum(len(entry.missing) for entry in missing)
        yield f"Missing: {_count(cells, 'cell')} of {_count(len(missing), 'row')} have no result yet."


def _of_collapsed(evaluations: list[Evaluation]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for cell in evaluation["cells"]:
            if "collapsed" in cell:
                found.setdefault(cell["collapsed"], []).append(cell["name"])
    for reason, names in found.items():
        yield f"Collapsed, and counted in the means all the same: {', '.join(names)} ({reason})."


def _of_budgets(entries: list[Entry]) -> Iterator[str]:
    """Rows that the caption does not describe, by what they were trained with."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if entry.budget:
            found.setdefault(" and ".join(entry.budget), {}).setdefault(entry.pair, []).append(entry.row.label)
    for budget, pairs in found.items():
        which = "; ".join(f"{pair}: {', '.join(labels)}" for pair, labels in pairs.items())
        yield f"§ Trained with another budget, {budget}: {which}."


def _of_provenance(evaluations: list[Evaluation]) -> Iterator[str]:
    """Cells of one table should be made alike; where they were not, a reader must know."""
    cells = [cell for evaluation in evaluations for cell in evaluation["cells"]]
    made = {
        "commits": {cell["commit"] for cell in cells},
        "versions": {_joined(cell["versions"]) for cell in cells},
        "devices": {cell["device"] for cell in cells},
        "numbers of threads": {str(cell["threads"]) for cell in cells},
        "precisions": {cell["computed_in"] for cell in cells},
    }
    for what, found in made.items():
        if len(found) > 1:
            yield f"Cells were made with several {what}: {' | '.join(sorted(found))} (each in cells.csv)."


def _of_publications(results: Results) -> Iterator[str]:
    figures = [entry.figure for entry in results.entries if entry.figure is not None]
    if figures and len(results.card["seeds"]) > 1:
        yield (
            "In parentheses behind a published figure, measured minus published; ≈ where seeds cannot tell the two "
            f"apart: the figure lies in the {1 - ALPHA:.0%} prediction interval for as many other runs as its source "
            "states, or one."
        )
    elif figures:
        yield "In parentheses behind a published figure, measured minus published; one seed cannot tell it from noise."
    for source in dict.fromkeys(figure.source for figure in figures):
        about = results.published.sources[source]
        yield f"Published figures from {about.title} ({about.file}); protocol: {about.protocol}."
        if about.doubt:
            yield f"Doubt about figures from {about.title}: {about.doubt}."
    for entry in results.entries:
        figure = entry.figure
        if figure is not None and figure.doubt:
            yield f"† {entry.row.label}, {entry.pair}, published {figure.top1:.2f}: {figure.doubt}."


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


def _gains(card: Card) -> str:
    has_plain = False in card["stand"] and any(levels(scale) == (1,) for scale in card["scales"])
    if not has_plain or len(card["scales"]) * len(card["stand"]) < 2:
        return ""
    return f"In parentheses, the gain over the method's plain row{_bold(card)}. "


def _bold(card: Card) -> str:
    if len(card["seeds"]) < 2:
        return "; with one seed no gain is told from noise, and none is bold"
    return (
        f"; bold where {len(card['seeds'])} seeds support it (paired over seeds, with the noise of the method's rows "
        f"pooled; two-sided t-test, p < {ALPHA} after Holm's adjustment for all gains of a pair; the others may be "
        "gains too)"
    )


def _joined(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _data(card: Card, evaluations: list[Evaluation]) -> str:
    if not card["subset"]:
        return card["data"]
    classes = " or ".join(sorted({str(found["classes"]) for found in evaluations}))
    return f"a part of {card['data']}" + (f" ({classes} classes)" if classes else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _cost(network: dict[str, Any]) -> str:
    return f"{network['parameters'] / 1e6:.2f} M parameters, {network['multiply_adds'] / 1e6:.1f} M multiply-adds"
