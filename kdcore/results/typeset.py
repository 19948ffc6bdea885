"""Tables as Markdown and as LaTeX."""

import re
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from typing import cast

import pandas as pd

LATEX = {
    "±": r"$\pm$", "–": "--", "≈": r"$\approx$", "†": r"$^\dagger$", "§": r"\S", "↓": r"$\downarrow$", "<": "$<$",
    "(-": "($-$",
}  # fmt: skip
"""Characters that the fonts of plain LaTeX lack, and commands for them."""
ESCAPED = {
    "\\": "/",
    **{character: f"\\{character}" for character in "&%#_{}$"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
"""Characters that LaTeX reads as commands; the backslash of a path becomes a stroke."""
LATEX_WIDTH, LATEX_LINES = 142, 26
"""How many characters and how many lines of a table fit on a page on its side."""
GAP = 2
"""How many characters the space between two columns takes."""
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
    groups: list[str] = field(default_factory=list)
    """The title above each line, which is printed once above neighbours that share it; empty where there are none."""

    def part(self, columns: list[tuple[str, str]], lines: slice) -> "Table":
        """Return some columns of some lines."""
        return Table(self.name, self.text[columns].iloc[lines], self.bold[columns].iloc[lines], self.groups[lines])

    def with_titles(self, before: str = "", after: str = "") -> "Table":
        """Return the table with a line for each title, which holds the title between these texts, and nothing else."""
        if not self.groups:
            return self
        texts, bolds, first = [], [], 0
        for title, some in groupby(self.groups):
            lines = slice(first, first := first + len(list(some)))
            index = pd.Index([f"{before}{title}{after}"])
            texts += [pd.DataFrame("", index=index, columns=self.text.columns), self.text.iloc[lines]]
            bolds += [pd.DataFrame(False, index=index, columns=self.bold.columns), self.bold.iloc[lines]]
        return Table(self.name, pd.concat(texts), pd.concat(bolds))


def markdown(tables: list[Table], caption: str, remarks: list[str]) -> str:
    """Return the tables for a README or an issue."""
    parts = [caption, ""]
    for table in tables:
        titled = table.with_titles("**", "**")
        text = titled.text.where(~titled.bold, "**" + titled.text + "**")
        text.columns = pd.Index([" ".join(column).strip() for column in text.columns])
        parts += [f"### {table.name[0].upper()}{table.name[1:]}", ""] if len(tables) > 1 else []
        parts += [text.to_markdown(stralign="left", disable_numparse=True), ""]
    return "\n".join([*parts, *(f"- {remark}" for remark in remarks), ""])


def latex(tables: list[Table], caption: str, remarks: list[str], marks: list[str]) -> str:
    """Return the tables for a paper; they need the package booktabs, nothing else.

    Args:
        tables: the tables; one with more columns or lines than fit on a page becomes several environments `table`.
        caption: the caption of every table, after its name.
        remarks: all notes, kept as comments.
        marks: the notes that explain symbols in the tables, printed below the last one.
    """
    parts = ["".join(f"% {' '.join(remark.split())}\n" for remark in remarks)]
    for table in tables:
        title = _escape(f"{table.name[0].upper()}{table.name[1:]}. {caption}")
        for columns in _pages(table.text):
            count = ceil(len(table.text) / (LATEX_LINES - len(set(table.groups))))
            size = ceil(len(table.text) / count)  # so that no part has but a few lines
            for first in range(0, len(table.text), size):
                parts.append(_latex(table.part(columns, slice(first, first + size)), title))
    below = "".join(f"\\par {_escape(' '.join(mark.split()))}\n" for mark in marks)
    text = "\n".join(parts)
    if below:
        head, end, tail = text.rpartition("\\end{table}")
        text = f"{head}\\par\\medskip\\footnotesize\n{below}{end}{tail}"
    for symbol, command in LATEX.items():
        text = text.replace(symbol, command)
    return text


def _pages(text: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """Return the columns that fit beside each other, page by page; columns under one head stay together."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for column in cast(list[tuple[str, str]], list(text.columns)):
        groups.setdefault(column[0], []).append(column)
    room = LATEX_WIDTH - max(map(len, text.index))
    pages: list[list[tuple[str, str]]] = []
    left = 0
    for name, columns in groups.items():
        width = max(len(name) + GAP, sum(max(map(len, [column[1], *text[column]])) + GAP for column in columns))
        if width > left or not pages:
            pages.append([])
            left = room
        pages[-1] += columns
        left -= width
    return pages


def _latex(table: Table, caption: str) -> str:
    titled = table.with_titles()
    text, bold = titled.text, titled.bold
    style = text.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    weights = bold.map(lambda supported: "textbf:--rwrap;" if supported else "")
    made = style.apply(lambda _: weights, axis=None).to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        caption=caption,
        column_format="l" + "c" * text.shape[1],
        multicol_align="c",
    )
    for title in set(table.groups):
        alone = rf"\\multicolumn{{{text.shape[1] + 1}}}{{l}}{{\\textit{{{_escape(title)}}}}} \\\\"
        made = re.sub(rf"^{re.escape(_escape(title))}[ &]*\\\\$", alone, made, flags=re.MULTILINE)
    return made


def _escape(text: str) -> str:
    for character, command in ESCAPED.items():
        text = text.replace(character, command)
    return text
