"""`ssabench reproduce`: the experiments of the paper, from measurement to report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import exit_on_failures
from cli.options import DeviceOption, resolve_device
from cli.output import print_speed, progress_bar

app = typer.Typer(no_args_is_help=True, help="Repeat an experiment of the paper and write its report.")


@app.callback()
def group() -> None:
    """Repeat an experiment of the paper and write its report."""


@app.command("speed")
def reproduce_speed(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for speed.jsonl and report/; replaced unless --resume.")
    ] = Path("out/reproduce"),
    device: DeviceOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what this commit already measured here in the folder.")
    ] = False,
) -> None:
    """The run-time figure: forward and backward time at 8K to 128K tokens, sparse against dense attention.

    32 heads of width 32, 2 key-value heads, blocks 4 and 8, windows 8, top-k 8, bfloat16, on a gyroid and on a mesh.
    On a CPU the same shape in float32 on the mesh at 512 to 4K tokens, a few minutes on two cores.

    \b
    ssabench reproduce speed --out out/reproduce
    """
    from bench.plan import paper_plan
    from bench.speed import run_speed
    from reports.render import render

    where = resolve_device(device)
    path = out / "speed.jsonl"
    with progress_bar() as progress:
        records = run_speed(paper_plan(where), device=where, out=path, resume=resume, progress=progress)
    print_speed(records)
    print(f"records: {path}")
    print(f"report: {render(records, out / 'report')}")
    exit_on_failures(records)
