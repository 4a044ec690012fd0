"""`ssabench compare` and `ssabench calibrate`: is a commit slower than another, beyond noise."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.errors import CHECK_FAILED
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
from cli.output import print_comparison, progress_bar

_SUMMARY = "GITHUB_STEP_SUMMARY"
_REVISIONS = "Two git revisions"
_FOR_RECORDS = {
    "--margin",
    "--memory-margin",
    "--noise",
    "--across-machines",
    "--github",
    "--markdown",
    "--junit",
    "--benchmark-action",
    "--bencher",
}


def compare(
    context: typer.Context,
    before: Annotated[
        Path | None, typer.Argument(metavar="BASE", help="Records of before.", show_default=False)
    ] = None,
    after: Annotated[Path | None, typer.Argument(metavar="HEAD", help="Records of after.", show_default=False)] = None,
    margin: Annotated[float, typer.Option(help="Percent that HEAD may be slower.")] = 2.0,
    memory_margin: Annotated[float, typer.Option(help="Percent that the peak memory may grow.")] = 5.0,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="Noise floor by ssabench calibrate; a margin below it is refused. Record files are not gated by time "
            "without it.",
            show_default=False,
        ),
    ] = None,
    across_machines: Annotated[
        bool,
        typer.Option("--across-machines", help="Compare different machines or software too, without a gate."),
    ] = False,
    github: Annotated[
        bool, typer.Option("--github", help="In GitHub Actions: annotations, and the table in the job summary.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the table to this Markdown file.", show_default=False)
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.", show_default=False)] = None,
    benchmark_action: Annotated[
        Path | None,
        typer.Option(
            help="Write HEAD's times to this JSON file for github-action-benchmark (customSmallerIsBetter).",
            show_default=False,
        ),
    ] = None,
    bencher: Annotated[
        Path | None, typer.Option(help="Write HEAD's times to this JSON file for Bencher (BMF).", show_default=False)
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Measure this git revision against --head, instead of reading record files.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Default: the working tree with its changes.", rich_help_panel=_REVISIONS, show_default=False
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Most rounds of a measurement; it ends at its verdict.", min=1, max=100, rich_help_panel=_REVISIONS
        ),
    ] = 4,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help="gyroid, sphere or mesh:NAME of a shipped mesh. Repeatable. Default: gyroid.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
    ] = None,
    mesh: Annotated[
        list[Path] | None,
        typer.Option(
            help="A mesh file to use as a workload. Repeatable.", rich_help_panel=_REVISIONS, show_default=False
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            help="Token counts. Repeatable. Default: 32K; on a CPU 512.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Provider to time, * allowed. Repeatable. Default: ssa-triton; on a CPU ssa-eager.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        list[Direction] | None,
        typer.Option(
            help="Pass to time. Repeatable. Default: fwd and bwd.", rich_help_panel=_REVISIONS, show_default=False
        ),
    ] = None,
    stage: Annotated[
        list[StageName] | None,
        typer.Option(
            help="What to time: total is the whole operator, the others are its branches. Repeatable. Default: all.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
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
    seed: Annotated[
        int, typer.Option(help="Of the random inputs and the order of sides.", rich_help_panel=_REVISIONS)
    ] = 0,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write base.jsonl and head.jsonl with all samples to this folder.",
            rich_help_panel=_REVISIONS,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell whether HEAD is slower than BASE beyond noise, needs more memory, or lost a check.

    BASE and HEAD are record files or folders of them, of repeated measurements the newest counting; or git revisions,
    named with --base and --head and measured now, in turns. A measurement is slower, faster or equivalent only if a
    rank test says so against the margin, corrected for the number of measurements; otherwise it is inconclusive, with
    the reason. Records should have 60 samples (--samples 60) to find a slowdown by 3 % at 1 % noise.

    With revisions this installation times the kernels of each. A second process of --base, measured too, shows how far
    equal code comes out apart in this job; no smaller difference is ever claimed. On a CPU with OMP_NUM_THREADS=1 all
    processes share one core, which makes their times more alike.

    Exit code 1: a confirmed slowdown (of record files only with --noise), more memory, a lost measurement or a newly
    failing check; 2: nothing that can be compared, for instance records of different machines or an unknown revision;
    0: neither, be it equivalent or inconclusive.

    \b
    ssabench compare base.jsonl head.jsonl
    ssabench compare base.jsonl head.jsonl --noise noise.json --margin 3 --github --junit compare.xml
    ssabench compare --base main
    ssabench compare --base v0.1 --head HEAD~2 --tokens 8K,128K --direction fwd --out out/compare
    """
    from bench.noise import read_noise
    from bench.records import read_records, write_records, write_whole
    from cli import emit

    for option, value in (("--margin", margin), ("--memory-margin", memory_margin)):
        if not 0 < value < 100:
            raise ValueError(f"{option} takes percent between 0 and 100, got {value:g}")
    if github and _SUMMARY not in os.environ:
        raise ValueError(f"--github needs {_SUMMARY}, which GitHub Actions sets")
    _require_one_kind(context, {"before": before, "after": after}, base)
    floor = None if noise is None else read_noise(noise)
    if base is None:
        from bench.compare import compare as compare_records

        assert before is not None
        assert after is not None
        olds, news = read_records(before), read_records(after)
        with progress_bar() as progress:
            comparison = compare_records(
                olds,
                news,
                margin=margin / 100,
                memory_margin=memory_margin / 100,
                noise=floor,
                across_machines=across_machines,
                progress=progress,
            )
    else:
        from bench.interleave import run_interleaved
        from bench.plan import Plan
        from bench.providers import match_providers
        from bench.revisions import checkout, repository, working_tree

        where = resolve_device(device)
        on_cpu = where == "cpu"
        plan = Plan(
            workloads=[*(workload or []), *(f"mesh:{path.resolve()}" for path in mesh or [])] or ["gyroid"],
            tokens=parse_tokens(tokens or ["512" if on_cpu else "32K"]),
            providers=match_providers(provider or ["ssa-eager" if on_cpu else "ssa-triton"]),
            shape=attention_shape(
                where, heads, kv_heads, head_dim, dtype, compression_block, selection_block, window, window_shift, topk
            ),
            directions=[chosen.value for chosen in direction] if direction else ("fwd", "bwd"),
            seed=seed,
        )
        ours = repository(Path.cwd())
        with (
            _ended_in_order(),
            checkout(ours, base) as old,
            working_tree(ours) if head is None else checkout(ours, head) as new,
            progress_bar() as progress,
        ):
            outcome = run_interleaved(
                plan,
                old,
                new,
                device=where,
                rounds=rounds,
                stages=[chosen.value for chosen in stage] if stage else None,
                margin=margin / 100,
                memory_margin=memory_margin / 100,
                noise=floor,
                progress=progress,
                seed=seed,
            )
        comparison = outcome.comparison
        if out is not None:
            write_records(out / "base.jsonl", outcome.base)
            write_records(out / "head.jsonl", outcome.head)
    print_comparison(comparison)
    for path, form in (
        (markdown, emit.markdown),
        (junit, emit.junit),
        (benchmark_action, emit.benchmark_action),
        (bencher, emit.bencher),
    ):
        if path is not None:
            write_whole(path, [form(comparison)])
    if github:
        for line in emit.annotate(comparison):
            print(line)
        with open(os.environ[_SUMMARY], "a", encoding="utf-8") as summary:
            summary.write(emit.markdown(comparison))
    if comparison.failed:
        raise typer.Exit(CHECK_FAILED)


