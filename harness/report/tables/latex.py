"""Tables as LaTeX that any engine compiles: the structure by pandas' Styler, symbols as commands."""

from __future__ import annotations

import unicodedata
from typing import Protocol

import pandas as pd

from harness.report.tables.numbers import DASH


class Tabular(Protocol):
    """A table to typeset: its name, caption and cells, which columns are numbers, and which cells are bold."""

    @property
    def name(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def text(self) -> pd.DataFrame: ...
    @property
    def numeric(self) -> set[str]: ...
    @property
    def strong(self) -> frozenset[tuple[int, str]]: ...


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\n": " ",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "†": r"\textsuperscript{\textdagger}",
    "§": r"\textsection{}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "“": "``",
    "”": "''",
    "’": "'",
    "\N{THIN SPACE}": r"\,",
    "\N{NO-BREAK SPACE}": "~",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "η": r"$\eta$",
    "ρ": r"$\rho$",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "μ": r"$\mu$",
    "µ": r"$\mu$",
    "Δ": r"$\Delta$",
    "→": r"$\to$",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
}
LATEX_COMMANDS = str.maketrans(LATEX)
LONG = 45
"""Tables with at least this many lines may break across pages."""
MOST_LINES = 500
"""Most lines of a LaTeX table: a paper has no use for more, and the CSV file has them all."""
WRAPPED = 24
"""Cells with more characters than this are broken into lines."""
NEEDS_SMALL = "% needs \\usepackage{booktabs,graphicx}; a table wider than the text is shrunk to it"
NEEDS_LONG = "% needs \\usepackage{booktabs,longtable}; breaks over pages: if too wide, set it in landscape"


def latex_escape(text: str) -> str:
    """`text` as LaTeX that any engine compiles: known symbols as commands, other non-ASCII by its nearest ASCII."""
    escaped = text.translate(LATEX_COMMANDS)
    if escaped.isascii() and escaped.isprintable():
        return escaped
    return "".join(c if c.isascii() and c.isprintable() else _ascii(c) for c in escaped)


def _ascii(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    plain = "".join(c for c in plain if c.isprintable())
    return "".join(LATEX.get(c, c) for c in plain) or f"[U+{ord(character):04X}]"


def _head(column: str, side: str) -> str:
    """A column's name, its words stacked."""
    words = [latex_escape(word) for word in column.replace("/", "/ ").split()]
    stacked = r"\\".join(words)
    return rf"\shortstack[{side}]{{{stacked}}}" if len(words) > 1 else f"{{{stacked}}}"


def _wrapped(text: str) -> str:
    """A cell's text in braces; long text (mostly a status) is broken into lines, to fit the page."""
    escaped = latex_escape(text)
    if len(text) > WRAPPED:
        escaped = rf"\parbox[t]{{{WRAPPED // 2}em}}{{\raggedright {escaped}\strut}}"
    return f"{{{escaped}}}"


def latex(table: Tabular) -> str:
    """The table as a float, shrunk to the text's width if necessary; from :data:`LONG` lines on a longtable."""
    columns = list(table.text.columns)
    if not columns:
        return "% no rows\n"
    shown = table.text.head(MOST_LINES)
    cells = [
        [_cell(table, line, column, value) for column, value in zip(columns, values, strict=True)]
        for line, values in enumerate(shown.itertuples(index=False))
    ]
    heads = [_head(column, "r" if column in table.numeric else "l") for column in columns]
    shape = "".join("r" if column in table.numeric else "l" for column in columns)
    styler = pd.DataFrame(cells, columns=range(len(columns))).style.hide(axis="index")
    styler = styler.format_index(lambda place: heads[int(str(place))], axis="columns")
    caption = latex_escape(table.caption)
    left_out = len(table.text) - len(shown)
    more = f"% without {left_out} more rows: {table.name}.csv has all\n" if left_out else ""
    if len(shown) >= LONG:
        body = styler.to_latex(environment="longtable", column_format=shape, caption=caption, hrules=True)
        return (
            f"{NEEDS_LONG}\n{more}"
            "{\\scriptsize\\setlength{\\tabcolsep}{2pt}\n\\setlength{\\LTcapwidth}{\\textwidth}\n"
            f"{body}}}\n"
        )
    body = styler.to_latex(column_format=shape, hrules=True).rstrip()
    return (
        f"{NEEDS_SMALL}\n{more}\\begin{{table}}\n\\centering\\scriptsize\\setlength{{\\tabcolsep}}{{2pt}}\n"
        f"\\caption{{{caption}}}\\smallskip\n\\sbox0{{{body}}}%\n"
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi\n\\end{table}\n"
    )


def _cell(table: Tabular, line: int, column: str, value: object) -> str:
    """A cell's text in braces, since a line that opens with a bracket would be read as the option of the break before
    it."""
    text = _wrapped(value if isinstance(value, str) else DASH)
    return rf"\textbf{text}" if (line, column) in table.strong else text
