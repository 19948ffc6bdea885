"""The caption and the notes of the tables: what the numbers are, and what a reader must know to compare them."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from kdcore.catalog import levels
from kdcore.matrix import train_images
from kdcore.matrix.cell import BASE
from kdcore.matrix.train_section import SELECTORS
from kdcore.results import gain_notes, probed, recipe_notes, regime_notes, tuning
from kdcore.results.entry import BUDGET, Entry
from kdcore.results.row import Card, Row, by_size, common_label, in_words, printed, recipe_of, rows
from kdcore.results.rows import Evaluation, Results, reasons, several_views
from kdcore.results.significance import ALPHA

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
    seeds = card["seeds"]
    over = f"mean ± sample standard deviation over n = {len(seeds)} seeds" if len(seeds) > 1 else "n = 1 seed"
    teachers = ", ".join(
        f"{name} ({origin})"
        for name, origin in card["teachers"].items()
        if name in {pair.split("-")[0] for pair in card["pairs"]}
    )
    return (
        f"Top-1 accuracy (%) on {_data(card, evaluations)} {protocol(card)}; {over}; "
        f"{counted(card['epochs'], 'epoch')} of {_images(card, evaluations)}. "
        f"{gain_notes.in_parentheses(card)}{_axes(card)}Teachers: {teachers}."
    )


def protocol(card: Card) -> str:
    """Say which epoch an accuracy was measured at, and which images chose it."""
    if card["accuracy"] == "top1":
        return "of the last epoch"
    among = f" of those that were measured ({recipe_notes.measured(card)})" if "evaluate_every" in card else ""
    images = _validation(card) if "validation" in card else "test images"
    return f"of the best epoch{among}, chosen on the {images} (teachers: the weights that taught)"


def _validation(card: Card) -> str:
    return f"validation images ({100 * card['validation']:g}% of the training images)"


def _images(card: Card, evaluations: list[Evaluation]) -> str:
    """Say how many images networks were trained on, and how many were left out of training for validation."""
    per_class = card.get("per_class")
    counts = {one["classes"] * per_class if per_class else one["train_images"] for one in evaluations}
    if card.get("share") or card.get("long_tail"):
        counts = {cell["images"] for cell in _cells(evaluations) if cell["variant"] == BASE and cell.get("images")}
    images = " or ".join(f"{count:,}" for count in sorted(counts)) or "the"
    each = f", {per_class} of each class" if per_class else ""
    each += f": {regime}" if (regime := train_images.in_words(card)) else ""
    kept = f"; the {_validation(card)} are not among them" if "validation" in card else ""
    return f"{images} training images{each}{kept}"


def notes(results: Results) -> list[str]:
    """List what a reader must know to compare: costs, what stand and SDD change, inherited values, published protocols
    and doubts, cells that are missing, have learnt nothing or were trained unlike the others.
    """
    card = results.card
    return [
        *_cost_notes(results),
        *_stand_notes(card),
        *_scale_notes(card),
        *_training_notes(card),
        *recipe_notes.notes(results),
        *regime_notes.notes(results),
        *tuning.notes(card),
        *_drawn_test_notes(card),
        *_provenance_notes(results.evaluations),
        *probed.notes(results),
        *marks(results),
    ]


def marks(results: Results) -> list[str]:
    """List the notes without which words, symbols and numbers in the tables cannot be understood."""
    return [
        *_variant_notes(results.card),
        *_missing_notes(results.entries),
        *_excluded_notes(results),
        *gain_notes.notes(results),
        *_collapse_notes(results.evaluations),
        *_accepted_notes(results),
        *_budget_notes(results.entries),
        *dict.fromkeys(note for one in (results, *results.transfer.values()) for note in _publication_notes(one)),
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
                yield f"{printed(method)}{where}", change


def _cost_notes(results: Results) -> Iterator[str]:
    for evaluation in results.evaluations:
        pair = evaluation["pair"]
        yield f"{pair}: teacher {_cost(evaluation['teacher'])}; student {_cost(evaluation['student'])}."
        for some, cost, _ in results.own_costs(pair):
            yield f"{pair}, {common_label(some)}: the evaluated student has {_cost(cost)}."


def _stand_notes(card: Card) -> Iterator[str]:
    for which, change in _by_method(card, _stand_changes):
        yield f"{which}: stand changes the z-score {change}."
    if card["stand_recipe"] == "matched" and True in card["stand"]:
        yield "stand changes the z-score alone (stand_recipe: matched), unlike publications."


def _scale_notes(card: Card) -> Iterator[str]:
    for which, change in _by_method(card, _scale_changes):
        yield f"{which}: SDD changes {change}."


def _training_notes(card: Card) -> Iterator[str]:
    inherited, of_all = _inherited(card)
    if inherited:
        which = "of every row" if of_all else ", ".join(inherited)
        yield f"Hyper-parameters inherited from another data set or method: {which}."
    for method in (*card["baselines"], *card["methods"]):
        views = several_views(method)
        if views:
            yield f"{printed(method)}: trained on {views}, with cross-entropy on both."
    if card["exceptions"]:
        yield f"Trained with other settings: {'; '.join(_exception(exception) for exception in card['exceptions'])}."
    if card.get("small_maps") or any(exception.get("small_maps") for exception in card["exceptions"]):
        yield "small_maps repeat: where a final map has fewer cells than the finest level, regions share cells."
    if card.get("augmentation") == "none":
        yield "Training images were seen without augmentation (train.augmentation: none)."
    if card["optimizer"] == "dot":
        yield "Optimizer: DOT, with separate momenta for the gradients of cross-entropy and of distillation."


def _missing_notes(entries: list[Entry]) -> Iterator[str]:
    missing = [entry for entry in entries if entry.missing and entry.row.method is not None]
    if missing:
        cells = sum(len(entry.missing) for entry in missing)
        yield f"Missing: {counted(cells, 'cell')} of {counted(len(missing), 'row')} have no result yet."


def _variant_notes(card: Card) -> Iterator[str]:
    """Say what the variants change whose names stand in the names of rows."""
    for name in sorted({row.variant for row in rows(card) if row.change == row.variant}):
        variant = card["variants"][name]
        yield f"{name}: {in_words({**_flat(variant['recipes']), **train_images.flat(variant['train'])})}."


def _flat(recipes: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipes.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _excluded_notes(results: Results) -> Iterator[str]:
    shown = [entry for entry in results.entries if entry.excluded]
    whole = [entry for entry in shown if not entry.declared]
    if whole:
        yield "excluded: params.yaml leaves these cells out (exclude); they are not trained."
    for seeds in dict.fromkeys(entry.excluded for entry in shown if entry.declared):
        which = "; ".join(f"{entry.pair}: {entry.row.label}" for entry in shown if entry.excluded == seeds)
        yield (
            f"n: the mean is over fewer seeds than the caption says, for params.yaml excludes {_seeds(seeds)}: {which}."
        )


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


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
        yield f"{BUDGET} Trained with another budget, {budget}: {which}."


def _drawn_test_notes(card: Card) -> Iterator[str]:
    """Say which teachers may have been trained on the test images, for these were drawn here."""
    if "test_share" in card and card.get("checkpoints"):
        yield (
            f"The test images, {100 * card['test_share']:g}% of each class, were drawn here (data.test_share), so "
            f"teachers from checkpoints may have been trained on them: {', '.join(sorted(card['checkpoints']))}."
        )


def _provenance_notes(evaluations: list[Evaluation]) -> Iterator[str]:
    """Say in what the cells' code, software or machines differ: a table compares best what was made alike."""
    cells = _cells(evaluations)
    differences = {
        "commits": {cell["commit"] for cell in cells},
        "versions": {_joined(cell["versions"]) for cell in cells},
        "devices": {cell["device"] for cell in cells},
        "numbers of threads": {str(cell["threads"]) for cell in cells},
        "precisions": {cell["computed_in"] for cell in cells},
        "ways to compute steps": {"compiled" if cell.get("compiled") == "yes" else "not compiled" for cell in cells},
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
            yield f"† Every figure from {about.title}: {about.doubt}."
    for entry in results.entries:
        figure = entry.figure
        if figure is not None and figure.doubt and figure.doubt != results.published.sources[figure.source].doubt:
            yield f"† {entry.row.label}, {entry.pair}, published {figure.top1:.2f}: {figure.doubt}."


def _inherited(card: Card) -> tuple[list[str], bool]:
    """Name the methods whose rows have inherited values: "kd with stand", or "kd with regions", where only those have.

    Returns:
        The names, and whether all rows have inherited values.
    """
    marked: dict[str, list[Row]] = {}
    of_all = True
    for row in rows(card)[1:]:
        recipes = [recipe_of(card, pair, row) for pair in card["pairs"]]
        if any("inherited" in source for recipe in recipes for _, source in recipe.values()):
            marked.setdefault(str(row.method), []).append(row)
        else:
            of_all = False
    names = []
    for method, found in sorted(marked.items()):
        regions = all(row.scale not in (None, 1) for row in found)
        names.append(method + (" with stand" if all(row.stand for row in found) else " with regions" * regions))
    return names, of_all


def _stand_changes(card: Card, method: str, pair: str) -> str:
    """Return "and temperature (4 to 2)" or "alone".

    Empty where the matrix lacks rows with or without stand, or stand changes the z-score alone for all methods.
    """
    for scale in sorted(card["scales"], key=by_size):
        without, with_stand = (recipe_of(card, pair, Row(method, scale, stand)) for stand in (False, True))
        if without and with_stand and card["stand_recipe"] != "matched":
            changes = ", ".join(_changes(without, with_stand))
            return f"and {changes}" if changes else "alone"
    return ""


def _scale_changes(card: Card, method: str, pair: str) -> str:
    """Return what rows with regions change of the plain row's recipe; empty where the matrix has no plain row."""
    scales = sorted(card["scales"], key=by_size)
    if levels(scales[0]) != (1,):
        return ""
    plain, *others = (recipe_of(card, pair, Row(method, scale, False)) for scale in scales)
    return ", ".join(dict.fromkeys(change for other in others for change in _changes(plain, other)))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key, (value, _) in after.items():
        if key in before and before[key][0] != value:
            yield f"{key} ({_short(before[key][0])} to {_short(value)})"


def _exception(exception: dict[str, Any]) -> str:
    """Write an exception of params.yaml in words: "students mobilenetv2, vgg8: lr 0.01"."""
    which = " and ".join(f"{key} {', '.join(map(str, exception[key]))}" for key in SELECTORS if key in exception)
    settings = train_images.flat({key: value for key, value in exception.items() if key not in SELECTORS})
    return f"{which}: {', '.join(f'{key} {value}' for key, value in settings.items())}"


def _axes(card: Card) -> str:
    """Explain M and stand, where the matrix has rows with them."""
    has_regions = any(levels(scale) != (1,) for scale in card["scales"])
    return AXES if card["methods"] and (has_regions or True in card["stand"]) else ""


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
