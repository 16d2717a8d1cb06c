"""A table twice: for machines and for readers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from harness.report.tables.latex import latex
from harness.report.tables.numbers import DASH

NAMES = frozenset({"method", "sampler", "base", "key", "value", "other", "timed on"})
"""Left-aligned columns; all others are numbers."""


@dataclass(frozen=True)
class Table:
    """A table twice: `values` for machines (CSV), `text` for readers (Markdown, LaTeX, page), with the same rows."""

    name: str
    note: str
    """What the columns mean."""
    values: pd.DataFrame
    text: pd.DataFrame
    strong: frozenset[tuple[int, str]] = field(default=frozenset())
    """The cells in bold: (row, column of `text`)."""
    conditions: str = ""
    """The conditions of every figure of its panel: shown once where several tables appear together."""

    @property
    def caption(self) -> str:
        """Note and conditions, for a reader who has only this table."""
        return f"{self.conditions} {self.note}".strip()

    @property
    def numeric(self) -> set[str]:
        """Right-aligned columns of the text: all but the names."""
        return set(self.text.columns) - NAMES

    @property
    def csv(self) -> str:
        return self.values.to_csv(index=False, lineterminator="\n", float_format="%.6g")

    @property
    def markdown(self) -> str:
        return f"{markdown_escape(self.caption)}\n\n{_markdown(self)}\n"

    @property
    def latex(self) -> str:
        return latex(self)


def _markdown(table: Table) -> str:
    columns = list(table.text.columns)
    if not columns:
        return "(no rows)"
    right = table.numeric
    lines = [
        "| " + " | ".join(markdown_escape(c) for c in columns) + " |",
        "|" + "|".join("--:" if c in right else ":--" for c in columns) + "|",
    ]
    for index, line in enumerate(table.text.itertuples(index=False)):
        cells = [markdown_escape(cell if isinstance(cell, str) else DASH) for cell in line]
        strong = [(index, column) in table.strong for column in columns]
        shown = [f"**{cell}**" if bold else cell for cell, bold in zip(cells, strong, strict=True)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


MARKDOWN = str.maketrans({**{character: f"\\{character}" for character in "\\|*_<>`[]$~"}, "\n": " "})


def markdown_escape(text: str) -> str:
    """`text` as Markdown that shows it literally."""
    return text.translate(MARKDOWN)
