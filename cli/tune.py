"""`ssabench tune`: find tile sizes for this GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DeviceOption, parse_tokens, resolve_device
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from bench.tune import Trial
    from kernels.triton.configs import KernelName


def tune(
    heads: Annotated[int, typer.Option(help="Query heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(help="Key-value heads.")] = 2,
    head_dim: Annotated[int, typer.Option(help="Width of a head; the choice is for this width.")] = 32,
    workload: Annotated[str, typer.Option(help="gyroid, sphere or mesh:NAME.")] = "gyroid",
    tokens: Annotated[str, typer.Option(help="Token count, e.g. 128K.")] = "128K",
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Kernel to tune, * allowed, e.g. 'gathered_*'. Repeatable. Default: all.", show_default=False
        ),
    ] = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write. Default: the one ssabench reads for this GPU.", show_default=False),
    ] = None,
) -> None:
    """Time every tile size of every kernel on this GPU and keep the fastest, for fp16 and bf16.

    The table is written after each kernel, so an interrupted run loses one kernel at most; go on with --kernel. Other
    head widths keep what they had: tune each width you use. Prove the result with `ssabench check`.

    \b
    ssabench tune
    ssabench tune --heads 16 --kv-heads 1 --head-dim 64
    ssabench tune --kernel 'gathered_*'
    """
    import torch
    import triton

    from bench.plan import paper_plan, validate_shape
    from bench.providers import make_problem
    from bench.tune import tune as search
    from bench.workloads import make_tokens
    from kernels.triton.configs import KERNEL_NAMES, tuned_table, user_table_path, write_table

    (count,) = parse_tokens([tokens]) if "," not in tokens else (0,)
    if not count:
        raise ValueError(f"--tokens takes one count, got {tokens!r}")
    chosen = match_kernels(kernel) if kernel else list(KERNEL_NAMES)
    where = torch.device(resolve_device(device))
    if where.type != "cuda":
        raise ValueError("tune needs a CUDA device: on a CPU the kernels only run in Triton's interpreter")
    shape = paper_plan(where).shape.model_copy(update={"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim})
    validate_shape(shape)
    name = torch.cuda.get_device_name(where)
    path = out or user_table_path(name)
    problem = make_problem(make_tokens(workload, count, None), shape, device=where, seed=0)
    base = tuned_table(torch.bfloat16, where)
    origin = (
        f"{name}, torch {torch.__version__}, triton {triton.__version__}; {workload}, {count:,} tokens, bfloat16; "
        f"last tuned: head dim {head_dim}"
    )
    trials: list[Trial] = []
    with progress_bar() as progress:
        for table, tried in search(problem, base, origin, kernels=chosen, progress=progress):
            write_table(path, table)
            trials += tried
    console().print(_summary(trials))
    print(f"table: {path}")
    print("prove it with: ssabench check")


def match_kernels(patterns: list[str]) -> list[KernelName]:
    """Kernels whose names match any of the patterns, in their own order.

    Raises:
        ValueError: a pattern that matches none.
    """
    from fnmatch import fnmatchcase

    from kernels.triton.configs import KERNEL_NAMES

    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in KERNEL_NAMES):
            raise ValueError(f"--kernel {pattern!r} matches none of {', '.join(KERNEL_NAMES)}")
    return [name for name in KERNEL_NAMES if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _summary(trials: list[Trial]) -> Table:
    """For each kernel what it had, the fastest, and how many candidates ran and failed."""
    from rich.table import Table

    table = Table(caption="milliseconds; tile sizes are queries x keys, warps, pipeline stages", caption_justify="left")
    table.add_column("kernel")
    for column in ("before", "ms", "fastest", "ms", "ran", "failed"):
        table.add_column(column, justify="right")
    for kernel in dict.fromkeys(trial.kernel for trial in trials):
        mine = [trial for trial in trials if trial.kernel == kernel]
        timed = [trial for trial in mine if trial.milliseconds is not None]
        best = min(timed, key=lambda trial: trial.milliseconds or 0.0)
        table.add_row(
            *(kernel, _tile(mine[0]), f"{mine[0].milliseconds:.2f}", _tile(best), f"{best.milliseconds:.2f}"),
            *(str(len(timed)), str(len(mine) - len(timed))),
        )
    return table


def _tile(trial: Trial) -> str:
    config = trial.config
    return f"{config.block_m} x {config.block_n}, {config.num_warps}, {config.num_stages}"
