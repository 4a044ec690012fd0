"""`ssabench report`: records to a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    records: Annotated[Path, typer.Argument(help="A record file, or a folder of *.jsonl files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the report; replaced if it exists.")] = Path("report"),
) -> None:
    """Write a report from records: one HTML page, Markdown, CSV, LaTeX tables and figures.

    \b
    ssabench report speed.jsonl --out report
    """
    from bench.records import read_records
    from reports.render import render

    print(render(read_records(records), out))
