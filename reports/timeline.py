"""Drawing series over commits: medians with their ranges, levels, and the commits where the level changes."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.records import write_whole
from reports import formatting
from reports.figures import FAINT, INK, RULE, STYLE
from reports.history import Series
from reports.providers import appearance

MAX_PANELS = 12
_MARK = "#b3261e"
_WIDTH, _AXES = 8.4, (0.095, 0.97)  # inches; left and right edge of the axes as shares of the width
_AXES_WIDTH = _WIDTH * (_AXES[1] - _AXES[0])  # inches
_GAP = 0.04  # inches between the line of a change and its label
_TOP, _HEIGHT, _BOTTOM, _ROW = 0.78, 2.2, 1.0, 0.19  # inches of a panel; a row of labels above the axes
_CAPTION = 0.5  # inches under the panels
_MAX_COMMITS = 32  # as many labels fit under the axis
_SUFFIXES = (".png", ".svg", ".html")


@dataclass(frozen=True)
class Timeline:
    """A series and its changes: the ratio after over before by the index of the first point after.

    `note` is added to the title.
    """

    series: Series
    changes: dict[int, float]
    note: str = ""


def save_timelines(timelines: Sequence[Timeline], path: Path) -> None:
    """Draw the timelines below each other to a PNG, SVG or HTML file.

    Raises:
        ValueError: another kind of file, or none or too many timelines.
    """
    check_plot_path(path)
    if not 1 <= len(timelines) <= MAX_PANELS:
        raise ValueError(f"a plot takes 1 to {MAX_PANELS} series, got {len(timelines)}; narrow them with filters")
    with matplotlib.rc_context(STYLE):
        data = _encode(draw_timelines(timelines), path.suffix)
    write_whole(path, [data])


def check_plot_path(path: Path) -> None:
    """Whether a plot can have that name.

    Raises:
        ValueError: it does not end like a kind of file we write.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"a plot must end in one of {', '.join(_SUFFIXES)}, got {path}")


def draw_timelines(timelines: Sequence[Timeline]) -> Figure:
    """One panel each, in order; fonts and colours are those of the rc context."""
    rows = [_label_rows(timeline) for timeline in timelines]
    heights = [_TOP + _ROW * max(row.values(), default=-1) + _ROW + _HEIGHT + _BOTTOM for row in rows]
    total = sum(heights) + _CAPTION
    figure = Figure(figsize=(_WIDTH, total))
    top = total
    for timeline, row, height in zip(timelines, rows, heights, strict=True):
        bottom = (top - height + _BOTTOM) / total
        axes = figure.add_axes((_AXES[0], bottom, _AXES[1] - _AXES[0], _HEIGHT / total))
        _draw(axes, timeline, row)
        figure.text(0.012, (top - 0.24) / total, _title(timeline), fontsize=10.5, va="center")
        figure.text(0.012, (top - 0.36) / total, _setting(timeline), fontsize=7.5, va="top", color=FAINT)
        top -= height
    figure.text(0.012, 0.08 / total, _caption(timelines), fontsize=8, va="bottom", color=FAINT)
    return figure


def _draw(axes: Axes, timeline: Timeline, rows: dict[int, int]) -> None:
    points = timeline.series.points
    color = appearance(timeline.series.record.provider).color
    axes.vlines(range(len(points)), [p.p20 for p in points], [p.p80 for p in points], color=color, alpha=0.45, lw=2.2)
    for exact, face in ((True, color), (False, "white")):
        own = [i for i, point in enumerate(points) if point.exact == exact]
        medians = [points[i].p50 for i in own]
        axes.plot(own, medians, "o", color=color, markerfacecolor=face, markersize=4.5, zorder=3)
    axes.plot([p.p50 for p in points], color=color, linewidth=0.7, alpha=0.6)
    for index in timeline.changes:
        lift = 1 + (0.05 + _ROW * (rows[index] + 1)) / _HEIGHT
        at = index - 0.5
        axes.plot([at, at], [0, lift], color=_MARK, lw=1, transform=axes.get_xaxis_transform(), clip_on=False)
        left, text = _left_of(timeline, index) / _AXES_WIDTH, _mark(timeline, index)
        axes.text(left, lift, text, transform=axes.transAxes, color=_MARK, fontsize=8, va="top")
    axes.set_xlim(*_limits(timeline))
    step = -(-len(points) // _MAX_COMMITS)
    shown = range(0, len(points), step)
    axes.set_xticks(shown, [points[i].commit for i in shown], rotation=60, ha="right", rotation_mode="anchor", size=7.5)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_ylabel("milliseconds")
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.6)


