"""`ssabench history`: keep runs, and show how times changed over commits."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Direction, parse_tokens
from cli.output import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from bench.change_points import Changes
    from bench.records import Record
    from reports.history import Series

app = typer.Typer(no_args_is_help=True, help="Keep runs, and show how times changed over commits.")

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the kept runs, one file each.")]
_STORE = Path("out/history")


@app.callback()
def group() -> None:
    """Keep runs, and show how times changed over commits."""


@app.command("add")
def add(
    files: Annotated[list[Path], typer.Argument(help="Record files, or folders of *.jsonl files.", show_default=False)],
    store: StoreOption = _STORE,
) -> None:
    """Copy the runs of record files into the store. It only grows, and refuses a run that it has.

    \b
    ssabench history add speed.jsonl
    """
    from bench import store as runs
    from bench.records import read_records

    for path in runs.add(store, [record for file in files for record in read_records(file)]):
        print(path)


@app.command("show")
def show(
    provider: Annotated[
        list[str] | None, typer.Option(help="Provider, * allowed. Repeatable. Default: all.", show_default=False)
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="Workload, * allowed. Repeatable. Default: all.", show_default=False)
    ] = None,
    tokens: Annotated[
        list[str] | None, typer.Option(help="Token counts, e.g. 8K,32K. Repeatable. Default: all.", show_default=False)
    ] = None,
    direction: Annotated[
        list[Direction] | None, typer.Option(help="Pass. Repeatable. Default: all.", show_default=False)
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Branch, * allowed: cmp, select, slc, win. Repeatable. Default: total, the whole.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the series to this .png, .svg or .html file.", show_default=False)
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the records to this CSV file, one row each.", show_default=False)
    ] = None,
    store: StoreOption = _STORE,
) -> None:
    """Show each measurement over commits, and the commits where it became faster or slower.

    A series has one machine and software, workload and shape. Commits are in the order of the time of their first run;
    runs of one commit are one point, runs with local changes (marked +) a point each. Where the filters leave one
    series its points are listed. Changes are looked for in series of 8 points or more; with 1 % noise a step of 5 % is
    seen about four points after it.

    \b
    ssabench history show
    ssabench history show --provider ssa-triton --workload 'mesh:*' --tokens 32K --direction bwd --plot history.png
    """
    from bench.change_points import find_changes
    from bench.records import write_whole
    from bench.store import read
    from reports.history import to_series
    from reports.render import to_frame

    if plot is not None:
        from reports.timeline import check_plot_path

        check_plot_path(plot)
    records = _matching(read(store), "provider", provider, lambda record: record.provider)
    records = _matching(records, "workload", workload, lambda record: record.workload.label)
    counts = [str(count) for count in parse_tokens(tokens)] if tokens else None
    records = _matching(records, "tokens", counts, lambda record: str(record.workload.tokens))
    passes = [chosen.value for chosen in direction] if direction else None
    records = _matching(records, "direction", passes, lambda record: record.direction)
    records = _matching(records, "stage", stage or ["total"], lambda record: record.stage)
    found = [(series, find_changes([point.p50 for point in series.points])) for series in to_series(records)]
    if not found:
        raise ValueError("none of the records chosen has a time")
    if plot is not None:
        from reports.timeline import Timeline, save_timelines

        ratios = [{change.index: change.ratio for change in changes.points} for _, changes in found]
        notes = [_notes(series, changes) for series, changes in found]
        each = zip(found, ratios, notes, strict=True)
        save_timelines([Timeline(series, marks, note) for (series, _), marks, note in each], plot)
    if csv is not None:
        write_whole(csv, [to_frame(records).to_csv(index=False)])
    _print(found)
    for what, path in (("plot", plot), ("records", csv)):
        if path is not None:
            print(f"{what}: {path}")


def _matching(
    records: list[Record], what: str, patterns: list[str] | None, value: Callable[[Record], str]
) -> list[Record]:
    """The records whose value matches any of the patterns; all without patterns.

    Raises:
        ValueError: a pattern that matches none; the message lists what there is.
    """
    from fnmatch import fnmatchcase

    if patterns is None:
        return records
    known = sorted({value(record) for record in records})
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"--{what} {pattern!r} matches none of {', '.join(known)}")
    return [record for record in records if any(fnmatchcase(value(record), pattern) for pattern in patterns)]


def _notes(series: Series, changes: Changes) -> str:
    """What there is to say beside change points."""
    from reports import formatting

    points = series.points
    drifts = [
        f"drift {formatting.change(drift.ratio)} from {points[drift.start].commit} to {points[drift.end - 1].commit}"
        for drift in changes.drifts
    ]
    return ", ".join(drifts) or changes.note or ""


def _print(found: list[tuple[Series, Changes]]) -> None:
    """A table for each setting; the points where there is one series."""
    out = console()
    for setting in dict.fromkeys(series.setting for series, _ in found):
        out.print(f"\n{setting}", markup=False)
        out.print(_overview([(series, changes) for series, changes in found if series.setting == setting]))
    if len(found) == 1:
        out.print(_points(*found[0]))


def _overview(found: list[tuple[Series, Changes]]) -> Table:
    """One row a series."""
    from rich.table import Table

    from reports import formatting

    table = Table(
        caption="medians in ms; change points: first commit of a new level, new over old; + has local changes",
        caption_justify="left",
    )
    for column in ("workload", "provider", "pass"):
        table.add_column(column)
    for column in ("tokens", "first", "last", "last/first", "commits", "runs"):
        table.add_column(column, justify="right")
    table.add_column("change points")
    for series, changes in found:
        record, points = series.record, series.points
        steps = [f"{points[change.index].commit} {formatting.change(change.ratio)}" for change in changes.points]
        table.add_row(
            series.workload,
            record.provider if record.stage == "total" else f"{record.provider} ({record.stage})",
            record.direction,
            formatting.tokens(record.workload.tokens),
            formatting.significant(points[0].p50, 4),
            formatting.significant(points[-1].p50, 4),
            formatting.change(series.ratio),
            str(len({point.commit for point in points})),
            str(series.runs),
            "\n".join(part for part in [*steps, _notes(series, changes)] if part) or "none",
        )
    return table


def _points(series: Series, changes: Changes) -> Table:
    """One row a commit."""
    from rich.table import Table

    from reports import formatting

    table = Table(title=series.title, title_justify="left")
    table.add_column("time (UTC)")
    table.add_column("commit")
    for column in ("runs", "p20 ms", "median ms", "p80 ms"):
        table.add_column(column, justify="right")
    table.add_column("change, 95 % interval")
    steps = {change.index: change for change in changes.points}
    for index, point in enumerate(series.points):
        step = steps.get(index)
        table.add_row(
            f"{point.time.astimezone(UTC):%Y-%m-%d %H:%M}",
            point.commit,
            str(point.runs),
            *(formatting.significant(ms, 4) for ms in (point.p20, point.p50, point.p80)),
            ""
            if step is None
            else f"{formatting.change(step.ratio)} ({formatting.change(step.low)} to {formatting.change(step.high)})",
        )
    return table
