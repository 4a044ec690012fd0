"""`ssabench compare` and `ssabench calibrate`: is a commit slower than another, beyond noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CHECK_FAILED
from cli.output import print_comparison, progress_bar

_SUMMARY = "GITHUB_STEP_SUMMARY"


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Records of before.", show_default=False)],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Records of after.", show_default=False)],
    margin: Annotated[float, typer.Option(help="Percent that HEAD may be slower.")] = 2.0,
    memory_margin: Annotated[float, typer.Option(help="Percent that the peak memory may grow.")] = 5.0,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="Noise floor by ssabench calibrate; a margin below it is refused. Without it no time is gated.",
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
) -> None:
    """Tell whether HEAD is slower than BASE beyond noise, needs more memory, or lost a check.

    Both are record files or folders of them; of repeated measurements the newest counts. A measurement is slower,
    faster or equivalent only if a rank test says so against the margin, corrected for the number of measurements;
    otherwise it is inconclusive, with the reason. Measure with --samples 60 to find a slowdown by 3 % at 1 % noise.

    Exit code 1: a confirmed slowdown (only with --noise), more memory, a lost measurement or a newly failing check; 2:
    the files cannot be compared, for instance because they come from different machines; 0: neither, be it equivalent
    or inconclusive.

    \b
    ssabench compare base.jsonl head.jsonl
    ssabench compare base.jsonl head.jsonl --noise noise.json --margin 3 --github --junit compare.xml
    """
    from bench.compare import compare as compare_records
    from bench.noise import read_noise
    from bench.records import read_records, write_whole
    from cli import emit

    for option, value in (("--margin", margin), ("--memory-margin", memory_margin)):
        if not 0 < value < 100:
            raise ValueError(f"{option} takes percent between 0 and 100, got {value:g}")
    if github and _SUMMARY not in os.environ:
        raise ValueError(f"--github needs {_SUMMARY}, which GitHub Actions sets")
    floor = None if noise is None else read_noise(noise)
    olds, news = read_records(base), read_records(head)
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
