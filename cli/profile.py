"""`ssabench profile`: where the time of one pass goes, kernel by kernel."""

from __future__ import annotations

import enum
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    CompressionBlock,
    DeviceOption,
    Direction,
    DTypeOption,
    HeadDim,
    Heads,
    KvHeads,
    SelectionBlock,
    StageName,
    TopK,
    Window,
    WindowShift,
    attention_shape,
    parse_tokens,
    resolve_device,
)
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from bench.ncu import NcuLaunch
    from bench.profiled import Profile

# What says where and how to profile, not what; a bare run needs none of it.
_OF_THE_PROFILE = {"out", "with_ncu", "bare"}
# Of ncu's report: title, section, metric, divisor to the unit of the title.
_COUNTERS = (
    ("ms", "GPU Speed Of Light Throughput", "Duration", 1e6),
    ("compute %", "GPU Speed Of Light Throughput", "Compute (SM) Throughput", 1),
    ("memory %", "GPU Speed Of Light Throughput", "Memory Throughput", 1),
    ("DRAM %", "GPU Speed Of Light Throughput", "DRAM Throughput", 1),
    ("L2 %", "GPU Speed Of Light Throughput", "L2 Cache Throughput", 1),
    ("warps %", "Occupancy", "Achieved Occupancy", 1),
    ("IPC", "Compute Workload Analysis", "Executed Ipc Active", 1),
)

# Operators on a CPU are many; those below it are summed up (all are in kernels.csv).
_LEAST_SHARE = 0.01


def profile(
    ctx: typer.Context,
    branch: Annotated[StageName, typer.Argument(help="The whole operator or a branch of it.", show_default=False)],
    tokens: Annotated[
        str | None, typer.Option(help="Token count. Default: 32K; on a CPU 1K.", show_default=False)
    ] = None,
    direction: Annotated[Direction, typer.Option("--pass", help="Pass; fwd_bwd only of total.")] = Direction.fwd,
    provider: Annotated[
        str | None,
        typer.Option(help="Provider. Default: ssa-triton; on a CPU ssa-eager.", show_default=False),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(help="gyroid, sphere, mesh:NAME or mesh:PATH. Default: gyroid.", show_default=False),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="A file of captured inputs instead of a workload.", show_default=False)
    ] = None,
    heads: Heads = 32,
    kv_heads: KvHeads = 2,
    head_dim: HeadDim = 32,
    dtype: DTypeOption = None,
    compression_block: CompressionBlock = 4,
    selection_block: SelectionBlock = 8,
    window: Window = 8,
    window_shift: WindowShift = 0,
    topk: TopK = 8,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    device: DeviceOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder; files of an earlier profile in it are replaced.")] = Path(
        "out/profile"
    ),
    with_ncu: Annotated[
        bool, typer.Option("--ncu/--no-ncu", help="Run Nsight Compute too, where there is one.")
    ] = True,
    bare: Annotated[
        bool,
        typer.Option(
            "--bare",
            help="Only run the pass, between cudaProfilerStart and cudaProfilerStop, under a profiler of your own.",
        ),
    ] = False,
) -> None:
    """Show where the time of a pass goes: kernels, their registers, shared memory and spills, how many fit, rates.

    Writes trace.json (torch's profiler, for ui.perfetto.dev), kernels.csv, profile.json, and on a GPU proton.hatchet
    (for proton-viewer) and, with ncu, ncu.ncu-rep and ncu.csv. On a CPU the table has operators. Rates of a kernel are
    shown where its matrix products are known; bytes and exponentials are known for the pass alone. Nothing is checked
    here: see ssabench check.

    \b
    ssabench profile slc --tokens 32K --pass bwd
    ssabench profile total --inputs deer.safetensors --no-ncu --out out/profile
    nsys profile --capture-range cudaProfilerApi ssabench profile slc --tokens 32K --bare
    """
    from bench.profiled import Target
    from bench.profiler import profile as profile_target
    from bench.profiler import run_bare
    from bench.providers import default_providers

    if inputs is not None and (tokens is not None or workload is not None):
        raise ValueError("--inputs has its own workload and tokens; leave out --workload and --tokens")
    where = resolve_device(device)
    default_tokens = "1K" if where == "cpu" else "32K"
    counts = parse_tokens([tokens or default_tokens])
    if len(counts) != 1:
        raise ValueError(f"--tokens takes one count, got {tokens!r}")
    target = Target(
        stage=branch.value,
        direction=direction.value,
        provider=provider or default_providers(where)[0],
        shape=attention_shape(
            where, heads, kv_heads, head_dim, dtype, compression_block, selection_block, window, window_shift, topk
        ),
        device=where,
        workload=workload or "gyroid",
        tokens=counts[0],
        inputs=inputs,
        seed=seed,
    )
    if bare:
        run_bare(target)
        return
    with progress_bar() as progress:
        found = profile_target(target, out, again=_bare_command(ctx), with_ncu=with_ncu, progress=progress)
    _print(found)


