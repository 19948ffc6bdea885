"""The caption and the notes of the tables: what the numbers are, and what a reader must know to compare them."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from kdcore.catalog import levels
from kdcore.matrix.train_section import SELECTORS
from kdcore.results.rows import Card, Entry, Evaluation, Results, by_size, reasons, several_views
from kdcore.results.significance import ALPHA

PROTOCOLS = {
    "top1": "of the last epoch",
    "top1_best": "of the best epoch, chosen on the test images (teachers: the weights that taught)",
}
"""Which epoch an accuracy was measured at, by the setting `tables.accuracy`."""
AXES = (
    "SDD [m,...], or M=[m,...]: the loss is computed on regions, in grids of m x m; [1] is the whole image. "
    "stand: logits are standardised (z-score over the classes) before the loss. "
)
"""Explains the words in the names of rows."""


def with_teachers(card: Card, metas: dict[str, dict[str, Any]]) -> Card:
    """Return the card of stage tables with what became of the teachers.

    Args:
        card: the card; its `teachers` say what params.yaml asked for.
        metas: the meta.json of each teacher that is there.

    Returns:
        The card with the `origins` of the teachers; under `accepted` the reasons why changes of code were accepted
        without training a teacher again; and under `checkpoints` the file and sha256 of each adopted teacher.
    """
    accepted = {name: reasons(meta) for name, meta in metas.items()}
    checkpoints = {name: _checkpoint(meta) for name, meta in metas.items() if meta.get("adopted")}
    return {**card, "teachers": origins(card, metas), "accepted": accepted, "checkpoints": checkpoints}


def _checkpoint(meta: dict[str, Any]) -> dict[str, str]:
    """Say which file a teacher's weights were taken from, path or address, with the member of an archive; and how."""
    adopted = meta["adopted"]
    member = f": {adopted['member']}" if adopted.get("member") else ""
    return {"origin": f"{adopted['source']}{member}{_reading(meta)}", "sha256": adopted["sha256"]}


def _reading(meta: dict[str, Any]) -> str:
    """Say how a checkpoint was read, which tells apart teachers from one file: ", ema, images of mean [...]"."""
    weights_key = f", {meta['weights_key']}" if "weights_key" in meta else ""
    return weights_key + (f", images of mean {meta['mean']} and std {meta['std']}" if "mean" in meta else "")


