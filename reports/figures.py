"""The figures of a study as images, for Markdown and LaTeX: one panel a figure."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.records import Pass, Record, Stage
from reports import formatting
from reports.providers import appearance, label
from reports.published import load_published
from reports.roofline import CEILINGS, Ceiling, Roofline, roofline
from reports.study import BRANCHES, DIRECTION_NAMES, Study

INK, FAINT, RULE = "#1b2127", "#5c6670", "#d3d9de"
_PANEL_INCHES = (4.3, 3.4)
_RIGHT = 0.665  # of the width: right edge of the axes; the names of the lines stand beyond it
BRANCH_COLORS = {"cmp": "#2f79b8", "select": "#b36d08", "slc": "#23866a", "win": "#a05ea9"}
CEILING_COLORS: dict[Ceiling, str] = {"matrix units": "#2f79b8", "exponentials": "#b36d08", "memory": "#23866a"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "ssabench",
}


def png(study: Study, kind: str, direction: Pass) -> bytes:
    """The figure of a kind of `KINDS`, with white ground. The study must have its data."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_PANEL_INCHES)
        axes = figure.add_subplot()
        KINDS[kind](axes, study, direction)
        pad = 24 if kind in ("branches", "roofline") else 8  # their labels lie above the axes
        axes.set_title(DIRECTION_NAMES[direction], color=INK, pad=pad)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def _draw_time(axes: Axes, study: Study, direction: Pass) -> bool:
    curves = {provider: study.curve(provider, direction) for provider in study.drawn}
    if not any(curves.values()):
        return False
    for provider, curve in curves.items():
        if curve:
            tokens = [record.workload.tokens for record in curve]
            summaries = [record.summary for record in curve if record.summary is not None]
            low, high = [summary.p20 for summary in summaries], [summary.p80 for summary in summaries]
            axes.fill_between(tokens, low, high, color=appearance(provider).color, alpha=0.2, linewidth=0)
            _line(axes, provider, tokens, [summary.p50 for summary in summaries])
    axes.set_ylabel("milliseconds")
    _finish(axes, study)
    return True


def _draw_speedup(axes: Axes, study: Study, direction: Pass) -> bool:
    baseline = study.baseline
    points = {
        provider: [
            (tokens, speedup)
            for tokens in study.tokens
            if (speedup := study.speedup(provider, direction, tokens, baseline)) is not None
        ]
        for provider in study.drawn
        if provider != baseline
    }
    if not any(points.values()):
        return False
    axes.axhline(1.0, color=FAINT, linewidth=1.0)
    for provider, pairs in points.items():
        if pairs:
            _line(axes, provider, [tokens for tokens, _ in pairs], [speedup for _, speedup in pairs])
    published = load_published().speedups(direction) if study.has_flash_attention_2 else {}
    if published:
        axes.plot(
            list(published),
            list(published.values()),
            color=INK,
            marker="o",
            markerfacecolor="none",
            linestyle=(0, (1, 2)),
            linewidth=1.0,
            markersize=6,
            label="paper",
            gid="paper",
        )
    axes.set_ylabel(f"times the speed of {label(baseline or '')}")
    _finish(axes, study)
    return True


def _draw_branches(axes: Axes, study: Study, direction: Pass) -> bool:
    subject = study.subject
    if subject is None:
        return False
    rows: list[tuple[int, dict[Stage, float]]] = []
    for tokens in study.tokens:
        times = {stage: study.time(subject, direction, tokens, stage) for stage in BRANCHES}
        present = {stage: time for stage, time in times.items() if time is not None}
        if present:
            rows.append((tokens, present))
    if not rows:
        return False
    above = axes.get_xaxis_transform()  # y in heights of the axes
    _name_branches(axes, rows[0][1])
    for position, (tokens, times_ms) in enumerate(rows):
        total, left = sum(times_ms.values()), 0.0
        for stage, time in times_ms.items():
            share = time / total
            axes.barh(position, share, left=left, height=0.72, color=BRANCH_COLORS[stage], edgecolor="none")
            if share > 0.14:
                axes.text(
                    left + share / 2,
                    position,
                    formatting.significant(time),
                    ha="center",
                    va="center",
                    color="#ffffff",
                    fontsize=8,
                )
            left += share
        whole = study.time(subject, direction, tokens)
        beside = f" | {formatting.significant(whole)}" if whole is not None else ""
        axes.text(1.02, position, formatting.significant(total) + beside, ha="left", va="center", color=INK, fontsize=9)
    axes.text(1.02, 1.02, "sum | whole, ms", transform=above, ha="left", va="bottom", color=FAINT, fontsize=8.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(rows), 3) - 0.5, -0.5)  # few bars stay bars
    axes.set_yticks(range(len(rows)), [formatting.tokens(tokens) for tokens, _ in rows])
    axes.set_ylabel("tokens")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.figure.subplots_adjust(left=0.17, right=0.72, top=0.82, bottom=0.1)
    return True


def _name_branches(axes: Axes, times_ms: dict[Stage, float]) -> None:
    """The names of the first bar's branches above their middles, or beside each other where there is no room."""
    total = sum(times_ms.values())
    ends = np.cumsum(list(times_ms.values())) / total
    middles = [float(end) - time / total / 2 for end, time in zip(ends, times_ms.values(), strict=True)]
    for middle, stage in zip(spread(middles, gap=0.17, low=0.06, high=0.94), times_ms, strict=True):
        axes.text(
            *(middle, 1.02, stage),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=BRANCH_COLORS[stage],
            fontsize=9,
        )