def _require_one_kind(context: typer.Context, files: dict[str, Path | None], base: str | None) -> None:
    """
    Raises:
        ValueError: record files and revisions mixed, or neither whole.
    """
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        # By its name, because the class is click's, which some versions of Typer depend on and others contain.
        if parameter.name not in files and source is not None and source.name == "COMMANDLINE":
            given.append(parameter.opts[0])
    if base is not None:
        if any(path is not None for path in files.values()):
            raise ValueError("compare takes two record files or --base REVISION, not both")
        if "--across-machines" in given:
            raise ValueError("--across-machines is for record files: revisions are measured on one machine")
        return
    if None in files.values():
        raise ValueError("compare takes two record files, or --base REVISION")
    misplaced = [option for option in given if option not in _FOR_RECORDS]
    if misplaced:
        raise ValueError(f"{misplaced[0]} is for revisions (--base), not for record files")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A request to terminate, as by a CI system that cancels, ends the processes and worktrees like Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def calibrate(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="Record files of one commit on one machine, one a run; of a single file the halves are compared.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File of the noise floor; replaced if it exists.")] = Path(
        "noise.json"
    ),
) -> None:
    """Measure the noise floor for ssabench compare: how far apart runs of the same code come out.

    The floor holds 99 of 100 ratios between runs. It is the least margin that a gate on this machine may have.

    \b
    for i in 1 2 3; do ssabench speed --samples 60 --out run$i.jsonl; done
    ssabench calibrate run1.jsonl run2.jsonl run3.jsonl --out noise.json
    """
    from bench.noise import calibrate as calibrate_runs
    from bench.noise import write_noise
    from bench.records import read_records

    floor = calibrate_runs([read_records(path) for path in records])
    write_noise(out, floor)
    print(f"noise floor {floor.margin:.2%} from {floor.pairs} pairs, {floor.left_out} disturbed ones left out: {out}")
    if not floor.between_runs:
        print("from the halves of one run: what differs between runs is not in it; give several files")
