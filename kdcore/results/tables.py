"""The tables of a paper: Markdown, LaTeX, CSV, and metrics for DVC."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdcore import catalog
from kdcore.matrix.cell import BASE
from kdcore.results import captions, probed
from kdcore.results.ablation import Ablation, ablations
from kdcore.results.diagnostics import summary
from kdcore.results.entry import EXCLUDED, KD, OVER, PLAIN, STUDENT, Entry, Gain
from kdcore.results.robustness import tables as robustness
from kdcore.results.row import GROUPS, Card, Row, by_size, common_label, in_words, rows
from kdcore.results.rows import Results, reasons
from kdcore.results.typeset import PREVIEW, Table, latex, markdown
from kdcore.system import csvfile
from kdcore.system.files import write_json

SHA256_DIGITS = 12
NOTHING = "–"
"""Where the matrix declares nothing, or nothing was published."""
IDENTICAL, DISTINCT = "identical structures", "distinct structures"
ABLATION = "ablation over M"
Field = tuple[str, bool]
"""A text, and whether it is bold."""


def tables(results: Results) -> list[Table]:
    """Make all tables: of pairs from one network family and of pairs from two, gains over the student and over KD,
    ablations over M and over the numbers that variants vary, and what linear probes measured on other data sets.
    """
    kinds: dict[str, list[str]] = {}
    for pair in results.card["pairs"]:
        kinds.setdefault(_kind(pair, results.card), []).append(pair)
    by_kind = [_pair_table(name, results, kinds[name]) for name in (IDENTICAL, DISTINCT) if name in kinds]
    gains = [table for kind in (STUDENT, KD) if (table := _gain_table(results, kind)) is not None]
    over_m = [_ablation_over_m(results)] if len(results.card["scales"]) > 1 else []
    over_numbers = [_ablation(results, ablation) for ablation in ablations(results)]
    probes = [_pair_table(probed.title(*of), one, results.card["pairs"]) for of, one in results.transfer.items()]
    return [*by_kind, *gains, *over_m, *over_numbers, *probes]


def write(results: Results, folder: Path) -> None:
    """Write every table into a folder."""
    data, all_tables = results.card["data"], tables(results)
    title, remarks = captions.caption(results.card, results.evaluations), captions.notes(results)
    for name, text in {
        f"{data}.md": markdown(all_tables, title, remarks),
        f"{data}.tex": latex(all_tables, title, remarks, captions.marks(results)),
        "preview.tex": PREVIEW % data,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    frames = {data: numbers(results), "cells": cells(results)}
    if results.transfer:
        frames["transfer"] = pd.concat([_numbers_of_probe(*of, one) for of, one in results.transfer.items()])
    for name, frame in frames.items():
        csvfile.write(folder / f"{name}.csv", frame)
    if results.diagnoses:
        csvfile.write(folder / "diagnostics.csv", summary.numbers(results))
    write_json(folder / "metrics.json", {**metrics(results), **robustness.metrics(results)})


def numbers(results: Results) -> pd.DataFrame:
    """Return the tables as numbers, one line per row and pair."""
    lines = []
    for entry in results.entries:
        figure = entry.figure
        lines.append(
            {
                "pair": entry.pair,
                "row": entry.row.label,
                "method": entry.row.method,
                "M": entry.row.levels and " ".join(map(str, entry.row.levels)),
                "stand": entry.row.stand,
                "variant": entry.row.variant,
                "top1_mean": entry.mean,
                "top1_std": entry.deviation,
                "n": len(entry.values),
                "missing": len(entry.missing),
                "excluded": len(entry.excluded),
                "budget": "; ".join(entry.budget),
                **_gain_columns(entry),
                "below_student": entry.is_below_student,
                "published": figure and figure.top1,
                "published_source": figure and figure.source,
                "published_doubt": figure and figure.doubt,
                "difference": entry.difference,
                "within_noise": entry.is_within_noise,
            }
        )
    return pd.DataFrame(lines)


def _numbers_of_probe(target: str, protocol: str, results: Results) -> pd.DataFrame:
    frame = numbers(results)
    return pd.DataFrame({"target": target, "protocol": protocol, **frame.to_dict("series")}, index=frame.index)


def _gain_columns(entry: Entry) -> dict[str, Any]:
    """Return the gains of every kind: points, what they are over, half the confidence interval, and p."""
    found: dict[str, Any] = {}
    for kind in OVER:
        gain, prefix = entry.gains.get(kind), "gain" if kind == PLAIN else f"gain_over_{kind}"
        compared = gain and gain.compared
        found |= {
            f"gain_over_{kind}": gain and gain.points,
            f"{prefix}_reference": gain and gain.over.label,
            f"{prefix}_n": gain and (gain.shared or len(entry.values)),
            f"{prefix}_margin": compared and compared.margin,
            f"{prefix}_p": compared and compared.p,
            f"{prefix}_p_adjusted": gain and gain.adjusted,
            f"{prefix}_supported": gain is not None and gain.is_supported,
        }
    return found


def cells(results: Results) -> pd.DataFrame:
    """Return every cell that has a result, with its metrics, recipe, the sources of its values, and provenance."""
    lines = []
    changes = {name: entry.row.change for entry in results.entries for name in results.cells_of(entry)}
    for evaluation in results.evaluations:
        for cell in evaluation["cells"]:
            recipe = "; ".join(f"{key}={value}" for key, value in cell["recipe"].items())
            resolved = results.card["recipes"][cell["name"]]
            sources = "; ".join(f"{key}: {source}" for key, (_, source) in resolved.items())
            versions = "; ".join(f"{name} {version}" for name, version in cell["versions"].items())
            line = {
                **cell,
                "change": changes.get(cell["name"], ""),
                "recipe": recipe,
                "recipe_sources": sources,
                "versions": versions,
                **{key: cell.get("cost", evaluation["student"])[key] for key in ("parameters", "multiply_adds")},
            }
            if "levels" in line:
                line |= {"scale": str(line["scale"]), "levels": " ".join(map(str, line["levels"]))}
            line = {key: value for key, value in line.items() if key not in ("reliability", "accepted", "cost")}
            lines.append({**line, "accepted": "; ".join(reasons(cell))})
    return pd.DataFrame(lines)


def metrics(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Return means over seeds per pair and method, under keys that two revisions share whatever their matrices.

    `plain` is the row with M=[1] and without standardisation; baselines have no other. `headline` is the row with the
    highest scale of the matrix, standardised if the matrix has stand. Both are without a variant. `rows` has all of the
    method's rows that the pair has (see `Row.key`). Percent, rounded to hundredths; None where the matrix has no such
    row, a seed of it is missing, or all are excluded.

    Under `transfer` are the same means of linear probes, by target and protocol, where there are any. Under `teachers`
    is each teacher's accuracy, with where its weights came from: the path or address of a checkpoint
    with the first digits of its sha256, or that it was trained here.
    """
    highest = max(results.card["scales"], key=by_size)
    headline = (highest, True in results.card["stand"])
    means: dict[str, dict[str, dict[str, Any]]] = {"teachers": _teachers(results)}
    for entry in results.entries:
        row = entry.row
        if row.method is None:
            continue
        empty: dict[str, Any] = {"plain": None} if row.scale is None else {"plain": None, "headline": None}
        values = means.setdefault(entry.pair, {}).setdefault(row.method, {**empty, "rows": {}})
        hundredths = None if entry.mean is None else round(entry.mean, 2)
        values["rows"][row.key] = hundredths
        if row.variant == BASE and (row.scale is None or row.is_plain):
            values["plain"] = hundredths
        if row.variant == BASE and (row.scale, row.stand) == headline:
            values["headline"] = hundredths
    for (target, protocol), one in results.transfer.items():
        means.setdefault("transfer", {}).setdefault(target, {})[protocol] = metrics(one)
    return means