def _draw_roofline(axes: Axes, study: Study, direction: Pass) -> bool:
    if study.subject is None:
        return False
    rows: list[tuple[str, Roofline]] = []
    for stage in ("total", *BRANCHES):
        record = study.find(study.subject, direction, study.tokens[-1], stage)
        line = roofline(record) if record is not None else None
        if line is not None:
            rows.append(("whole" if stage == "total" else stage, line))
    if not rows:
        return False
    for position, (_, line) in enumerate(rows):
        for index, ceiling in enumerate(CEILINGS):
            height = position + (index - 1) * 0.26
            share = line.share(ceiling)
            axes.barh(height, min(share, 1.0), height=0.22, color=CEILING_COLORS[ceiling], edgecolor="none")
            axes.text(min(share, 1.0) + 0.01, height, f"{100 * share:.0f}", va="center", color=INK, fontsize=7.5)
        beside = f"{formatting.significant(line.milliseconds)} | {formatting.significant(line.floor)}"
        axes.text(1.1, position, beside, ha="left", va="center", color=INK, fontsize=9)
    axes.text(1.1, -0.66, "took | floor, ms", ha="left", va="bottom", color=FAINT, fontsize=8.5)
    for index, ceiling in enumerate(CEILINGS):
        left = (0.0, 0.36, 0.74)[index]
        axes.text(left, -0.66, ceiling, ha="left", va="bottom", color=CEILING_COLORS[ceiling], fontsize=9)
    axes.set_xlim(0, 1.05)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.figure.subplots_adjust(left=0.13, right=0.7, top=0.82, bottom=0.1)
    return True


def _draw_memory(axes: Axes, study: Study, direction: Pass) -> bool:
    drawn = False
    for provider in study.providers:
        records: list[Record] = study.curve(provider, direction)
        pairs = [(record.workload.tokens, record.peak_memory_bytes) for record in records if record.peak_memory_bytes]
        if pairs:
            _line(axes, provider, [tokens for tokens, _ in pairs], [size / 2**20 for _, size in pairs])
            drawn = True
    if drawn:
        axes.set_ylabel("MiB")
        _finish(axes, study)
    return drawn


def _line(axes: Axes, provider: str, tokens: list[int], values: list[float]) -> None:
    look = appearance(provider)
    axes.plot(
        tokens,
        values,
        color=look.color,
        marker=look.marker,
        linestyle=look.dash,
        linewidth=look.width,
        markersize=6 if look.marker == "*" else 4.5,
        label=look.label,
    )


def _finish(axes: Axes, study: Study) -> None:
    """Logarithmic axes with plain numbers, and the name of each line at its end."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(spaced(study.tokens)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.tokens(round(value))))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.tick_params(length=3, width=0.6)
    axes.set_xlabel("tokens")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.subplots_adjust(left=0.15, right=_RIGHT, top=0.89, bottom=0.155)
    figure.draw_without_rendering()
    box = axes.get_tightbbox()
    assert box is not None
    if box.x0 < 0:  # long numbers push the axis' name out
        figure.subplots_adjust(left=0.16 - box.x0 / figure.bbox.width)
    _label_lines(axes)


def spaced(tokens: list[int]) -> list[int]:
    """The token counts whose labels do not run into each other on a logarithmic axis."""
    label = 0.16  # of the axis
    apart = (tokens[-1] / tokens[0]) ** label
    kept = tokens[:1]
    for count in tokens[1:]:
        if count / kept[-1] >= apart:
            kept.append(count)
    return kept


def _label_lines(axes: Axes) -> None:
    """Write each line's name at the right edge, joined to the line's end, in the order of the ends."""
    gap = 0.068  # of the height of the axes: one line of text
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    to_axes = axes.transData + axes.transAxes.inverted()
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    ends = {line: np.asarray(line.get_xydata())[-1] for line in lines}
    lines.sort(key=lambda line: float(to_axes.transform(ends[line])[1]))
    heights = spread([float(to_axes.transform(ends[line])[1]) for line in lines], gap, 0.0, 1.03)
    for line, height in zip(lines, heights, strict=True):
        axes.annotate(
            str(line.get_label()),
            xy=ends[line],
            xytext=(1.035, height),
            textcoords="axes fraction",
            va="center",
            color=line.get_color(),
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as possible (least squares), so that neighbours are `gap` apart, within limits.

    With the gaps subtracted this is isotonic regression: neighbours out of order share their mean. Where all do not
    fit between `low` and `high`, `low` gives way.
    """
    pools: list[list[float]] = []
    for i, height in enumerate(heights):
        pools.append([height - i * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    ceiling = high - (len(heights) - 1) * gap
    return [min(max(value, low), ceiling) + i * gap for i, value in enumerate(level)]


KINDS: dict[str, Callable[[Axes, Study, Pass], bool]] = {
    "time": _draw_time,
    "speedup": _draw_speedup,
    "branches": _draw_branches,
    "roofline": _draw_roofline,
    "memory": _draw_memory,
}