def origins(card: Card, metas: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Say where each teacher's weights came from: what params.yaml asked for, or what was done instead.

    Args:
        card: the card of stage tables.
        metas: the meta.json of each teacher that is there.
    """
    missed = [name for name, meta in metas.items() if meta["source"] == "published" and "adopted" not in meta]
    instead = {
        name: f"trained here, {metas[name]['train']['epochs']} epochs, for no published checkpoint could be had"
        for name in missed
    }
    adopted = {name: f"{card['teachers'][name]}{_reading(meta)}" for name, meta in metas.items() if "adopted" in meta}
    return {**card["teachers"], **adopted, **instead}


def caption(card: Card, evaluations: list[Evaluation]) -> str:
    """Say what the numbers are, on which data, over how many seeds, and who the teachers are."""
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
        f"{counted(card['epochs'], 'epoch')} of {images} training images. "
        f"{_gains(card)}{_axes(card)}Teachers: {teachers}."
    )


def notes(results: Results) -> list[str]:
    """List what a reader must know to compare: costs, what stand and SDD change, inherited values, published protocols
    and doubts, cells that are missing, have learnt nothing or were trained unlike the others.
    """
    card = results.card
    costs = [
        f"{evaluation['pair']}: teacher {_cost(evaluation['teacher'])}; student {_cost(evaluation['student'])}."
        for evaluation in results.evaluations
    ]
    return [
        *costs,
        *_stand_notes(card),
        *_scale_notes(card),
        *_training_notes(card),
        *_provenance_notes(results.evaluations),
        *marks(results),
    ]


def marks(results: Results) -> list[str]:
    """List the notes without which words, symbols and numbers in the tables cannot be understood."""
    return [
        *_missing_notes(results.entries),
        *_collapse_notes(results.evaluations),
        *_accepted_notes(results),
        *_budget_notes(results.entries),
        *_publication_notes(results),
    ]


def _by_method(card: Card, changes: Callable[[Card, str, str], str]) -> Iterator[tuple[str, str]]:
    """Yield each method, with its pairs where others change other values, and its changes, where there are any."""
    for method in card["methods"]:
        pairs_of: dict[str, list[str]] = {}
        for pair in card["pairs"]:
            pairs_of.setdefault(changes(card, method, pair), []).append(pair)
        for change, pairs in pairs_of.items():
            where = "" if len(pairs) == len(card["pairs"]) else f" ({', '.join(pairs)})"
            if change:
                yield f"{method.upper()}{where}", change


def _stand_notes(card: Card) -> Iterator[str]:
    for which, change in _by_method(card, _stand_changes):
        yield f"{which}: stand changes the z-score {change}."
    if card["stand_recipe"] == "matched" and True in card["stand"]:
        yield "stand changes the z-score alone (stand_recipe: matched), unlike publications."


def _scale_notes(card: Card) -> Iterator[str]:
    for which, change in _by_method(card, _scale_changes):
        yield f"{which}: SDD changes {change}."


def _training_notes(card: Card) -> Iterator[str]:
    inherited = _inherited(card)
    if inherited:
        which = (
            "of every row" if len(inherited) == len(card["baselines"]) + len(card["methods"]) else ", ".join(inherited)
        )
        yield f"Hyper-parameters inherited from another data set or method: {which}."
    for method in (*card["baselines"], *card["methods"]):
        views = several_views(method)
        if views:
            yield f"{method.upper()}: trained on {views}, with cross-entropy on both."
    if card["exceptions"]:
        yield f"Trained with other settings: {'; '.join(_exception(exception) for exception in card['exceptions'])}."
    if card.get("small_maps") or any(exception.get("small_maps") for exception in card["exceptions"]):
        yield "small_maps repeat: where a final map has fewer cells than the finest level, regions share cells."
    if card["optimizer"] == "dot":
        yield "Optimizer: DOT, with separate momenta for the gradients of cross-entropy and of distillation."


def _missing_notes(entries: list[Entry]) -> Iterator[str]:
    missing = [entry for entry in entries if entry.missing and entry.row.method is not None]
    if missing:
        cells = sum(len(entry.missing) for entry in missing)
        yield f"Missing: {counted(cells, 'cell')} of {counted(len(missing), 'row')} have no result yet."


def _collapse_notes(evaluations: list[Evaluation]) -> Iterator[str]:
    names_of: dict[str, list[str]] = {}
    for cell in _cells(evaluations):
        if "collapsed" in cell:
            names_of.setdefault(cell["collapsed"], []).append(cell["name"])
    for reason, names in names_of.items():
        yield f"Collapsed, and counted in the means all the same: {', '.join(names)} ({reason})."


def _accepted_notes(results: Results) -> Iterator[str]:
    """Give every reason why results of earlier code were kept, once, with the cells and teachers it was given for."""
    cells = Counter(reason for cell in _cells(results.evaluations) for reason in reasons(cell))
    teachers: dict[str, list[str]] = {}
    for name, given in results.card.get("accepted", {}).items():
        for reason in given:
            teachers.setdefault(reason, []).append(name)
    for reason in dict.fromkeys((*cells, *teachers)):
        who = [counted(cells[reason], "cell")] if cells[reason] else []
        who += [f"teachers: {', '.join(teachers[reason])}"] if reason in teachers else []
        yield f"Trained with earlier code, accepted without training again ({'; '.join(who)}): {reason.rstrip('.')}."


def _budget_notes(entries: list[Entry]) -> Iterator[str]:
    """List the rows that were not trained with what the caption says, by what they were trained with."""
    rows_of: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if entry.budget:
            rows_of.setdefault(" and ".join(entry.budget), {}).setdefault(entry.pair, []).append(entry.row.label)
    for budget, pairs in rows_of.items():
        which = "; ".join(f"{pair}: {', '.join(labels)}" for pair, labels in pairs.items())
        yield f"§ Trained with another budget, {budget}: {which}."


def _provenance_notes(evaluations: list[Evaluation]) -> Iterator[str]:
    """Say in what the cells' code, software or machines differ: a table compares best what was made alike."""
    cells = _cells(evaluations)
    differences = {
        "commits": {cell["commit"] for cell in cells},
        "versions": {_joined(cell["versions"]) for cell in cells},
        "devices": {cell["device"] for cell in cells},
        "numbers of threads": {str(cell["threads"]) for cell in cells},
        "precisions": {cell["computed_in"] for cell in cells},
    }
    for what, values in differences.items():
        if len(values) > 1:
            yield f"Cells were made with several {what}: {' | '.join(sorted(values))} (each in cells.csv)."


def _publication_notes(results: Results) -> Iterator[str]:
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
    """Name the methods whose rows have inherited values; "kd with stand" where only the rows with stand have them."""
    marked: dict[str, set[bool]] = {}
    for name, recipe in card["recipes"].items():
        parts = name.split("-")
        if any("inherited" in source for _, source in recipe.values()):
            marked.setdefault(parts[2], set()).add("True" in parts)
    return [f"{method} with stand" if stands == {True} else method for method, stands in sorted(marked.items())]


def _stand_changes(card: Card, method: str, pair: str) -> str:
    """Return "and temperature (4 to 2)" or "alone".

    Empty where the matrix lacks rows with or without stand, or stand changes the z-score alone for all methods.
    """
    recipes: dict[bool, dict[str, Any]] = {}
    for name, recipe in card["recipes"].items():
        parts = name.removeprefix(f"{pair}-").split("-")
        if name.startswith(f"{pair}-{method}-") and len(parts) == 4:
            recipes.setdefault(parts[2] == "True", recipe)
    if len(recipes) < 2 or card["stand_recipe"] == "matched":
        return ""
    changes = ", ".join(_changes(recipes[False], recipes[True]))
    return f"and {changes}" if changes else "alone"


def _scale_changes(card: Card, method: str, pair: str) -> str:
    """Return what rows with regions change of the plain row's recipe; empty where the matrix has no plain row."""
    scales = sorted(card["scales"], key=by_size)
    if levels(scales[0]) != (1,):
        return ""
    names = [f"{pair}-{method}-{scale}-False-{card['seeds'][0]}" for scale in scales]
    plain, *others = (card["recipes"].get(name, {}) for name in names)
    return ", ".join(dict.fromkeys(change for other in others for change in _changes(plain, other)))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key, (value, _) in after.items():
        if key in before and before[key][0] != value:
            yield f"{key} ({_short(before[key][0])} to {_short(value)})"


def _exception(exception: dict[str, Any]) -> str:
    """Write an exception of params.yaml in words: "students mobilenetv2, vgg8: lr 0.01"."""
    which = " and ".join(f"{key} {', '.join(exception[key])}" for key in SELECTORS if key in exception)
    return f"{which}: {', '.join(f'{key} {value}' for key, value in exception.items() if key not in SELECTORS)}"


def _gains(card: Card) -> str:
    has_plain = False in card["stand"] and any(levels(scale) == (1,) for scale in card["scales"])
    if not has_plain or len(card["scales"]) * len(card["stand"]) < 2:
        return ""
    return f"In parentheses, the gain over the method's plain row{_bold(card)}. "


def _axes(card: Card) -> str:
    """Explain M and stand, where the matrix has rows with them."""
    has_regions = any(levels(scale) != (1,) for scale in card["scales"])
    return AXES if card["methods"] and (has_regions or True in card["stand"]) else ""


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
    classes = " or ".join(sorted({str(evaluation["classes"]) for evaluation in evaluations}))
    return f"a part of {card['data']}" + (f" ({classes} classes)" if classes else "")


def _cells(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    return [cell for evaluation in evaluations for cell in evaluation["cells"]]


def counted(number: int, what: str) -> str:
    """Return "1 cell" or "3 cells"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _cost(network: dict[str, Any]) -> str:
    return f"{network['parameters'] / 1e6:.2f} M parameters, {network['multiply_adds'] / 1e6:.1f} M multiply-adds"