def _bare_command(ctx: typer.Context) -> list[str]:
    """The command line of this run with --bare: the options that were given, so that a GPU machine has its defaults."""
    words = [sys.executable, "-m", "cli", "profile"]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        value = ctx.params.get(name)
        given = ctx.get_parameter_source(name)
        if name in _OF_THE_PROFILE or given is None or given.name != "COMMANDLINE" or value == "cpu":
            continue
        text = value.value if isinstance(value, enum.Enum) else str(value)
        words += [text] if parameter.param_type_name == "argument" else [parameter.opts[0], text]
    return [*words, "--bare"]


def _print(found: Profile) -> None:
    from bench.environment import environment_line
    from reports import formatting

    out = console()
    target, workload = found.target, found.workload
    on_cpu = found.environment.device_type == "cpu"
    time = "a call, under the profiler" if on_cpu else "device time a call, with a cold L2"
    out.print(environment_line(found.environment), markup=False)
    out.print(
        f"{target.provider} ({found.implementation}), {target.stage} {target.direction}, {workload.label}, "
        f"{workload.tokens:,} tokens: {formatting.significant(found.milliseconds)} ms {time}, mean of {found.calls}",
        markup=False,
        soft_wrap=True,
    )
    out.print(_operators(found) if on_cpu else _kernels(found))
    out.print(_rates(found))
    if not on_cpu:
        waits = ", ".join(f"{name} {count:g}" for name, count in found.synchronizations.items())
        out.print(f"host waits for the device, a call: {waits or 'none'}", markup=False)
    if found.launches:
        out.print(_counters(found.launches))
    for note in found.notes:
        out.print(note, markup=False, soft_wrap=True)
    where = "on a machine with a GPU" if on_cpu else "in this folder"
    out.print(f"ncu, {where}:\n{shlex.join(found.ncu)}", markup=False, soft_wrap=True)
    for path in found.files:
        print(path)


def _operators(found: Profile) -> Table:
    from rich.table import Table

    from reports import formatting

    table = Table(caption="own: without the operators that it calls", caption_justify="left")
    table.add_column("operator", overflow="fold")
    for column in ("calls", "own ms", "share"):
        table.add_column(column, justify="right")
    shown = [row for row in found.rows if row.share >= _LEAST_SHARE]
    for row in shown:
        table.add_row(row.name, f"{row.launches:g}", formatting.significant(row.milliseconds), f"{row.share:.1%}")
    rest = found.rows[len(shown) :]
    if rest:
        milliseconds, share = (sum(getattr(row, name) for row in rest) for name in ("milliseconds", "share"))
        table.add_row(f"{len(rest)} others", "", formatting.significant(milliseconds), f"{share:.1%}")
    return table


def _kernels(found: Profile) -> Table:
    from rich.table import Table

    from bench.kineto import base_name
    from reports import formatting

    table = Table(
        caption="numbers of one call; local: spills and indexed arrays, bytes a thread, known for Triton kernels; an "
        "SM holds so many programs and warps at once; FLOP/s of a kernel's matrix products, where one variant does all",
        caption_justify="left",
    )
    table.add_column("kernel", overflow="fold", min_width=24)
    for column in ("launches", "ms", "share", "programs", "threads", "registers", "local\nbytes", "shared\nKiB"):
        table.add_column(column, justify="right")
    for column in ("programs\nan SM", "warps\nan SM"):
        table.add_column(column, justify="right")
    table.add_column("limited\nby")
    for column in ("TFLOP/s", "of\nceiling"):
        table.add_column(column, justify="right")
    for row in found.rows:
        table.add_row(
            row.name if row.registers is None else base_name(row.name),
            f"{row.launches:g}",
            formatting.significant(row.milliseconds),
            f"{row.share:.1%}",
            *(_count(value) for value in (row.programs, row.threads, row.registers, row.local_bytes)),
            "-" if row.shared_bytes is None else f"{row.shared_bytes / 1024:.1f}",
            _count(row.resident_programs),
            "-" if row.resident_warps is None else f"{row.resident_warps} of {row.most_warps}",
            row.limited_by or "-",
            "-" if row.flops_per_s is None else formatting.significant(row.flops_per_s / 1e12),
            "-" if row.matrix_share is None else f"{row.matrix_share:.1%}",
        )
    return table


def _rates(found: Profile) -> Table:
    from rich.table import Table

    table = Table(
        caption="the whole pass against ceilings probed in this run; bytes: the least that it must move",
        caption_justify="left",
    )
    table.add_column("ceiling")
    for column in ("achieved", "probed", "share"):
        table.add_column(column, justify="right")
    for rate in found.rates:
        table.add_row(
            rate.ceiling, f"{rate.achieved:.3g} {rate.unit}", f"{rate.most:.3g} {rate.unit}", f"{rate.share:.1%}"
        )
    return table


def _counters(launches: tuple[NcuLaunch, ...]) -> Table:
    from rich.table import Table

    from reports import formatting

    table = Table(caption="counters of ncu, a launch; percent of the peak", caption_justify="left")
    table.add_column("kernel", overflow="fold")
    for title, *_ in _COUNTERS:
        table.add_column(title, justify="right")
    for launch in launches:
        values = [(launch.metrics.get((section, metric)), unit) for _, section, metric, unit in _COUNTERS]
        cells = ["-" if value is None else formatting.significant(value / unit) for value, unit in values]
        table.add_row(launch.kernel, *cells)
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
