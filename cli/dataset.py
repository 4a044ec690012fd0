"""`ssabench dataset`: look at prepared datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import console

app = typer.Typer(no_args_is_help=True, help="Look at prepared datasets.")


@app.callback()
def group() -> None:
    """Look at prepared datasets."""


@app.command("stats")
def stats(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the dataset.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a page to this .html file, and a contact sheet to a .png beside it.", show_default=False
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Most samples on the contact sheet.", min=1)] = 48,
) -> None:
    """Count samples, splits, categories, licences and failures, and show how sizes and times are spread.

    \b
    ssabench dataset stats out/furniture
    ssabench dataset stats out/furniture --out furniture.html
    """
    from rich.markup import escape
    from rich.table import Table

    from models.data.dataset.manifest import read_header, read_manifest
    from models.data.dataset.statistics import statistics
    from reports.dataset_page import dataset_tables

    if out is not None and out.suffix != ".html":
        raise ValueError(f"--out must be an .html file, got {out}")
    entries = read_manifest(folder)
    numbers = statistics(entries)
    for rows in dataset_tables(numbers, entries):
        table = Table(title=rows.title, title_justify="left", caption=rows.caption or None)
        for column, title in enumerate(rows.header):
            table.add_column(title, justify="left" if rows.is_text(column) else "right", overflow="fold")
        for row in rows.rows:
            table.add_row(*(escape(cell.text) for cell in row))
        console().print(table)
    if out is None:
        return

    import base64
    import io

    from models.data.dataset import open_dataset
    from models.data.dataset.contact_sheet import contact_sheet
    from models.files import write_whole
    from reports.dataset_page import to_dataset_page

    sheet, uri = out.with_suffix(".png"), None
    if numbers.status["ok"]:
        buffer = io.BytesIO()
        contact_sheet(open_dataset(folder, resolutions=()), pictures).save(buffer, "png")
        write_whole(sheet, [buffer.getvalue()])
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        print(f"contact sheet: {sheet}")
    write_whole(out, [to_dataset_page(folder.resolve().name, read_header(folder), numbers, entries, uri)])
    print(f"page: {out}")
