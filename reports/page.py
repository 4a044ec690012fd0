"""The report as one HTML page and as Markdown, from the same chapters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from reports import formatting
from reports.charts import MAX_FOREST, forest
from reports.environments import environments_table
from reports.findings import Finding, Headline, brief, findings, headline
from reports.markup import Table, markdown_text, to_markdown
from reports.panels import FigureGroup, study_figures
from reports.providers import family, sort_key
from reports.published import load_published
from reports.regressions import Regressions
from reports.study import DIRECTIONS, Study
from reports.tables import overview_table, study_tables

_TEMPLATES = Path(__file__).with_name("templates")
_COMMANDS = "ssabench reproduce speed --out OUT\nssabench report RECORDS --out OUT/report"
_DEFINITIONS = [
    (
        "Forward (fwd)",
        "Everything from q, k, v, the compressed k and v and the gates to the output: attention to the compressed "
        "blocks, scoring and top-k selection, attention to the selected blocks, window attention, and the gated sum. "
        "Of a dense provider: from q, k, v to the output.",
    ),
    (
        "Backward (bwd)",
        "From the gradient of the output to the gradients of those inputs, for a forward pass already done. "
        "Selection has no gradient.",
    ),
    (
        "Left out",
        "The learned compression that makes the compressed k and v, the linear layers around the operator, and the "
        "index structures (block layout, packed regions, serialised order), built once a sample.",
    ),
    (
        "Time",
        "The median of repeated calls (p50) in milliseconds; p20 and p80 are percentiles of the same calls. On a GPU "
        "every call starts from a cold L2 cache and is timed on the device, without the host's launch time.",
    ),
    ("–", "Not measured. What was tried and gave no time says why under “Without a time”."),
    ("Speedup", "Median time of the baseline over median time of the provider, on the same tokens; below 1 is slower."),
    (
        "Dense, packed, NSA",
        "Dense: exact attention of every token to every token of its sample, so not the same function as SSA. Packed: "
        "exact attention on the means of 2³ regions, so on fewer tokens. NSA: the same three branches on 1-D "
        "blocks of the serialised tokens.",
    ),
    (
        "Captured",
        "The inputs are what one layer of a trained model fed to the operator on those tokens. Otherwise they are "
        "standard normal, and the fullest blocks are chosen most, near or far.",
    ),
    (
        "Branches",
        "cmp: attention to compressed blocks. select: block scores and top-k. slc: attention to the selected blocks. "
        "win: attention in the window.",
    ),
    ("Tokens", "Active voxels of the latent grid. 8K is 8,192."),
    (
        "Error / budget",
        "Relative root-mean-square error against the oracle, of a whole tensor and of its worst row, over what is "
        "allowed for its dtype. Nothing is timed with a ratio above 1.",
    ),
]
# Tables go right after the figure that draws them.
_ORDER = [
    "published",
    "fastest",
    "time",
    "time-",
    "speedup",
    "branches",
    "roofline",
    "scaling",
    "memory",
    "memory-",
    "correctness",
    "unmeasured",
    "environment",
]


_FACETS = {
    "shape": "Heads",
    "blocks": "Blocks",
    "workload": "Workload",
    "dtype": "Dtype",
    "device": "Device",
    "pass": "Pass",
    "family": "Providers",
}
_VALUES = {"fwd_bwd": "fwd + bwd", "ssa": "SSA", "nsa": "NSA"}


@dataclass(frozen=True)
class Chapter:
    """One study, ready to print."""

    study: Study
    title: str
    brief: str
    headline: list[Headline]
    findings: list[Finding]
    figures: list[FigureGroup]
    tables: list[Table]

    @property
    def blocks(self) -> list[FigureGroup | Table]:
        """Figures and tables in reading order; a figure comes before the tables of its numbers."""

        def place(block: FigureGroup | Table) -> int:
            kind = block.id.split("-")[0] + "-" * ("-" in block.id)
            return _ORDER.index(kind)

        return sorted([*self.figures, *self.tables], key=place)


@dataclass(frozen=True)
class Facet:
    """One thing to filter by: its name in tags, its title, and what there is of it."""

    name: str
    title: str
    values: dict[str, str]  # value -> what it is called


@dataclass(frozen=True)
class Report:
    """Everything that a page shows."""

    title: str
    chapters: list[Chapter]
    regressions: Regressions | None = None

    @property
    def studies(self) -> list[Study]:
        return [chapter.study for chapter in self.chapters]

    @cached_property
    def environments(self) -> Table:
        """How the environments of the studies differ; without rows where they do not."""
        return environments_table(self.studies)

    @property
    def facets(self) -> list[Facet]:
        """What the studies, and what is compared, differ in."""
        found: dict[str, dict[str, str]] = {name: {} for name in _FACETS}
        tags = [study.tags for study in self.studies]
        tags += [{"pass": name} for name in DIRECTIONS if any(name in study.directions for study in self.studies)]
        present = {family(provider) for study in self.studies for provider in study.providers}
        tags += [{"family": name} for name in sorted(present, key=sort_key)]
        tags += [dict(outcome.tags) for outcome in self.regressions.outcomes] if self.regressions else []
        for name, value in (item for tag in tags for item in tag.items()):
            found[name][value] = _VALUES.get(value, value)
        return [Facet(name, _FACETS[name], values) for name, values in found.items() if len(values) > 1]


def chapter(study: Study) -> Chapter:
    """Draw and tabulate one study."""
    return Chapter(
        study=study,
        title=f"{study.name}, {study.particulars}",
        brief=brief(study),
        headline=headline(study),
        findings=findings(study),
        figures=study_figures(study),
        tables=study_tables(study),
    )


def default_title(studies: list[Study]) -> str:
    devices = dict.fromkeys(study.environment.device for study in studies)
    return f"Spatial Sparse Attention: speed on {', '.join(devices)}"


def to_html(report: Report) -> str:
    """The whole report as one page that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    figures = {
        panel.id: panel.chart for chapter in report.chapters for group in chapter.figures for panel in group.panels
    }
    compared = forest(report.regressions) if report.regressions is not None else None
    if compared is not None:
        figures["regressions-forest"] = compared
    return environment.get_template("page.html.j2").render(
        **_context(report),
        style=(_TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs() if figures else "",
        # "<" could end the element that holds it.
        figures=json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        forest=compared is not None,
        max_forest=MAX_FOREST,
    )


def to_markdown_report(report: Report) -> str:
    """The same as Markdown, with the figures as files beside it."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # Markdown has its own escapes
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"markdown_text": markdown_text, "markdown_table": to_markdown}
    return environment.get_template("report.md.j2").render(**_context(report))


def _context(report: Report) -> dict[str, object]:
    records = [record for study in report.studies for record in study.records]
    first, last = min(record.created for record in records), max(record.created for record in records)
    days = f"{first:%Y-%m-%d}" if first.date() == last.date() else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
    timed = sum(record.summary is not None for record in records)
    commits = dict.fromkeys(commit for study in report.studies for commit in study.commits)
    return {
        "report": report,
        "chapters": report.chapters,
        "byline": f"ssabench at {formatting.join(list(commits))}; {days}; {timed} measurements with a time, "
        f"{len(records) - timed} without",
        "overview": overview_table(report.studies),
        "commands": _COMMANDS,
        "definitions": _DEFINITIONS,
        "works": list(load_published().works.values()),
    }
