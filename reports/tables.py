"""The tables of a study."""

from __future__ import annotations

from bench.records import Pass, Record, Status
from reports import formatting
from reports.environments import environment_table
from reports.markup import EMPTY, SEPARATOR, Cell, Table
from reports.providers import family, label
from reports.published import load_published
from reports.roofline import CEILINGS, roofline
from reports.study import BRANCHES, DIRECTION_NAMES, DIRECTIONS, Study, baseline_label, oracles, worst_error_ratio

_STATUS: dict[Status, str] = {
    "ok": "ok",
    "unavailable": "not run",
    "failed_check": "failed check",
    "out_of_memory": "out of memory",
    "error": "error",
}
# A measured token count this close to a published one, as a share of it, is put in its row.
_SAME_TOKENS = 0.05


def study_tables(study: Study) -> list[Table]:
    """Every table of a study that has rows, in the order of the page."""
    tables = [
        *(time_table(study, direction) for direction in study.directions),
        published_table(study),
        fastest_table(study),
        branch_table(study),
        roofline_table(study),
        scaling_table(study),
        *(memory_table(study, direction) for direction in study.directions),
        correctness_table(study),
        unmeasured_table(study),
        environment_table(study.environment),
    ]
    return [table for table in tables if table.rows]


def overview_table(studies: list[Study]) -> Table:
    """The subject of each study beside its baseline and the fastest dense provider, at the most tokens they share."""
    rows = []
    for study in studies:
        common = [found for direction in DIRECTIONS if (found := study.largest_common(direction)) is not None]
        if study.subject is None or not (common or study.curve(study.subject, study.directions[0])):
            continue
        tokens = common[0].tokens if common else study.curve(study.subject, study.directions[0])[-1].workload.tokens
        first = Cell(study.name, study.particulars, tags=study.tags, link=study.anchor)
        row = [first, Cell(formatting.tokens(tokens))]
        for direction in DIRECTIONS:
            time = study.time(study.subject, direction, tokens)
            row.append(Cell(formatting.significant(time)) if time is not None else EMPTY)
            for over in (study.baseline, study.fastest_dense(direction, tokens)):
                speedup = study.speedup(study.subject, direction, tokens, over)
                if over is None or speedup is None:
                    row.append(EMPTY)
                else:
                    row.append(Cell(formatting.ratio(speedup), label(over)))
        rows.append(row)
    titles = ["Study", "Tokens", *(f"{name}{of}" for name in DIRECTIONS for of in (", ms", " over", " over fastest"))]
    kept = [column for column in range(len(titles)) if any(row[column] != EMPTY for row in rows)]
    return Table(
        id="overview",
        title="Overview",
        header=[titles[column] for column in kept],
        rows=[[row[column] for column in kept] for row in rows],
        caption="Median milliseconds of the SSA implementation, and its speedup over FlashAttention-2 (or what stands "
        "for it, named in the cell) and over the fastest dense provider, at the most tokens that both were timed at.",
        column_tags={
            position: {"pass": DIRECTIONS[(column - 2) // 3]} for position, column in enumerate(kept) if column >= 2
        },
    )


def time_table(study: Study, direction: Pass) -> Table:
    """Median time by provider and token count, with the speedup over the baseline under it."""
    columns = _columns(study, direction)
    rows = []
    for provider in _run(study, direction):
        row = [_provider_cell(provider)]
        for tokens in columns:
            record = study.find(provider, direction, tokens)
            if record is None or record.summary is None:
                row.append(_status_cell(record))
                continue
            times = [study.time(other, direction, tokens) for other in study.providers]
            speedup = study.speedup(provider, direction, tokens, study.baseline)
            row.append(
                Cell(
                    formatting.significant(record.summary.p50),
                    formatting.ratio(speedup) if speedup is not None else "",
                    best=record.summary.p50 == min(time for time in times if time is not None),
                )
            )
        rows.append(row)
    over = f"; in small type the speedup over {baseline_label(study)}" if study.baseline else ""
    return Table(
        id=f"time-{direction}",
        title=f"Time, {DIRECTION_NAMES[direction]}",
        header=["Provider", *(formatting.tokens(count) for count in columns)],
        rows=rows,
        caption=f"Median milliseconds by token count{over}. The fastest of a column is bold.",
        tags={"pass": direction},
    )


def memory_table(study: Study, direction: Pass) -> Table:
    """Peak memory above the inputs; no rows where none was recorded."""
    columns = _columns(study, direction)
    rows = []
    for provider in _run(study, direction):
        records = [study.find(provider, direction, tokens) for tokens in columns]
        sizes = [record.peak_memory_bytes if record is not None else None for record in records]
        if any(size is not None for size in sizes):
            rows.append(
                [_provider_cell(provider)]
                + [
                    Cell(formatting.mebibytes(size)) if size is not None else _status_cell(record)
                    for size, record in zip(sizes, records, strict=True)
                ]
            )
    return Table(
        id=f"memory-{direction}",
        title=f"Peak memory, {DIRECTION_NAMES[direction]}",
        header=["Provider", *(formatting.tokens(count) for count in columns)],
        rows=rows,
        caption="MiB of device memory above what the inputs hold, by token count.",
        tags={"pass": direction},
    )


def published_table(study: Study) -> Table:
    """The paper's speedups beside the measured ones. No rows without a subject and a baseline."""
    subject, baseline = study.subject, study.baseline
    if subject is None or baseline is None:
        return Table("published", "", [], [])
    published = load_published()
    paper = {direction: published.speedups(direction) for direction in ("fwd", "bwd")}
    claim = published.table("repository_claim")
    measured: dict[int, int] = {}  # row of the table -> token count measured
    for tokens in study.tokens:
        nearest = min(paper["fwd"], key=lambda count: abs(count - tokens))
        measured[nearest if abs(tokens / nearest - 1) <= _SAME_TOKENS else tokens] = tokens
    rows = []
    for count in sorted({*paper["fwd"], *measured}):
        exact = measured.get(count, count)
        row = [Cell(formatting.tokens(count), f"here {exact:,}" if exact != count else "")]
        for direction in DIRECTIONS[:2]:
            value = paper[direction].get(count)
            speedup = study.speedup(subject, direction, measured[count], baseline) if count in measured else None
            row.append(Cell(f"{value:g}×") if value is not None else EMPTY)
            row.append(Cell(formatting.ratio(speedup)) if speedup is not None else EMPTY)
        rows.append(row)
    rows.append(
        [
            Cell("not stated", "repository, v1.1"),
            Cell(f"{claim.value('v1.1', 'fwd'):g}×"),
            EMPTY,
            Cell(f"{claim.value('v1.1', 'bwd'):g}×"),
            EMPTY,
        ]
    )
    sources = "Published: arXiv 2505.17412v2, Fig. 7; last row: README of the Direct3D-S2 repository. "
    if study.has_flash_attention_2:
        here = "here"
        caption = (
            f"Here: {label(subject)} over {label(baseline)} ({baseline}), with scoring and top-k in the time. The "
            "paper states neither GPU, dtype, heads nor token layout, so equal rows are not equal settings."
        )
    else:
        here = f"{label(subject)} over {label(baseline)}"
        caption = (
            "Not comparable: FlashAttention-2 has no time here. The measured columns show "
            f"{label(subject)} over {label(baseline)} instead."
        )
    return Table(
        id="published",
        title="Speedup over FlashAttention-2, published and measured",
        header=["Tokens", "fwd, published", f"fwd, {here}", "bwd, published", f"bwd, {here}"],
        rows=rows,
        caption=sources + caption,
        column_tags={1: {"pass": "fwd"}, 2: {"pass": "fwd"}, 3: {"pass": "bwd"}, 4: {"pass": "bwd"}},
    )


def fastest_table(study: Study) -> Table:
    """Speedup of the subject over the fastest dense provider of each pass and token count, which is named."""
    found = {(comparison.direction, comparison.tokens): comparison for comparison in study.against_fastest_dense}
    rows = []
    for tokens in sorted({tokens for _, tokens in found}):
        row = [Cell(formatting.tokens(tokens))]
        for direction in study.directions:
            comparison = found.get((direction, tokens))
            row.append(
                Cell(formatting.ratio(comparison.speedup), label(comparison.over)) if comparison is not None else EMPTY
            )
        rows.append(row)
    return Table(
        id="fastest",
        title="Speedup over the fastest dense provider",
        header=["Tokens", *study.directions],
        rows=rows,
        caption=f"{label(study.subject or '')} over the dense provider with the least time in that cell, named under "
        "it. Below 1 the dense provider is faster.",
        column_tags={1 + i: {"pass": direction} for i, direction in enumerate(study.directions)},
    )


def branch_table(study: Study) -> Table:
    """Median time of each branch of each SSA implementation, with throughput at the most tokens."""
    rows = []
    records = [record for record in study.records if record.stage != "total" and record.summary is not None]
    columns = sorted({record.workload.tokens for record in records})
    for provider in study.providers:
        for direction in DIRECTIONS:
            for stage in BRANCHES:
                found = [study.find(provider, direction, tokens, stage) for tokens in columns]
                timed = [record for record in found if record is not None and record.summary is not None]
                if timed:
                    times = [study.time(provider, direction, tokens, stage) for tokens in columns]
                    rows.append(
                        [
                            Cell(
                                stage,
                                f"{DIRECTION_NAMES[direction]}, {label(provider)}",
                                tags=_tags(provider, direction),
                            )
                        ]
                        + [Cell(formatting.significant(time)) if time is not None else EMPTY for time in times]
                        + [_rate(timed[-1], timed[-1].flops, 1e12), _rate(timed[-1], timed[-1].bytes, 1e9)]
                    )
    return Table(
        id="branches",
        title="Branches of SSA",
        header=["Branch", *(formatting.tokens(count) for count in columns), "TFLOP/s", "GB/s"],
        rows=rows,
        caption=(
            "Median milliseconds by token count, each branch timed alone. The rates are executed FLOPs and least "
            "device-memory traffic over the time at the most tokens."
        ),
    )


def roofline_table(study: Study) -> Table:
    """Whole operators and branches against the ceilings of their machine, at the most tokens each was timed at."""
    rows = []
    for provider in study.providers:
        for direction in study.directions:
            for stage in ("total", *BRANCHES):
                found = (study.find(provider, direction, tokens, stage) for tokens in reversed(study.tokens))
                record = next((record for record in found if record is not None and record.summary is not None), None)
                line = roofline(record) if record is not None else None
                if record is None or line is None:
                    continue
                name = label(provider) if stage == "total" else f"{label(provider)}: {stage}"
                rows.append(
                    [
                        Cell(name, DIRECTION_NAMES[direction], tags=_tags(provider, direction)),
                        Cell(formatting.tokens(record.workload.tokens)),
                        Cell(formatting.significant(line.milliseconds)),
                        Cell(formatting.significant(line.floor), line.limit),
                        *(Cell(f"{100 * line.share(ceiling):.0f} %") for ceiling in CEILINGS),
                    ]
                )
    return Table(
        id="roofline",
        title="Against the machine",
        header=["Work", "Tokens", "ms", "Floor ms", *(ceiling.capitalize() for ceiling in CEILINGS)],
        rows=rows,
        caption=(
            "Share of each ceiling's rate, and the least time the nearest ceiling allows. Ceilings were probed in the "
            "same run: a copy, a square matrix product, exponentials alone. Work is counted once: recomputation, "
            "index traffic and partial results count as time lost."
        ),
    )


def scaling_table(study: Study) -> Table:
    """Fitted exponents of time against tokens; no rows with a single token count."""
    rows = []
    for provider in study.providers:
        fits = [study.fit(provider, direction) for direction in study.directions]
        present = [fit for fit in fits if fit is not None]
        if present:
            smallest, largest = min(fit.smallest for fit in present), max(fit.largest for fit in present)
            rows.append(
                [_provider_cell(provider)]
                + [Cell(f"{fit.exponent:.2f}", f"{fit.points} points") if fit is not None else EMPTY for fit in fits]
                + [Cell(f"{formatting.tokens(smallest)} to {formatting.tokens(largest)}")]
            )
    return Table(
        id="scaling",
        title="Scaling",
        header=["Provider", *(DIRECTION_NAMES[direction] for direction in study.directions), "Tokens"],
        rows=rows,
        caption=(
            "Time as a power of the token count: the exponent, least squares on logarithms of medians. 1 is "
            "linear, 2 is quadratic; launch overhead at small token counts lowers it."
        ),
        column_tags={1 + i: {"pass": direction} for i, direction in enumerate(study.directions)},
    )


def correctness_table(study: Study) -> Table:
    """The worst check of every provider."""
    rows = []
    for provider in study.providers:
        checked = [record for record in study.totals if record.provider == provider and record.correctness]
        ratios = [(ratio, record) for record in checked if (ratio := worst_error_ratio(record)) is not None]
        if not ratios:
            continue
        worst, record = max(ratios, key=lambda pair: pair[0])
        checks = [record.correctness for record in checked if record.correctness is not None]
        selection = [check.selection_errors for check in checks if check.selection_errors is not None]
        rows.append(
            [
                _provider_cell(provider),
                Cell(record.implementation),
                Cell(f"{worst:.2f}"),
                Cell(str(max(selection))) if selection else EMPTY,
                Cell("passed" if all(check.passed for check in checks) else "failed"),
                Cell("; ".join(_extent(*oracle) for oracle in oracles(checked).items())),
            ]
        )
    return Table(
        id="correctness",
        title="Correctness",
        header=["Provider", "Implementation", "Error / budget", "Selection errors", "Check", "Oracle"],
        rows=rows,
        caption=(
            "Largest error over its budget, over all outputs, gradients, passes and token counts; 1 is the limit. "
            "Selection errors: rows whose chosen blocks break the score or tie rule."
        ),
        prose=frozenset({1, 4, 5}),
    )


def unmeasured_table(study: Study) -> Table:
    """Everything without a time and why, one row for each provider, stage, status and reason."""
    merged: dict[tuple[str, str, Status, str], list[Record]] = {}
    for record in study.records:
        if record.status != "ok":
            key = (record.provider, record.stage, record.status, record.reason or "")
            merged.setdefault(key, []).append(record)
    rows = []
    for provider in study.providers:
        for (name, stage, status, reason), records in merged.items():
            if name != provider:
                continue
            passes = [direction for direction in DIRECTIONS if direction in {record.direction for record in records}]
            counts = sorted({record.workload.tokens for record in records})
            rows.append(
                [
                    _provider_cell(provider, *passes),
                    Cell(", ".join(passes) if stage == "total" else f"{stage} {', '.join(passes)}"),
                    Cell(", ".join(formatting.tokens(count) for count in counts)),
                    Cell(_STATUS[status]),
                    Cell(reason),
                ]
            )
    return Table(
        id="unmeasured",
        title="Without a time",
        header=["Provider", "Pass", "Tokens", "Status", "Reason"],
        rows=rows,
        prose=frozenset({1, 2, 3, 4}),
    )


def _columns(study: Study, direction: Pass) -> list[int]:
    return sorted({record.workload.tokens for record in study.totals if record.direction == direction})


def _run(study: Study, direction: Pass) -> list[str]:
    """Providers with at least one time; the others are in the table of what has none."""
    return [provider for provider in study.providers if study.curve(provider, direction)]


def _extent(oracle: str, extents: list[str]) -> str:
    """An oracle and the first and last of what it was asked."""
    return ", ".join([oracle, " to ".join(dict.fromkeys([extents[0], extents[-1]]))] if extents else [oracle])


def _provider_cell(provider: str, *passes: Pass) -> Cell:
    shown = label(provider)
    return Cell(shown, provider if shown != provider else "", tags=_tags(provider, *passes))


def _tags(provider: str, *passes: Pass) -> dict[str, str]:
    """Of a row: without passes it holds for all."""
    tags = {"family": family(provider)}
    return tags | {"pass": SEPARATOR.join(passes)} if passes else tags


def _status_cell(record: Record | None) -> Cell:
    return EMPTY if record is None or record.status == "ok" else Cell("", _STATUS[record.status])


def _rate(record: Record, amount: float | None, unit: float) -> Cell:
    if not amount or record.summary is None:
        return EMPTY
    return Cell(formatting.significant(amount / (record.summary.p50 / 1e3) / unit))