def _limits(timeline: Timeline) -> tuple[float, float]:
    """Of the horizontal axis: the points, and room for the labels of late changes."""
    low = -0.7
    ends = [
        low + (index - 0.5 - low) * _AXES_WIDTH / (_AXES_WIDTH - _GAP - _text_width(_mark(timeline, index)))
        for index in timeline.changes
    ]
    return low, max(len(timeline.series.points) - 0.3, *ends) if ends else len(timeline.series.points) - 0.3


def _mark(timeline: Timeline, index: int) -> str:
    return f"{timeline.series.points[index].commit} {formatting.change(timeline.changes[index])}"


def _left_of(timeline: Timeline, index: int) -> float:
    """Where the label of a change begins, just right of its line, in inches from the left of the axes."""
    low, high = _limits(timeline)
    return (index - 0.5 - low) / (high - low) * _AXES_WIDTH + _GAP


def _text_width(text: str) -> float:
    """Inches that digits and letters take at most in the font of the labels."""
    return len(text) * 0.073


def _label_rows(timeline: Timeline) -> dict[int, int]:
    """The row above the axes of the label of each change, the lowest that is free."""
    starts: list[float] = []  # the leftmost of what each row holds so far
    rows = {}
    # From the right: a label must not lie on the line of a later change, which crosses the rows up to its own label.
    for index in sorted(timeline.changes, reverse=True):
        left = _left_of(timeline, index)
        end = left + _text_width(_mark(timeline, index)) + 2 * _GAP
        row = next((i for i, start in enumerate(starts) if end <= start), len(starts))
        starts[: row + 1] = [left] * (row + 1)
        rows[index] = row
    return rows


def _title(timeline: Timeline) -> str:
    return timeline.series.title + (f" – {timeline.note}" if timeline.note else "")


def _setting(timeline: Timeline) -> str:
    return timeline.series.setting.replace("; ", "\n")  # too long for one line


def _caption(timelines: Sequence[Timeline]) -> str:
    parts = ["Median and range (20th to 80th percentile) of each commit, in the order of time."]
    if any(timeline.changes for timeline in timelines):
        parts.append("Red: change points, the new level over the old.")
    if not all(point.exact for timeline in timelines for point in timeline.series.points):
        parts.append("Hollow: local changes (+) or unknown commit.")
    return parts[0] + "\n" + " ".join(parts[1:]) if parts[1:] else parts[0]


def _encode(figure: Figure, suffix: str) -> bytes:
    if suffix == ".html":
        style = (Path(__file__).with_name("templates") / "style.css").read_text(encoding="utf-8")
        page = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape('ssabench history')}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f'<h1>Speed over commits</h1>\n<div class="drawing">{_svg_element(figure)}</div>\n</body>\n</html>\n'
        )
        return page.encode()
    buffer = io.BytesIO()
    if suffix == ".png":
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    else:
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _svg_element(figure: Figure) -> str:
    """The figure as the only element of its kind in an HTML page: transparent, page colours for text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    for color, variable in ((INK, "--ink"), (FAINT, "--faint"), (RULE, "--rule")):
        svg = svg.replace(color, f"var({variable})")
    return svg
