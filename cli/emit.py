"""A comparison in the forms that people and CI systems read. All say the same; tests hold them to it."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from bench.compare import Comparison, Entry
from bench.pairing import labels
from bench.records import Environment
from reports.markup import Table, markdown_text, to_markdown
from reports.providers import family
from reports.regressions import Outcome, Regressions, outcome_table
from reports.study import problem_tags

# What XML 1.0 cannot hold, even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def conclusion(comparison: Comparison) -> str:
    """The result in one sentence, and what does not show in it."""
    counts = [
        f"{comparison.count(verdict)} {verdict}" for verdict in ("slower", "faster", "equivalent", "inconclusive")
    ]
    regressed = len(comparison.regressed)
    found = "no regression" if not regressed else "1 regression" if regressed == 1 else f"{regressed} regressions"
    text = (
        f"{found} in {len(comparison.entries)} measurements: {', '.join(counts)} at a margin of {comparison.margin:.3g}"
    )
    if comparison.geometric_mean is not None:
        text += f"; geometric mean of HEAD / BASE {comparison.geometric_mean:.3f}"
    if not comparison.is_gated:
        text += f"; not gated, the environments differ: {'; '.join(comparison.differences)}"
    if comparison.own_floor is not None:
        text += f"; noise floor of this job {comparison.own_floor:.2%}"
    if comparison.noise is None and comparison.own_floor is None:
        text += "; no time is gated: how much runs of equal code differ here is unknown (ssabench calibrate, --noise)"
    if comparison.noise is not None:
        text += f"; noise floor {comparison.noise.margin:.2%}"
    return text


def sides(comparison: Comparison) -> list[str]:
    """One line for each side: commit and machine."""
    both = (("BASE", comparison.base), ("HEAD", comparison.head))
    return [f"{name}: {_commit(environment)}, {environment.device}" for name, environment in both]


def _commit(environment: Environment) -> str:
    if environment.git_commit is None:
        return f"ssabench {environment.ssabench}"
    return environment.git_commit[:10] + (" with local changes" if environment.git_dirty else "")


def outcomes(comparison: Comparison) -> list[Outcome]:
    """What the comparison found, as reports take it."""
    found = []
    for entry, name in zip(comparison.entries, labels([entry.measured for entry in comparison.entries]), strict=True):
        measured = entry.measured
        base, head = (record.summary if record is not None else None for record in (entry.base, entry.head))
        tags = problem_tags(measured.shape, measured.workload.label)
        found.append(
            Outcome(
                name=name,
                verdict=entry.outcome,
                ratio=entry.judgement.ratio if entry.judgement is not None else None,
                interval=entry.interval,
                base_ms=base.p50 if base is not None else None,
                head_ms=head.p50 if head is not None else None,
                is_regression=bool(entry.regressions),
                why=_why(entry),
                tags=tags | {"pass": measured.direction, "family": family(measured.provider)},
            )
        )
    return found


def regressions(comparison: Comparison) -> Regressions:
    """The comparison as a chapter of a report."""
    return Regressions(
        conclusion=conclusion(comparison),
        sides=sides(comparison),
        base=comparison.base,
        head=comparison.head,
        margin=comparison.margin,
        outcomes=outcomes(comparison),
    )


def table(comparison: Comparison) -> Table:
    """A row for each measurement, the worst first."""
    return outcome_table(outcomes(comparison))


def _why(entry: Entry) -> str:
    return "; ".join((*entry.regressions, *entry.remarks))


def markdown(comparison: Comparison) -> str:
    """For a job summary or a comment."""
    lines = [f"### {markdown_text(conclusion(comparison))}", *map(markdown_text, sides(comparison))]
    return "\n\n".join([*lines, to_markdown(table(comparison))]) + "\n"


def annotate(comparison: Comparison) -> list[str]:
    """Workflow commands of GitHub Actions: an error for each regression, a warning for each measurement in doubt."""
    lines = []
    names = labels([entry.measured for entry in comparison.entries])
    for entry, name in zip(comparison.entries, names, strict=True):
        if entry.regressions:
            level = "error" if comparison.is_gated else "warning"
        elif entry.remarks:
            level = "warning"
        else:
            continue
        # A comma or colon would end the title.
        title = _escaped(f"ssabench: {entry.outcome}").replace(":", "%3A").replace(",", "%2C")
        lines.append(f"::{level} title={title}::{_escaped(f'{name}: {_why(entry)}')}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def junit(comparison: Comparison) -> str:
    """A test suite of the measurements: regressions fail, what is in doubt is skipped."""
    failures = comparison.regressed if comparison.is_gated else []
    skipped = [entry for entry in comparison.entries if _in_doubt(comparison, entry)]
    suite = ElementTree.Element(
        "testsuite",
        name="ssabench compare",
        tests=str(len(comparison.entries)),
        failures=str(len(failures)),
        errors="0",
        skipped=str(len(skipped)),
    )
    for entry in comparison.entries:
        case = ElementTree.SubElement(suite, "testcase", classname=entry.measured.provider, name=entry.measured.name)
        message = _NOT_XML.sub("?", f"{entry.outcome}: {_why(entry)}" if _why(entry) else entry.outcome)
        if _in_doubt(comparison, entry):
            ElementTree.SubElement(case, "skipped", message=message)
        elif entry.regressions:
            ElementTree.SubElement(case, "failure", message=message, type=entry.outcome)
        else:
            ElementTree.SubElement(case, "system-out").text = message
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _in_doubt(comparison: Comparison, entry: Entry) -> bool:
    if entry.regressions:
        return not comparison.is_gated
    return entry.outcome in ("inconclusive", "slower")  # slower and no regression: the noise floor is not known


def benchmark_action(comparison: Comparison) -> str:
    """The times of HEAD as github-action-benchmark reads them with `tool: customSmallerIsBetter`."""
    rows: list[dict[str, Any]] = []
    for entry in comparison.entries:
        if entry.head is not None and entry.head.summary is not None:
            summary = entry.head.summary
            rows.append(
                {
                    "name": entry.measured.name,
                    "unit": "ms",
                    "value": summary.p50,
                    "range": f"{summary.p20:.6g} to {summary.p80:.6g}",
                    "extra": entry.outcome,
                }
            )
    return json.dumps(rows, indent=2) + "\n"


def bencher(comparison: Comparison) -> str:
    """The times of HEAD in the Bencher Metric Format, whose latency is in nanoseconds."""
    found: dict[str, Any] = {}
    for entry in comparison.entries:
        if entry.head is not None and entry.head.summary is not None:
            summary = entry.head.summary
            values = {"value": summary.p50, "lower_value": summary.p20, "upper_value": summary.p80}
            found[entry.measured.name] = {"latency": {name: 1e6 * ms for name, ms in values.items()}}
    return json.dumps(found, indent=2) + "\n"
