"""`ssabench check`: are the kernels right on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.errors import CHECK_FAILED
from cli.options import DeviceOption, resolve_device
from cli.output import console, progress_bar


def check(
    device: DeviceOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller problems.")] = False,
) -> None:
    """Compare every kernel that runs here with an exact oracle: outputs, gradients and chosen blocks.

    Exits with 1 if an error exceeds its budget. Errors are relative root mean squares; budgets grow with the dtype's
    rounding.

    \b
    ssabench check
    ssabench check --device cpu --quick
    """
    from rich.table import Table

    from bench.check import run_checks

    where = resolve_device(device)
    with progress_bar() as progress:
        results = run_checks(where, quick=quick, progress=progress)
    table = Table()
    for column in ("check", "tensor"):
        table.add_column(column)
    for column in ("error", "budget"):
        table.add_column(column, justify="right")
    table.add_column("result")
    for result in results:
        checked = result.correctness
        for tensor in checked.tensors:
            verdict = "passed" if tensor.passed else "FAILED"
            table.add_row(result.name, tensor.name, f"{tensor.error:.2e}", f"{tensor.budget:.2e}", verdict)
        if checked.selection_errors is not None:
            verdict = "FAILED" if checked.selection_errors else "passed"
            table.add_row(result.name, "chosen blocks", f"{checked.selection_errors} rows", "0 rows", verdict)
        table.add_section()
    console().print(table)
    failed = [result.name for result in results if not result.correctness.passed]
    if failed:
        print(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
        raise typer.Exit(CHECK_FAILED)
    print(f"all {len(results)} checks passed")
