"""Numbers and tables as text."""

import pytest

from reports import formatting
from reports.markup import Cell, Table, latex_escape, to_latex, to_markdown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04125, "0.0413"), (1.234, "1.23"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12,346"), (0, "0")],
)
def test_times_keep_three_significant_digits(value: float, text: str) -> None:
    assert formatting.significant(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0123, "0.012×"), (0.7, "0.70×"), (9.996, "10.0×"), (123.4, "123×")])
def test_speedups(value: float, text: str) -> None:
    assert formatting.ratio(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(8192, "8K"), (131072, "128K"), (1048576, "1M"), (512, "512"), (8117, "8,117")]
)
def test_token_counts(count: int, text: str) -> None:
    assert formatting.tokens(count) == text


def test_latex_specials_are_escaped() -> None:
    assert latex_escape("50% of a_b & {c} #1 $x^2 ~ \\") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\textasciicircum{}2 \textasciitilde{} \textbackslash{}"
    )


def test_a_latex_table_is_booktabs_with_every_cell() -> None:
    table = Table("t", "Time", ["Provider", "8K"], [[Cell("a_b"), Cell("1.5", "2×", best=True)]])
    latex = to_latex(table, "1-t")
    assert r"\begin{tabular}{lr}" in latex
    assert r"\label{tab:1-t}" in latex
    assert r"a\_b & \textbf{1.5} {\scriptsize 2$\times$} \\" in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")


def test_markdown_cells_cannot_break_the_table() -> None:
    table = Table("t", "", ["Reason"], [[Cell("a | b\nc")]])
    assert to_markdown(table).splitlines()[-1] == r"| a \| b c |"


def test_a_latex_table_without_titles_has_no_header_row() -> None:
    latex = to_latex(Table("t", "Environment", ["", ""], [[Cell("Temperature"), Cell("35 °C")]]), "t")
    assert r"\midrule" not in latex
    assert "\\toprule\nTemperature & 35 \\textdegree{}C \\\\\n\\bottomrule" in latex


def test_long_words_are_broken_into_lines_in_latex() -> None:
    rows = [[Cell("a"), Cell("short"), Cell("a reason of many words that no page is wide enough for")]]
    latex = to_latex(Table("t", "Reasons", ["A", "B", "C"], rows, prose=frozenset({1, 2})), "t")
    assert r"\begin{tabular}{ll>{\raggedright\arraybackslash}p{" in latex
