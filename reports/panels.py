"""Which figures a study has, and what their captions say; each is drawn as a chart of the page and as an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.records import Pass
from reports import charts, figures, formatting
from reports.markup import Tags
from reports.providers import label
from reports.study import DIRECTION_NAMES, Study


@dataclass(frozen=True)
class Panel:
    """One figure. `alternative` says in words what it shows, `chart` is a plotly figure as JSON."""

    id: str
    title: str
    alternative: str
    chart: dict[str, Any]
    study: Study
    kind: str
    direction: Pass

    @property
    def tags(self) -> Tags:
        return {"pass": self.direction}

    def png(self) -> bytes:
        return figures.png(self.study, self.kind, self.direction)


@dataclass(frozen=True)
class FigureGroup:
    """Panels under one caption."""

    id: str
    title: str
    caption: str
    panels: list[Panel] = field(default_factory=list)


def study_figures(study: Study) -> list[FigureGroup]:
    """Every figure of a study that has data, in the order of the page."""
    subject = label(study.subject or "")
    captions = {
        "time": (
            "Time against tokens",
            "Median and the range from the 20th to the 80th percentile (band). Both axes are logarithmic."
            + _off_scale(study),
        ),
        "speedup": ("Speedup against tokens", _speedup_caption(study) + _off_scale(study)),
        "branches": (
            "Where SSA spends its time",
            f"Shares of the sum of the branches of {subject}, each timed alone; milliseconds in the bars. At the right "
            "the sum, and the time of the whole operator beside it, which also forms the gated sum and, backward, its "
            "gradient and the sums of the branches' gradients.",
        ),
        "roofline": (
            "How close to the machine",
            f"{subject} and its branches at the most tokens: shares of the rates that a matrix product, exponentials "
            "alone and a copy reached on the same machine in the same run. At the right the milliseconds it took, and "
            "those the nearest ceiling allows.",
        ),
        "memory": ("Peak memory against tokens", "Device memory above what the inputs hold."),
    }
    groups = [
        FigureGroup(kind, title, caption, _panels(study, kind, title)) for kind, (title, caption) in captions.items()
    ]
    return [group for group in groups if group.panels]


def _panels(study: Study, kind: str, title: str) -> list[Panel]:
    directions: Sequence[Pass] = ("fwd", "bwd") if kind in ("branches", "roofline") else study.directions
    drawn = ((direction, charts.chart(study, kind, direction)) for direction in directions)
    return [
        Panel(
            id=f"{study.slug}-{kind}-{direction}",
            title=DIRECTION_NAMES[direction],
            alternative=f"{title}, {DIRECTION_NAMES[direction]}; the numbers are in the tables",
            chart=chart,
            study=study,
            kind=kind,
            direction=direction,
        )
        for direction, chart in drawn
        if chart is not None
    ]


def _off_scale(study: Study) -> str:
    if not study.off_scale:
        return ""
    names = formatting.join([label(provider) for provider in study.off_scale])
    return (
        f" Not drawn, taking over ten times as long as {label(study.subject or '')} everywhere: {names} (see tables)."
    )


def _speedup_caption(study: Study) -> str:
    caption = f"Median time of {label(study.baseline or '')} over median time of each provider; above 1 is faster."
    if study.has_flash_attention_2:
        return caption + " Open circles: the paper (arXiv 2505.17412v2, Fig. 7), whose GPU and shape are not stated."
    return caption + " The paper's points are left out: they are against FlashAttention-2, which has no time here."
