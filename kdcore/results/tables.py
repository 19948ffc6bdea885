"""The tables of a paper: Markdown, LaTeX, CSV, and metrics for DVC."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd

from kdcore import catalog
from kdcore.results import captions
from kdcore.results.rows import Card, Entry, Results, by_size, reasons
from kdcore.system import csvfile
from kdcore.system.files import write_json

SHA256_DIGITS = 12
MISSING = "missing"
NOTHING = "–"
"""Where the matrix declares nothing, or nothing was published."""
IDENTICAL, DISTINCT = "identical structures", "distinct structures"
ABLATION = "ablation over M"
LATEX = {"±": r"$\pm$", "–": "--", "≈": r"$\approx$", "†": r"$^\dagger$", "§": r"\S", "<": "$<$", "(-": "($-$"}
"""Characters that the fonts of plain LaTeX lack, and commands for them."""
ESCAPED = {
    "\\": "/",
    **{character: f"\\{character}" for character in "&%#_{}$"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
"""Characters that LaTeX reads as commands; the backslash of a path becomes a stroke."""
LATEX_PAIRS, LATEX_COLUMNS = 3, 5
"""How many pairs with published figures, and how many columns without, are as wide as a page."""
PREVIEW = r"""\documentclass{article}
\usepackage{booktabs}
\usepackage[a4paper, landscape, margin=1cm]{geometry}
\begin{document}
\input{%s}
\end{document}
"""
"""A document around a file of tables."""


@dataclass(frozen=True)
class Table:
    """One table, as text."""

    name: str
    """Which rows and columns it holds, for its caption."""
    text: pd.DataFrame
    bold: pd.DataFrame
    """Whether seeds support the gain in each field of `text`."""


def tables(results: Results) -> list[Table]:
    """Make a table of pairs from one network family, one of pairs from two, and, for several scales, the ablation."""
    kinds: dict[str, list[str]] = {}
    for pair in results.card["pairs"]:
        kinds.setdefault(_kind(pair, results.card), []).append(pair)
    by_kind = [_pair_table(name, results, kinds[name]) for name in (IDENTICAL, DISTINCT) if name in kinds]
    return [*by_kind, *([_ablation(results)] if len(results.card["scales"]) > 1 else [])]


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
    for name, frame in {data: numbers(results), "cells": cells(results)}.items():
        csvfile.write(folder / f"{name}.csv", frame)
    write_json(folder / "metrics.json", metrics(results))


def numbers(results: Results) -> pd.DataFrame:
    """Return the tables as numbers, one line per row and pair."""
    lines = []
    for entry in results.entries:
        figure, compared = entry.figure, entry.compared
        lines.append(
            {
                "pair": entry.pair,
                "row": entry.row.label,
                "method": entry.row.method,
                "M": entry.row.levels and " ".join(map(str, entry.row.levels)),
                "stand": entry.row.stand,
                "top1_mean": entry.mean,
                "top1_std": entry.deviation,
                "n": len(entry.values),
                "missing": len(entry.missing),
                "budget": "; ".join(entry.budget),
                "gain_over_plain": entry.gain,
                "gain_margin": compared and compared.margin,
                "gain_p": compared and compared.p,
                "gain_p_adjusted": entry.adjusted,
                "gain_supported": entry.is_significant,
                "published": figure and figure.top1,
                "published_source": figure and figure.source,
                "published_doubt": figure and figure.doubt,
                "difference": entry.difference,
                "within_noise": entry.is_within_noise,
            }
        )
    return pd.DataFrame(lines)


def cells(results: Results) -> pd.DataFrame:
    """Return every cell that has a result, with its metrics, recipe, the sources of its values, and provenance."""
    lines = []
    for evaluation in results.evaluations:
        for cell in evaluation["cells"]:
            recipe = "; ".join(f"{key}={value}" for key, value in cell["recipe"].items())
            resolved = results.card["recipes"][cell["name"]]
            sources = "; ".join(f"{key}: {source}" for key, (_, source) in resolved.items())
            versions = "; ".join(f"{name} {version}" for name, version in cell["versions"].items())
            line = {**cell, "recipe": recipe, "recipe_sources": sources, "versions": versions}
            if "levels" in line:
                line |= {"scale": str(line["scale"]), "levels": " ".join(map(str, line["levels"]))}
            line = {key: value for key, value in line.items() if key not in ("reliability", "accepted")}
            lines.append({**line, "accepted": "; ".join(reasons(cell))})
    return pd.DataFrame(lines)


def metrics(results: Results) -> dict[str, dict[str, dict[str, float | str | None]]]:
    """Return means over seeds per pair and method, under keys that two revisions share whatever their matrices.

    `plain` is the row with M=[1] and without standardisation; baselines have no other. `headline` is the row with the
    highest scale of the matrix, standardised if the matrix has stand. Percent, rounded to hundredths; None where the
    matrix has no such row, or a seed of it is missing.

    Under `teachers` is each teacher's accuracy, with where its weights came from: the path or address of a checkpoint
    with the first digits of its sha256, or that it was trained here.
    """
    highest = max(results.card["scales"], key=by_size)
    headline = (highest, True in results.card["stand"])
    means: dict[str, dict[str, dict[str, float | str | None]]] = {"teachers": _teachers(results)}
    for entry in results.entries:
        if entry.row.method is None:
            continue
        values = means.setdefault(entry.pair, {}).setdefault(entry.row.method, {"plain": None})
        hundredths = None if entry.mean is None else round(entry.mean, 2)
        if entry.row.scale is None or entry.row.is_plain:
            values["plain"] = hundredths
        if entry.row.scale is not None:
            values.setdefault("headline", None)
        if (entry.row.scale, entry.row.stand) == headline:
            values["headline"] = hundredths
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


def markdown(all_tables: list[Table], caption: str, remarks: list[str]) -> str:
    """Return the tables for a README or an issue."""
    parts = [caption, ""]
    for table in all_tables:
        text = table.text.where(~table.bold, "**" + table.text + "**")
        text.columns = pd.Index([" ".join(column).strip() for column in text.columns])
        parts += [f"### {table.name[0].upper()}{table.name[1:]}", ""] if len(all_tables) > 1 else []
        parts += [text.to_markdown(stralign="left", disable_numparse=True), ""]
    return "\n".join([*parts, *(f"- {remark}" for remark in remarks), ""])


def latex(all_tables: list[Table], caption: str, remarks: list[str], marks: list[str]) -> str:
    """Return the tables for a paper; they need the package booktabs, nothing else.

    Args:
        all_tables: the tables; one with more pairs than fit on a page becomes several environments `table`.
        caption: the caption of every table, after its name.
        remarks: all notes, kept as comments.
        marks: the notes that explain symbols in the tables, printed below the last one.
    """
    parts = ["".join(f"% {' '.join(remark.split())}\n" for remark in remarks)]
    for table in all_tables:
        title = _escape(f"{table.name[0].upper()}{table.name[1:]}. {caption}")
        parts += [_latex(table.text[columns], table.bold[columns], title) for columns in _pages(table)]
    below = "".join(f"\\par {_escape(' '.join(mark.split()))}\n" for mark in marks)
    text = "\n".join(parts)
    if below:
        head, end, tail = text.rpartition("\\end{table}")
        text = f"{head}\\par\\medskip\\footnotesize\n{below}{end}{tail}"
    for symbol, command in LATEX.items():
        text = text.replace(symbol, command)
    return text


def _pages(table: Table) -> list[list[tuple[str, str]]]:
    """Return the columns that fit beside each other, page by page."""
    columns = cast(list[tuple[str, str]], list(table.text.columns))
    groups = list(dict.fromkeys(first for first, _ in columns))
    size = LATEX_PAIRS if any(second for _, second in columns) else LATEX_COLUMNS
    chosen = [groups[i : i + size] for i in range(0, len(groups), size)]
    return [[column for column in columns if column[0] in page] for page in chosen]


def _latex(text: pd.DataFrame, bold: pd.DataFrame, caption: str) -> str:
    style = text.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    weights = bold.map(lambda supported: "textbf:--rwrap;" if supported else "")
    return style.apply(lambda _: weights, axis=None).to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        caption=caption,
        column_format="l" + "c" * text.shape[1],
        multicol_align="c",
    )


def _kind(pair: str, card: Card) -> str:
    named, known = card.get("networks", {}), catalog.networks()
    teacher, student = (known[named.get(name, name)].module for name in pair.split("-"))
    return IDENTICAL if teacher == student else DISTINCT


def _pair_table(name: str, results: Results, pairs: list[str]) -> Table:
    """Make a table of rows x pairs: what was measured and, where there is something, what was published."""
    text: dict[tuple[str, str], dict[str, str]] = {}
    bold: dict[tuple[str, str], dict[str, bool]] = {}
    for pair in pairs:
        entries = results.entries_of(pair)
        columns = [("", _measured)]
        if any(entry.figure is not None for entry in entries):
            columns = [("measured", _measured), ("published", _published)]
        for title, shown in columns:
            text[pair, title] = {entry.row.label: shown(entry) for entry in entries}
            bold[pair, title] = {entry.row.label: entry.is_significant and shown is _measured for entry in entries}
    return Table(name, pd.DataFrame(text), pd.DataFrame(bold))


def _ablation(results: Results) -> Table:
    """Make the table with a line per pair, method and stand, and a column per scale."""
    text: dict[tuple[str, str], dict[str, str]] = {}
    bold: dict[tuple[str, str], dict[str, bool]] = {}
    for entry in results.entries:
        if entry.row.levels is not None:
            column = f"M={entry.row.m}", ""
            line = f"{entry.pair} {str(entry.row.method).upper()}{' + stand' if entry.row.stand else ''}"
            text.setdefault(column, {})[line] = _measured(entry)
            bold.setdefault(column, {})[line] = entry.is_significant
    return Table(ABLATION, pd.DataFrame(text), pd.DataFrame(bold))


def _measured(entry: Entry) -> str:
    """Write mean ± deviation (gain over plain), and § where the budget is not the caption's."""
    if entry.mean is None:
        missing = len(entry.missing)
        return MISSING if missing == entry.seeds else f"{MISSING} ({missing} of {entry.seeds})"
    text = f"{entry.mean:.2f}" + ("" if entry.deviation is None else f" ± {entry.deviation:.2f}")
    return text + ("" if entry.gain is None else f" ({entry.gain:+.2f})") + (" §" if entry.budget else "")


def _published(entry: Entry) -> str:
    """Write the published figure, † where it is doubtful, and (measured minus published)."""
    if entry.figure is None:
        return NOTHING
    text = f"{entry.figure.top1:.2f}" + ("†" if entry.figure.doubt else "")
    if entry.difference is None:
        return text
    return f"{text} ({entry.difference:+.2f}{' ≈' if entry.is_within_noise else ''})"


def _escape(text: str) -> str:
    for character, command in ESCAPED.items():
        text = text.replace(character, command)
    return text
