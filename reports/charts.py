"""The figures of a study as plotly charts: the page draws them and gives them its fonts and colours.

A trace carries in `meta` the tags by which filters show or hide it. What has no colour of its own takes the page's ink.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from bench.records import Pass, Record
from reports import formatting
from reports.figures import BRANCH_COLORS, CEILING_COLORS, spaced
from reports.providers import appearance, family, label
from reports.published import load_published
from reports.regressions import Outcome, Regressions, worst_first
from reports.roofline import CEILINGS, Ceiling, Roofline, roofline
from reports.study import BRANCHES, Study, worst_error_ratio

_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
_SYMBOLS = {
    "o": "circle",
    "P": "cross",
    "X": "x",
    "^": "triangle-up",
    "*": "star",
    "s": "square",
    "D": "diamond",
    "v": "triangle-down",
    "<": "triangle-left",
    "h": "hexagon",
    "d": "diamond-tall",
    "p": "pentagon",
    ".": "circle",
}
_GREY = "#7f8a94"  # 3:1 on white and on near-black
_VERDICT_COLORS = {"slower": "#d9541e", "faster": "#1f7fc4", "equivalent": "#12906a", "inconclusive": _GREY}
MAX_FOREST = 40
_FOREST_LINE = 50  # letters that fit on a phone
_LABELLED = 0.2  # share of a bar from which on its number fits


def chart(study: Study, kind: str, direction: Pass) -> dict[str, Any] | None:
    """A chart of a kind of `reports.figures.KINDS` as JSON, or None where the study has no data for it."""
    figure = _KINDS[kind](study, direction)
    return None if figure is None else _plain(figure)


def forest(regressions: Regressions) -> dict[str, Any] | None:
    """Ratio and interval of what was timed on both sides, the worst at the top; None where nothing was.

    Each outcome is a trace in a row of its own, with an annotation above it; of many those furthest from 1 are drawn.
    `meta.lines`, the most lines of an annotation, asks the page to set the height and close gaps that filters leave.
    """
    timed = [outcome for outcome in regressions.outcomes if outcome.ratio is not None]
    if not timed:
        return None
    timed.sort(key=lambda outcome: -abs(math.log(outcome.ratio or 1.0)))
    drawn = worst_first(timed[:MAX_FOREST])
    figure = go.Figure()
    lines = 1
    for row, outcome in enumerate(drawn):
        name = textwrap.wrap(outcome.name, _FOREST_LINE)
        lines = max(lines, len(name))
        figure.add_scatter(**_forest_point(outcome), y=[row])
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=row,
            yanchor="bottom",
            yshift=5,
            showarrow=False,
            align="left",
            text="<br>".join(map(escape, name)),
        )
    for value, dash in ((1.0, "solid"), (1 + regressions.margin, "dot"), (1 / (1 + regressions.margin), "dot")):
        figure.add_vline(x=value, line={"color": _GREY, "width": 1, "dash": dash}, layer="below")
    figure.update_layout(meta={"lines": lines})
    figure.update_xaxes(title_text="HEAD / BASE; right of 1 is slower")
    figure.update_yaxes(visible=False)
    return _plain(figure)


def _forest_point(outcome: Outcome) -> dict[str, Any]:
    assert outcome.ratio is not None
    low, high = outcome.interval or (outcome.ratio, outcome.ratio)
    color = _VERDICT_COLORS[outcome.verdict]
    hover = f"<b>{escape(outcome.name)}</b><br>{outcome.verdict}: {outcome.ratio:.4f} ({low:.4f} to {high:.4f})"
    if outcome.base_ms is not None and outcome.head_ms is not None:
        times = [formatting.significant(ms, 4) for ms in (outcome.base_ms, outcome.head_ms)]
        hover += f"<br>{times[0]} to {times[1]} ms"
    error = {"array": [high - outcome.ratio], "arrayminus": [outcome.ratio - low]}
    return {
        "x": [outcome.ratio],
        "error_x": {"type": "data", "symmetric": False, **error, "color": color, "thickness": 2, "width": 4},
        "mode": "markers",
        "name": outcome.verdict,
        "legendgroup": outcome.verdict,
        "showlegend": True,
        "marker": {"color": color, "size": 9, "symbol": "square" if outcome.is_regression else "circle"},
        "hovertext": [hover],
        "hoverinfo": "text",
        "meta": dict(outcome.tags),
    }


def _time(study: Study, direction: Pass) -> go.Figure | None:
    figure = go.Figure()
    for provider in study.drawn:
        curve = study.curve(provider, direction)
        if not curve:
            continue
        tokens = [record.workload.tokens for record in curve]
        summaries = [record.summary for record in curve if record.summary is not None]
        low, high = [summary.p20 for summary in summaries], [summary.p80 for summary in summaries]
        figure.add_scatter(
            x=tokens + tokens[::-1],
            y=[_short(value) for value in high + low[::-1]],
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=appearance(provider).color,
            opacity=0.25,
            legendgroup=provider,
            showlegend=False,
            hoverinfo="skip",
            meta={"family": family(provider)},
        )
        _line(figure, provider, tokens, [summary.p50 for summary in summaries], [_hover(record) for record in curve])
    return _against_tokens(figure, "milliseconds")


def _speedup(study: Study, direction: Pass) -> go.Figure | None:
    figure, baseline = go.Figure(), study.baseline
    for provider in study.drawn:
        points = [
            (tokens, speedup, _hover(record, f"{formatting.ratio(speedup)} the speed of {label(baseline or '')}"))
            for tokens in study.tokens
            if (speedup := study.speedup(provider, direction, tokens, baseline)) is not None
            and (record := study.find(provider, direction, tokens)) is not None
        ]
        if points and provider != baseline:
            tokens, speedups, hovers = map(list, zip(*points, strict=True))
            _line(figure, provider, tokens, speedups, hovers)
    if not figure.data:
        return None
    published = load_published().speedups(direction) if study.has_flash_attention_2 else {}
    if published:
        figure.add_scatter(
            x=list(published),
            y=list(published.values()),
            mode="lines+markers",
            name="paper",
            line={"dash": "dot", "width": 1.2},
            marker={"symbol": "circle-open", "size": 9, "line": {"width": 1.5}},
            hovertext=[f"<b>paper</b><br>{tokens:,} tokens<br>{value:g}×" for tokens, value in published.items()],
            hoverinfo="text",
        )
    figure.add_hline(y=1.0, line={"color": _GREY, "width": 1}, layer="below")
    return _against_tokens(figure, f"times the speed of {label(baseline or '')}")


def _memory(study: Study, direction: Pass) -> go.Figure | None:
    figure = go.Figure()
    for provider in study.providers:
        curve = [record for record in study.curve(provider, direction) if record.peak_memory_bytes]
        if curve:
            sizes = [(record.peak_memory_bytes or 0) / 2**20 for record in curve]
            hovers = [
                _hover(record, f"{size:,.1f} MiB above its inputs") for record, size in zip(curve, sizes, strict=True)
            ]
            _line(figure, provider, [record.workload.tokens for record in curve], sizes, hovers)
    return _against_tokens(figure, "MiB")


def _branches(study: Study, direction: Pass) -> go.Figure | None:
    if study.subject is None:
        return None
    figure = go.Figure()
    times = {
        stage: {
            tokens: time
            for tokens in study.tokens
            if (time := study.time(study.subject, direction, tokens, stage)) is not None
        }
        for stage in BRANCHES
    }
    counts = [tokens for tokens in study.tokens if any(tokens in found for found in times.values())]
    totals = {tokens: sum(found.get(tokens, 0.0) for found in times.values()) for tokens in counts}
    if not counts:
        return None
    for stage, found in times.items():
        if found:
            records = [study.find(study.subject, direction, tokens, stage) for tokens in found]
            figure.add_bar(
                x=[_short(100 * time / totals[tokens]) for tokens, time in found.items()],
                y=[formatting.tokens(tokens) for tokens in found],
                orientation="h",
                name=stage,
                marker={"color": BRANCH_COLORS[stage]},
                text=[
                    formatting.significant(time) if time > _LABELLED * totals[tokens] else ""
                    for tokens, time in found.items()
                ],
                textposition="inside",
                textangle=0,
                insidetextanchor="middle",
                insidetextfont={"color": "#ffffff"},
                constraintext="none",
                hovertext=[_hover(record, f"branch {stage}") for record in records if record is not None],
                hoverinfo="text",
                meta={"family": family(study.subject)},
            )
    for tokens in counts:
        whole = study.time(study.subject, direction, tokens)
        beside = f" | {formatting.significant(whole)}" if whole is not None else ""
        _beside(figure, formatting.tokens(tokens), formatting.significant(totals[tokens]) + beside)
    _bars(figure, [formatting.tokens(tokens) for tokens in counts], "sum | whole, ms")
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title_text="tokens")
    figure.update_xaxes(range=[0, 100])
    return figure


def _roofline(study: Study, direction: Pass) -> go.Figure | None:
    if study.subject is None:
        return None
    rows: dict[str, tuple[Record, Roofline]] = {}
    for stage in ("total", *BRANCHES):
        record = study.find(study.subject, direction, study.tokens[-1], stage)
        line = roofline(record) if record is not None else None
        if record is not None and line is not None:
            rows["whole" if stage == "total" else stage] = record, line
    if not rows:
        return None
    figure = go.Figure()
    for ceiling in CEILINGS:
        shares = [100 * line.share(ceiling) for _, line in rows.values()]
        figure.add_bar(
            x=[_short(share) for share in shares],
            y=list(rows),
            orientation="h",
            name=ceiling,
            marker={"color": CEILING_COLORS[ceiling]},
            text=[f"{share:.0f}" for share in shares],
            textposition="outside",
            cliponaxis=False,
            hovertext=[
                _hover(record, f"{name}: {_achieved(record, line, ceiling)}") for name, (record, line) in rows.items()
            ],
            hoverinfo="text",
            meta={"family": family(study.subject)},
        )
    for name, (_, line) in rows.items():
        _beside(figure, name, f"{formatting.significant(line.milliseconds)} | {formatting.significant(line.floor)}")
    _bars(figure, list(rows), "took | floor, ms")
    figure.update_layout(barmode="group", bargroupgap=0.1)
    highest = max(line.share(line.limit) for _, line in rows.values())
    figure.update_xaxes(range=[0, max(108.0, 108 * highest)])
    return figure


_KINDS: dict[str, Callable[[Study, Pass], go.Figure | None]] = {
    "time": _time,
    "speedup": _speedup,
    "branches": _branches,
    "roofline": _roofline,
    "memory": _memory,
}


def _hover(record: Record, first: str = "") -> str:
    """What a point says: the measurement in numbers, what ran, and how its check came out."""
    lines = [f"<b>{escape(label(record.provider))}</b>", f"{record.workload.tokens:,} tokens"]
    if first:
        lines.append(escape(first))
    if record.summary is not None:
        summary = record.summary
        p20, p50, p80 = (formatting.significant(value, 4) for value in (summary.p20, summary.p50, summary.p80))
        lines.append(f"{p50} ms (p20 {p20}, p80 {p80}; {summary.count} samples)")
    lines.append(f"ran: {escape(record.implementation)}")
    ratio = worst_error_ratio(record)
    if record.correctness is not None:
        error = f", error {ratio:.2f} of its budget" if ratio is not None else ""
        lines.append(("check passed" if record.correctness.passed else "check failed") + error)
    return "<br>".join(lines)


def _achieved(record: Record, line: Roofline, ceiling: Ceiling) -> str:
    """The rate of one kind of work beside what the machine reached on it."""
    assert record.ceilings is not None
    unit, scale, limit = {
        "matrix units": ("TFLOP/s", 1e12, record.ceilings.matrix_flops_per_s),
        "exponentials": ("Texp/s", 1e12, record.ceilings.exp2_per_s),
        "memory": ("GB/s", 1e9, record.ceilings.copy_bytes_per_s),
    }[ceiling]
    share = line.share(ceiling)
    rates = [formatting.significant(rate / scale) for rate in (share * limit, limit)]
    return f"{rates[0]} of {rates[1]} {unit} ({100 * share:.1f} %), {ceiling}"


def _line(figure: go.Figure, provider: str, tokens: Sequence[int], values: Sequence[float], hovers: list[str]) -> None:
    look = appearance(provider)
    figure.add_scatter(
        x=list(tokens),
        y=[_short(value) for value in values],
        mode="lines+markers",
        name=look.label,
        legendgroup=provider,
        line={"color": look.color, "dash": _DASHES[look.dash], "width": look.width},
        marker={"color": look.color, "symbol": _SYMBOLS[look.marker], "size": 10 if look.marker == "*" else 7},
        hovertext=hovers,
        hoverinfo="text",
        meta={"family": family(provider)},
    )


def _against_tokens(figure: go.Figure, title: str) -> go.Figure | None:
    """Logarithmic axes with plain numbers; None for a figure without lines."""
    if not figure.data:
        return None
    ticks = spaced(sorted({count for trace in figure.data for count in trace.x}))
    figure.update_xaxes(
        type="log", title_text="tokens", tickvals=ticks, ticktext=[formatting.tokens(count) for count in ticks]
    )
    values = [value for trace in figure.data for value in trace.y]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1,) if max(values) / min(values) > 100 else (1, 2, 5)
    marks = [step * 10.0**power for power in range(low - 1, high + 1) for step in steps]
    figure.update_yaxes(type="log", title_text=title, tickvals=marks, ticktext=[f"{mark:,.12g}" for mark in marks])
    return figure


def _bars(figure: go.Figure, rows: list[str], beside: str) -> None:
    """Rows from the top, shares along the axis, and room at the right for numbers under the heading `beside`."""
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows, autorange="reversed")
    figure.update_xaxes(ticksuffix=" %", nticks=6)
    figure.add_annotation(
        x=1.02, xref="paper", y=1, yref="paper", xanchor="left", yanchor="bottom", showarrow=False, text=beside
    )
    figure.update_layout(margin={"r": 110, "t": 34})


def _beside(figure: go.Figure, row: str, text: str) -> None:
    figure.add_annotation(x=1.02, xref="paper", y=row, xanchor="left", yanchor="middle", showarrow=False, text=text)


def _short(value: float) -> float:
    """Six digits draw the same and take a third of the room."""
    return float(f"{value:.6g}")


def _plain(figure: go.Figure) -> dict[str, Any]:
    """As the page takes it: without plotly's own template, since the page brings one."""
    plain: dict[str, Any] = figure.to_plotly_json()
    plain["layout"].pop("template", None)
    return plain
