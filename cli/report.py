"""`ssabench report`: records to a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    records: Annotated[Path, typer.Argument(help="A record file, or a folder of *.jsonl files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the report; replaced if it exists.")] = Path("report"),
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="BASE",
            help="Records of before; adds what got slower or faster since, and how the machines differ.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="With --against: percent that a time may grow.")] = 2.0,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="With --against: noise floor by ssabench calibrate. Without it no slowdown is called a regression.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a report from records: a page to look at and filter, Markdown, CSV, LaTeX tables and figures.

    The page is one file that loads nothing; what its filters show is in its address.

    \b
    ssabench report speed.jsonl --out report
    ssabench report head.jsonl --against base.jsonl --noise noise.json --out report
    """
    from bench.compare import compare
    from bench.noise import read_noise
    from bench.records import read_records
    from cli import emit
    from cli.output import progress_bar
    from reports.render import render

    if against is None and noise is not None:
        raise ValueError("--noise needs --against: the records of before")
    if not 0 < margin < 100:
        raise ValueError(f"--margin takes percent between 0 and 100, got {margin:g}")
    found = read_records(records)
    regressions = None
    if against is not None:
        floor = None if noise is None else read_noise(noise)
        base = read_records(against)
        with progress_bar() as progress:
            comparison = compare(base, found, margin=margin / 100, noise=floor, across_machines=True, progress=progress)
        regressions = emit.regressions(comparison)
    print(render(found, out, regressions=regressions))