def _teachers(results: Results) -> dict[str, dict[str, float | str | None]]:
    checkpoints = results.card.get("checkpoints", {})
    found: dict[str, dict[str, float | str | None]] = {}
    for evaluation in results.evaluations:
        name = evaluation["pair"].partition("-")[0]
        top1, adopted = round(evaluation["teacher"]["top1"], 2), checkpoints.get(name)
        if adopted is None:
            found[name] = {"top1": top1, "origin": results.card["teachers"][name]}
        else:
            found[name] = {"top1": top1, "origin": adopted["origin"], "sha256": adopted["sha256"][:SHA256_DIGITS]}
    return found


def _kind(pair: str, card: Card) -> str:
    named, known, families = card.get("networks", {}), catalog.networks(), card.get("families", {})
    own = [named.get(name, name) for name in pair.split("-")]
    teacher, student = (families[name] if name in families else known[name].module for name in own)
    return IDENTICAL if teacher == student else DISTINCT


def _table(name: str, columns: Mapping[tuple[str, str], Mapping[str, Field]], lines: list[str]) -> Table:
    """Put a table together from its columns; where one has no field in a line, it has a dash."""
    filled = {head: [fields.get(line, (NOTHING, False)) for line in lines] for head, fields in columns.items()}
    text = {head: [text for text, _ in fields] for head, fields in filled.items()}
    bold = {head: [bold for _, bold in fields] for head, fields in filled.items()}
    return Table(name, pd.DataFrame(text, index=lines), pd.DataFrame(bold, index=lines))


