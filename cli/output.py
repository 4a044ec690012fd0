"""Tables on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from bench.compare import Comparison
    from bench.records import Record
    from reports.study import Study

# Where the output is no terminal there is no width to fit; a table is then never cut.
_PLAIN_WIDTH = 160


def console() -> Console:
    """For standard output, created when needed so that a redirected stream is seen. Colour obeys NO_COLOR."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what starts now, steps done, steps in all): a bar on a terminal, one plain line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda message, done, total: print(f"[{done}/{total}] {message}", file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda message, done, total: bar.update(task, description=message, completed=done, total=total)


def print_speed(records: list[Record]) -> None:
    """Median times and speedups over dense attention, one table a workload; then what has no time, and why."""
    from bench.environment import environment_line
    from reports.study import group

    out = console()
    for study in group(records):
        shape = study.shape
        out.print(f"\n{study.workload}, {shape.heads} heads of width {shape.head_dim}, {shape.dtype}", markup=False)
        out.print(environment_line(study.environment), markup=False)
        if study.baseline is not None:
            out.print(f"speedup over {study.baseline}", markup=False)
        out.print(_speed_table(study))
    for line in _untimed(records):
        out.print(line, markup=False)


def print_comparison(comparison: Comparison) -> None:
    """Both sides, a row for each measurement, and the conclusion."""
    from cli import emit

    out = console()
    for line in emit.sides(comparison):
        out.print(line, markup=False)
    rows = emit.table(comparison)
    table = Table()
    for column, title in enumerate(rows.header):
        table.add_column(title, justify="left" if rows.is_text(column) else "right", overflow="fold")
    for row in rows.rows:
        table.add_row(*(escape(cell.text) for cell in row))
    out.print(table)
    out.print(emit.conclusion(comparison), markup=False, soft_wrap=True)


def _speed_table(study: Study) -> Table:
    from reports import formatting

    table = Table()
    table.add_column("tokens", justify="right")
    table.add_column("provider")
    for direction in study.directions:
        table.add_column(f"{direction} ms", justify="right")
        table.add_column("speedup", justify="right")
    table.add_column("peak MiB", justify="right")
    for tokens in study.tokens:
        for provider in study.providers:
            cells: list[str] = []
            peaks = []
            for direction in study.directions:
                time = study.time(provider, direction, tokens)
                speedup = study.speedup(provider, direction, tokens, study.baseline)
                cells.append("-" if time is None else formatting.significant(time))
                cells.append("-" if speedup is None else formatting.ratio(speedup))
                record = study.find(provider, direction, tokens)
                if record is not None and record.peak_memory_bytes is not None:
                    peaks.append(record.peak_memory_bytes)
            if set(cells) != {"-"}:
                peak = formatting.mebibytes(max(peaks)) if peaks else "-"
                table.add_row(formatting.tokens(tokens), provider, *cells, peak)
        table.add_section()
    return table


def _untimed(records: list[Record]) -> list[str]:
    """One line for each provider and reason without a time; sizes and passes that share the reason are joined."""
    found: dict[tuple[str, str, str, str], dict[int, list[str]]] = {}
    for record in records:
        if record.status != "ok":
            what = record.provider if record.stage == "total" else f"{record.provider} ({record.stage})"
            key = (what, record.workload.label, record.status.replace("_", " "), record.reason or "")
            found.setdefault(key, {}).setdefault(record.workload.tokens, []).append(record.direction)
    lines = []
    for (what, workload, status, reason), sizes in found.items():
        where = ", ".join(f"{tokens} {'/'.join(directions)}" for tokens, directions in sizes.items())
        lines.append(f"{what}, {workload}, {where}: {status}: {reason}")
    return lines
