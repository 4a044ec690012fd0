"""`ssabench check`: are the kernels right on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CHECK_FAILED
from cli.options import DeviceOption, resolve_device
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from bench.records import Correctness


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
    table = Table(
        caption="of each check the tensor closest to its budget, and every failed one", caption_justify="left"
    )
    for column in ("check", "tensor"):
        table.add_column(column)
    for column in ("error", "budget", "wrong blocks"):
        table.add_column(column, justify="right")
    table.add_column("result")
    for result in results:
        if result.correctness is not None:
            for row in _rows(result.correctness):
                table.add_row(result.name, *row)
    console().print(table)
    for line in dict.fromkeys(
        f"not run: {result.name.split(':')[0]}: {result.reason}" for result in results if result.unavailable
    ):
        console().print(line, markup=False)
    ran = [result for result in results if not result.unavailable]
    failed = [result for result in ran if result.failed]
    if failed:
        for result in failed:
            print(f"failed: {result.name}" + (f": {result.reason}" if result.reason else ""))
        print(f"{len(failed)} of {len(ran)} checks failed")
        raise typer.Exit(CHECK_FAILED)
    print(f"all {len(ran)} checks passed")


def _rows(checked: Correctness) -> list[tuple[str, str, str, str, str]]:
    """Tensor, error, budget, rows with wrong blocks, result: of the failed tensors, else of the worst."""
    blocks = "-" if checked.selection_errors is None else f"{checked.selection_errors} rows"
    failed = [tensor for tensor in checked.tensors if not tensor.passed]
    shown = failed or [max(checked.tensors, key=lambda tensor: tensor.error / tensor.budget if tensor.budget else 0.0)]
    verdict = "passed" if checked.passed else "FAILED"
    return [(tensor.name, f"{tensor.error:.2e}", f"{tensor.budget:.2e}", blocks, verdict) for tensor in shown]
