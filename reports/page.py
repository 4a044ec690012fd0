"""The report as one HTML page and as Markdown, from the same chapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import formatting
from reports.figures import FigureGroup, study_figures
from reports.findings import Finding, Headline, findings, headline
from reports.markup import Table, markdown_text, to_markdown
from reports.published import load_published
from reports.study import Study
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


@dataclass(frozen=True)
class Chapter:
    """One study, ready to print."""

    study: Study
    title: str
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


def chapter(study: Study) -> Chapter:
    """Draw and tabulate one study."""
    return Chapter(
        study=study,
        title=f"{study.name}, {study.particulars}",
        headline=headline(study),
        findings=findings(study),
        figures=study_figures(study),
        tables=study_tables(study),
    )


def default_title(studies: list[Study]) -> str:
    devices = dict.fromkeys(study.environment.device for study in studies)
    return f"Spatial Sparse Attention: speed on {', '.join(devices)}"


def to_html(chapters: list[Chapter], title: str) -> str:
    """The whole report as one page that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(**_context(chapters, title), style=style)


def to_markdown_report(chapters: list[Chapter], title: str) -> str:
    """The same as Markdown, with the figures as files beside it."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # Markdown has its own escapes
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"markdown_text": markdown_text, "markdown_table": to_markdown}
    return environment.get_template("report.md.j2").render(**_context(chapters, title))


def _context(chapters: list[Chapter], title: str) -> dict[str, object]:
    records = [record for chapter in chapters for record in chapter.study.records]
    first, last = min(record.created for record in records), max(record.created for record in records)
    days = f"{first:%Y-%m-%d}" if first.date() == last.date() else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
    timed = sum(record.summary is not None for record in records)
    commits = dict.fromkeys(commit for chapter in chapters for commit in chapter.study.commits)
    return {
        "title": title,
        "byline": f"ssabench at {formatting.join(list(commits))}; {days}; {timed} measurements with a time, "
        f"{len(records) - timed} without",
        "chapters": chapters,
        "overview": overview_table([chapter.study for chapter in chapters]),
        "commands": _COMMANDS,
        "definitions": _DEFINITIONS,
        "works": list(load_published().works.values()),
    }
