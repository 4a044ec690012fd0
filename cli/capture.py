"""`ssabench capture`: inputs of a trained model, for `ssabench speed --inputs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    CompressionBlock,
    DeviceOption,
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
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from bench.locality import Locality


def capture(
    out: Annotated[Path, typer.Option("--out", help="File to write, e.g. deer.safetensors.", show_default=False)],
    workload: Annotated[str, typer.Option(help="mesh:NAME of a shipped mesh or mesh:PATH of a file.")] = "mesh:deer",
    tokens: Annotated[
        str | None, typer.Option(help="Token count. Default: 128K; on a CPU 4K.", show_default=False)
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
    steps: Annotated[int, typer.Option(help="Of training.")] = 200,
    seed: Annotated[int, typer.Option(help="Of parameters and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Train a small model on a mesh's voxels and keep what one of its layers feeds to sparse attention.

    Random inputs choose blocks by how full they are; a trained model has reasons of its own, and the kernels' work is
    as uneven as the choice. Four layers learn rectified flow of the mesh's surface; the file holds the operands of the
    third. What its selection looks like is printed beside that of random inputs. The file's format, for a model of
    your own, is in bench/captured.py.

    \b
    ssabench capture --workload mesh:deer --tokens 128K --out deer.safetensors
    ssabench speed --inputs deer.safetensors
    """
    from bench.capture import capture_inputs
    from bench.captured import load_captured, save_captured
    from bench.locality import locality
    from bench.plan import paper_plan, validate_shape
    from bench.providers import make_problem

    if out.exists():
        raise ValueError(f"--out {out} exists; name another file")
    where = resolve_device(device)
    defaults = paper_plan(where)
    counts = parse_tokens([tokens]) if tokens is not None else [max(defaults.tokens)]
    if len(counts) != 1:
        raise ValueError(f"--tokens takes one count, got {tokens!r}")
    shape = attention_shape(
        where, heads, kv_heads, head_dim, dtype, compression_block, selection_block, window, window_shift, topk
    )
    validate_shape(shape)
    with progress_bar() as progress:
        made = capture_inputs(workload, counts[0], shape, device=where, steps=steps, seed=seed, progress=progress)
    save_captured(out, made.tokens, made.layout, made.inputs, made.source)
    captured = load_captured(out)
    print(f"loss: {made.first_loss:.4f} to {made.last_loss:.4f} (means of the first and last tenth of {steps} steps)")
    if not made.last_loss < made.first_loss:
        print("warning: the loss did not fall, so these are the inputs of an untrained model", file=sys.stderr)
    problems = (make_problem(source, shape, device=where, seed=seed) for source in (captured, made.tokens))
    console().print(_table(*(locality(problem) for problem in problems)))
    print(f"inputs {captured.digest}: {out}")


def _table(captured: Locality, random: Locality) -> Table:
    """How tokens select their blocks, captured beside random."""
    from rich.table import Table

    table = Table()
    table.add_column("selected blocks")
    for column in ("captured", "random"):
        table.add_column(column, justify="right")
    rows = [
        ("hold the token's own block", "own", ".1%"),
        ("mean distance from it, in blocks", "distance", ".2f"),
        ("tokens of the most popular block over the mean", "skew", ".2f"),
    ]
    for title, name, form in rows:
        table.add_row(title, *(format(getattr(found, name), form) for found in (captured, random)))
    return table
