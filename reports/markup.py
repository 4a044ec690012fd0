"""A table of text cells, and its Markdown and LaTeX forms. The HTML form is in the page template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What a filter of the page knows an element by: facet ("shape", "pass", "family", ...) to value, of several joined
# by SEPARATOR. An element is hidden when a facet that it has is filtered and none of its values is chosen.
Tags = Mapping[str, str]
SEPARATOR = "|"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "–": "--",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "°": r"\textdegree{}",
    "“": "``",
    "”": "''",
    "\n": " ",
}
# Longer cells, in characters, are broken into lines in LaTeX.
_LATEX_LINE = 40


@dataclass(frozen=True)
class Cell:
    """`note` is set smaller, under or after the text; `best` marks the best value of a column.

    `tags` of the first cell are those of its row; `link` is the id of what it leads to in a page.
    """

    text: str
    note: str = ""
    best: bool = False
    tags: Tags = field(default_factory=dict)
    link: str = ""


EMPTY = Cell("–")


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; all columns but the first are numbers unless `prose` names them by position.

    `tags` are those of the whole table, `column_tags` those of columns by position.
    """

    id: str  # kind, and where it has one direction, "-" and the direction
    title: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    prose: frozenset[int] = field(default_factory=frozenset)
    tags: Tags = field(default_factory=dict)
    column_tags: Mapping[int, Tags] = field(default_factory=dict)

    def is_text(self, column: int) -> bool:
        return column == 0 or column in self.prose


def latex_escape(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: Table, label: str) -> str:
    """A booktabs table under ``tab:<label>``; needs \\usepackage{array,booktabs}."""
    columns = "".join(_latex_column(table, column) for column in range(len(table.header)))
    header = [" & ".join(latex_escape(title) for title in table.header) + r" \\", r"\midrule"]
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{latex_escape(' '.join(filter(None, [table.title + '.', table.caption])))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *(header if any(table.header) else []),
        *(" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(table: Table) -> str:
    """A pipe table without its title."""
    rule = ["---" if table.is_text(column) else "---:" for column in range(len(table.header))]
    rows = [[markdown_text(title) for title in table.header], rule]
    rows += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _latex_column(table: Table, column: int) -> str:
    if not table.is_text(column):
        return "r"
    longest = max(len(row[column].text) for row in table.rows)
    return r">{\raggedright\arraybackslash}p{0.18\linewidth}" if longest > _LATEX_LINE else "l"


def _latex_cell(cell: Cell) -> str:
    text = latex_escape(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    return rf"{text} {{\scriptsize {latex_escape(cell.note)}}}" if cell.note else text


def markdown_text(text: str) -> str:
    """Text that Markdown sets as it stands, on one line."""
    for special in "\\|*_<>`":
        text = text.replace(special, f"\\{special}")
    return text.replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    if cell.best:
        text = f"**{text}**"
    return f"{text} ({markdown_text(cell.note)})" if cell.note else text
