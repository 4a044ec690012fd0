"""`ssabench speed`: time providers on workloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import exit_on_failures
from cli.options import (
    CompressionBlock,
    DeviceOption,
    Direction,
    DTypeOption,
    HeadDim,
    Heads,
    KvHeads,
    SelectionBlock,
    TopK,
    Window,
    WindowShift,
    attention_shape,
    parse_tokens,
    resolve_device,
)
from cli.output import print_speed, progress_bar


def speed(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help="gyroid, sphere or mesh:NAME of a shipped mesh. Repeatable. Default: gyroid, or only --inputs.",
            show_default=False,
        ),
    ] = None,
    mesh: Annotated[
        list[Path] | None, typer.Option(help="A mesh file to use as a workload. Repeatable.", show_default=False)
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            help="Token counts, e.g. 8K,32K. Repeatable. Default: the paper's 8K to 128K; on a CPU 512 to 4K.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of captured inputs, with the tokens it holds, as a workload. Repeatable.", show_default=False
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Provider to time, * allowed, e.g. 'dense-*'. Repeatable. Default: what a comparison needs here; "
            "ssabench info lists all.",
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        list[Direction] | None, typer.Option(help="Pass to time. Repeatable. Default: all three.", show_default=False)
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
    limit: Annotated[
        float, typer.Option(help="Seconds a call may take; slower ones are predicted from smaller sizes and left out.")
    ] = 30.0,
    samples: Annotated[
        int, typer.Option(help="Fewest samples of a measurement; ssabench compare wants 60.", min=1, max=1000)
    ] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the records to this JSONL file.", show_default=False)] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Also add the finished run to this store of ssabench history, e.g. out/history.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --out: keep what this commit measured here.")
    ] = False,
) -> None:
    """Check, then time providers on workloads: forward, backward, both, and each branch of sparse attention.

    A provider that fails its check or raises gets no time, and the exit code is 1. One that cannot run is listed with
    the reason. Sampling is split into blocks with other values of the inputs; what the last call returned is checked
    too.

    The records hold every sample (device time from a cold L2 cache; on a CPU wall time) with clock, power, temperature
    and throttle reasons beside it, where the machine tells; samples discarded because the clock was held back, counted;
    compile time, peak memory, FLOPs and bytes; and of calls under 10 ms on a GPU the times with a warm cache, replayed
    as a CUDA graph, and of the host alone.

    \b
    ssabench speed
    ssabench speed --tokens 8K,128K --provider ssa-triton --provider 'dense-*' --out speed.jsonl
    ssabench speed --mesh chair.obj --tokens 32K --direction fwd
    ssabench speed --inputs deer.safetensors
    """
    from bench import store as runs
    from bench.plan import PASSES, Plan, paper_plan
    from bench.providers import default_providers, match_providers
    from bench.speed import run_speed

    if resume and out is None:
        raise ValueError("--resume needs --out, the file to go on with")
    if out is not None and out.exists() and not resume:
        raise ValueError(f"--out {out} exists; add --resume to go on with it, or name another file")
    if store is not None:
        runs.runs(store)  # a store that cannot be used stops before the measurement, not after
    specs = [*(workload or []), *(f"mesh:{path}" for path in mesh or [])]
    if tokens and inputs and not specs:
        raise ValueError("--tokens is for workloads; captured inputs (--inputs) have the tokens of their file")
    where = resolve_device(device)
    defaults = paper_plan(where)
    plan = Plan(
        workloads=specs or ([] if inputs else ["gyroid"]),
        tokens=parse_tokens(tokens) if tokens else defaults.tokens,
        providers=match_providers(provider) if provider else default_providers(where),
        shape=attention_shape(
            where, heads, kv_heads, head_dim, dtype, compression_block, selection_block, window, window_shift, topk
        ),
        inputs=inputs or [],
        directions=[chosen.value for chosen in direction] if direction else PASSES,
        limit_s=limit,
        min_samples=samples,
        seed=seed,
    )
    with progress_bar() as progress:
        records = run_speed(plan, device=where, out=out, resume=resume, progress=progress)
    print_speed(records)
    if out is not None:
        print(f"records: {out}")
    if store is not None:
        known = runs.runs(store)  # of a file gone on with, runs may have been added before
        for path in runs.add(store, [record for record in records if record.run_id not in known]):
            print(f"stored: {path}")
    exit_on_failures(records)