def _table_of_rows(name: str, columns: Mapping[tuple[str, str], Mapping[str, Field]], shown: list[Row]) -> Table:
    """Put a table together whose lines are rows, under the titles of their groups if there are several methods'."""
    table = _table(name, columns, [row.label for row in shown])
    titles = [GROUPS[row.group] for row in shown]
    return replace(table, groups=titles) if len({*titles} - {GROUPS["alone"]}) > 1 else table


def _pair_table(name: str, results: Results, pairs: list[str]) -> Table:
    """Make a table of rows x pairs: what was measured and, where there is something, what was published."""
    columns: dict[tuple[str, str], dict[str, Field]] = {}
    for pair in pairs:
        entries = results.entries_of(pair)
        has_figures = any(entry.figure is not None for entry in entries)
        measured = {entry.row.label: _measured(entry, results.card, entry.gains.get(PLAIN)) for entry in entries}
        columns[pair, "measured" if has_figures else ""] = measured
        if has_figures:
            columns[pair, "published"] = {entry.row.label: (_published(entry), False) for entry in entries}
    return _table_of_rows(name, columns, rows(results.card))


def _gain_table(results: Results, kind: str) -> Table | None:
    """Make a table of gains, rows x pairs; None where it would hold nothing that other tables do not."""
    gained = {entry.row for entry in results.entries if kind in entry.gains}
    if {row.method for row in gained} <= {"kd" if kind == KD else catalog.VANILLA}:
        return None
    columns: dict[tuple[str, str], dict[str, Field]] = {}
    for entry in results.entries:
        if entry.row in gained:
            gain = entry.gains.get(kind)
            text = (entry.lacks or NOTHING) if gain is None else f"{gain.points:+.2f}{gain.n}{entry.signs}"
            column = columns.setdefault((entry.pair, ""), {})
            column[entry.row.label] = text, gain is not None and gain.is_supported
    shown = [row for row in rows(results.card) if row in gained]
    return _table_of_rows(f"gains over {OVER[kind]}, in percentage points", columns, shown)


def _ablation_over_m(results: Results) -> Table:
    """Make the table with a line per pair, method, stand and variant, and a column per scale."""
    groups: dict[tuple[str, str | None, bool | None, str], list[Entry]] = {}
    for entry in results.entries:
        if entry.row.levels is not None:
            key = entry.pair, entry.row.method, entry.row.stand, entry.row.variant
            groups.setdefault(key, []).append(entry)
    columns: dict[tuple[str, str], dict[str, Field]] = {}
    lines = []
    for (pair, _, _, variant), entries in groups.items():
        if variant == BASE or len(entries) > 1:
            lines.append(f"{pair} {common_label(entry.row for entry in entries)}")
            for entry in entries:
                field = _measured(entry, results.card, entry.gains.get(PLAIN))
                columns.setdefault((f"M={entry.row.m}", ""), {})[lines[-1]] = field
    return _table(ABLATION, columns, lines)


def _ablation(results: Results, ablation: Ablation) -> Table:
    """Make the table with a line for all that an ablation leaves alone, and a column per value."""
    columns = {
        (in_words({ablation.name: value}), ""): {
            f"{line.pair} {line.label}": _measured(line.entries[value], results.card, line.change_at(value))
            if value in line.entries
            else (EXCLUDED, False)
            for line in ablation.lines
            if value in line.entries or value in line.excluded
        }
        for value in ablation.ticks
    }
    return _table(f"ablation over {ablation.key}", columns, [f"{line.pair} {line.label}" for line in ablation.lines])


def _measured(entry: Entry, card: Card, gain: Gain | None) -> Field:
    """Write mean ± deviation (gain), n where it is not the caption's, and the row's marks."""
    if entry.mean is None:
        return entry.lacks, False
    text = f"{entry.mean:.2f}" + ("" if entry.deviation is None else f" ± {entry.deviation:.2f}")
    if gain is not None:
        text += f" ({gain.points:+.2f}{gain.n if gain.shared != entry.seeds else ''})"
    is_short = entry.row.method is not None and entry.seeds < len(card["seeds"])
    return text + (f", n = {entry.seeds}" if is_short else "") + entry.signs, gain is not None and gain.is_supported


def _published(entry: Entry) -> str:
    """Write the published figure, † where it is doubtful, and (measured minus published)."""
    if entry.figure is None:
        return NOTHING
    text = f"{entry.figure.top1:.2f}" + ("†" if entry.figure.doubt else "")
    if entry.difference is None:
        return text
    return f"{text} ({entry.difference:+.2f}{' ≈' if entry.is_within_noise else ''})"
