"""`render_evaluation`: rows of an evaluation in, a folder with tables and a page out."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.records import write_whole
from eval.aggregate import CONFIDENCE, Aggregate, Comparison, Summary, aggregate
from eval.evaluate import PICTURES
from eval.job import picture_paths
from eval.normal_frechet import NormalFrechet
from eval.pictures import HEAT_COLORS, HEAT_LIMIT, overview, save
from eval.protocols.protocol import Metric, NormalFIDMetric, Protocol
from eval.rows import Row
from reports import formatting
from reports.markup import EMPTY, Cell, Table, markdown_text, to_latex, to_markdown

_TEMPLATES = Path(__file__).with_name("templates")
# Assets that the page shows pictures of: each is about 6 KB a picture.
GALLERY = 50
_DIGITS = 4


@dataclass(frozen=True)
class Shown:
    """An asset by a method, as the page shows it."""

    method: str
    prediction: str  # data URI; empty where there is no picture
    error: str
    scores: list[tuple[str, str]]  # label and value
    problem: str


@dataclass(frozen=True)
class Exhibit:
    """An asset on the page."""

    asset: str
    reference: str
    methods: list[Shown]


def render_evaluation(
    rows: Sequence[Row],
    protocol: Protocol,
    out: Path,
    *,
    title: str | None = None,
    published: Table | None = None,
    gallery: int = GALLERY,
    normals: Sequence[NormalFrechet] = (),
) -> Path:
    """Write what rows say to their folder and return its ``index.html``.

    The folder gets ``index.html`` (self-contained), ``report.md``, ``results.csv`` (one row an asset and method),
    ``summary.csv``, of several methods ``comparisons.csv``, ``tables/*.tex`` (booktabs) and ``pictures/overview``.

    Args:
        out: where the rows' pictures are.
        published: what others printed, to stand behind the means, with the id "published".
        gallery: assets with pictures on the page, those that the methods do worst at.
        normals: what was found of whole sets, for a table of its own.

    Raises:
        ValueError: rows that cannot be aggregated.
    """
    found = aggregate(rows, protocol)
    tables = evaluation_tables(found, normals)
    if published is not None:
        tables.insert(1, published)
    ranked = _hardest_first(found)
    for asset in found.assets:
        reference, *_ = picture_paths(out / PICTURES, asset, "")
        columns = [(method, *picture_paths(out / PICTURES, asset, method)[1:]) for method in found.methods]
        save(overview(reference, columns), out / _overview(asset))
    by_key = {(row.asset, row.method): row for row in rows}
    context = {
        "title": title or protocol.title,
        "protocol": protocol,
        "byline": _byline(found),
        "tables": tables,
        "exhibits": [_exhibit(asset, found, by_key, out) for asset in ranked[:gallery]],
        "overviews": [(asset, _overview(asset).as_posix()) for asset in ranked[:gallery]],
        "hidden": max(0, len(ranked) - gallery),
        "heat_limit": f"{HEAT_LIMIT:.0%}",
        "heat_colors": [f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in HEAT_COLORS.tolist()],
    }
    write_whole(out / "report.md", [_environment("md").get_template("evaluation.md.j2").render(**context)])
    write_whole(out / "results.csv", [_csv(_result_rows(rows, protocol))])
    write_whole(out / "summary.csv", [_csv(_summary_rows(found))])
    if found.comparisons:
        write_whole(out / "comparisons.csv", [_csv(_comparison_rows(found))])
    for table in tables:
        write_whole(out / "tables" / f"{table.id}.tex", [to_latex(table, f"{protocol.name}-{table.id}")])
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    page = _environment("html").get_template("evaluation.html.j2").render(**context, style=style)
    write_whole(out / "index.html", [page])
    return out / "index.html"


def evaluation_tables(found: Aggregate, normals: Sequence[NormalFrechet] = ()) -> list[Table]:
    """Every table that has rows, in the order of the page."""
    tables = [
        summary_table(found),
        normals_table(normals),
        comparison_table(found),
        failure_table(found),
        not_run_table(found.protocol, normals),
        asset_table(found),
        protocol_table(found.protocol),
    ]
    return [table for table in tables if table.rows]


def summary_table(found: Aggregate) -> Table:
    """Means of every method with their intervals, the best of each column marked, and what sampling allows."""
    metrics = found.protocol.scored
    best = {metric.key: _best_mean(found, metric) for metric in metrics}
    failures = {method: sum(row.method == method for row in found.failed) for method in found.methods}
    rows = [
        [
            Cell(method),
            *(_mean_cell(found.summaries[method, m.key], best[m.key]) for m in metrics),
            Cell(str(failures[method])),
        ]
        for method in found.methods
    ]
    if found.ceilings:
        ceilings = [Cell(_number(found.ceilings[m.key])) if m.key in found.ceilings else EMPTY for m in metrics]
        rows.append([Cell("sampling ceiling", "the reference against itself"), *ceilings, EMPTY])
    assets = f"{len(found.assets)} {'asset' if len(found.assets) == 1 else 'assets'}"
    return Table(
        id="summary",
        title="Methods",
        header=["Method", *(_label(metric) for metric in metrics), "Failed"],
        rows=rows,
        caption=f"Means over {assets}, with {CONFIDENCE:.0%} bootstrap intervals; failed assets count with the worst "
        "score of the metric. The best by the first column is first."
        + (
            " Between points no method can pass the sampling ceiling but by chance: it is what two samples of the "
            "reference score."
            if found.ceilings
            else ""
        ),
    )


def normals_table(normals: Sequence[NormalFrechet]) -> Table:
    """Frechet distances of normal maps, named by what made the features: Normal-FID only with those of FID."""
    fid = all(found.is_fid for found in normals)
    features = ", ".join(dict.fromkeys(found.features for found in normals))
    best = min((found.distance for found in normals), default=None) if len(normals) > 1 else None
    ordered = sorted(normals, key=lambda found: found.distance)
    return Table(
        id="normals",
        title="Normal maps of the whole set",
        header=["Method", "Normal-FID ↓" if fid else f"Fréchet distance, {features} ↓", "Maps on each side", "Failed"],
        rows=[
            [
                Cell(found.method),
                Cell(_number(found.distance), best=found.distance == best),
                Cell(str(found.images)),
                Cell(str(found.failed)),
            ]
            for found in ordered
        ],
        caption=f"Predictions and references from the same cameras, over features of {features}"
        + (
            ", as FID has them; cameras and renderer are choices of the protocol. "
            if fid
            else ": not the published Normal-FID, whose features are those of FID's Inception v3. "
        )
        + "Few maps raise it, so only equal numbers compare; failed assets count with empty maps.",
    )


def comparison_table(found: Aggregate) -> Table:
    """Paired tests of every two methods by every metric."""
    rows = []
    for comparison in found.comparisons:
        methods, assets = (
            (comparison.first, comparison.second),
            (comparison.first_better, comparison.second_better),
        )
        if comparison.better == comparison.second:
            methods, assets = methods[::-1], assets[::-1]
        rows.append(
            [
                Cell(comparison.metric.label),
                Cell(methods[0], f"than {methods[1]}") if comparison.better else Cell("equal", " and ".join(methods)),
                Cell(_number(abs(comparison.difference)), _interval_of_size(comparison)),
                Cell(f"{assets[0]} : {assets[1]}"),
                Cell(_p(comparison.p), best=comparison.p < 1 - CONFIDENCE),
            ]
        )
    return Table(
        id="comparisons",
        title="Differences between methods",
        header=["Metric", "Better in the mean", "By", "Assets better : worse", "p"],
        rows=rows,
        caption="Asset by asset: Wilcoxon's signed-rank test, two-sided, corrected by Holm for all rows of this table. "
        f"Bold: below {1 - CONFIDENCE:.2f}.",
        prose=frozenset({1}),
    )


def failure_table(found: Aggregate) -> Table:
    """What failed, and why; and what could not be judged."""
    rows = [[Cell(row.asset), Cell(row.method), Cell(row.reason or "")] for row in found.failed]
    rows += [
        [Cell(row.asset), Cell("left out for all methods"), Cell(row.reason or "")]
        for row in {row.asset: row for row in found.left_out}.values()
    ]
    return Table(
        id="failures", title="Failed", header=["Asset", "Method", "Reason"], rows=rows, prose=frozenset({1, 2})
    )


def not_run_table(protocol: Protocol, normals: Sequence[NormalFrechet] = ()) -> Table:
    """Metrics of the protocol that have no scores here, nor a table of their own."""
    fid = any(found.is_fid for found in normals)
    rows = [
        [Cell(metric.label), Cell(f"not run: {metric.not_run}")]
        for metric in protocol.metrics
        if metric.not_run and not (fid and isinstance(metric, NormalFIDMetric))
    ]
    return Table(
        id="not-run", title="Metrics without scores", header=["Metric", "Why"], rows=rows, prose=frozenset({1})
    )


def asset_table(found: Aggregate) -> Table:
    """The first metric of every asset by every method; the worst assets first."""
    metric = found.protocol.scored[0]
    position = {asset: i for i, asset in enumerate(found.assets)}
    rows = []
    for asset in _hardest_first(found):
        values = [float(found.scores[method, metric.key][position[asset]]) for method in found.methods]
        best = max(values) if metric.higher_is_better else min(values)
        marked = len(values) > 1
        rows.append([Cell(asset), *(Cell(_number(value), best=marked and value == best) for value in values)])
    return Table(
        id="assets",
        title=f"Assets: {_label(metric)}",
        header=["Asset", *found.methods],
        rows=rows,
        caption="All scores are in results.csv.",
    )


def protocol_table(protocol: Protocol) -> Table:
    """What was done to every pair."""
    frame = "both by the reference's transform" if protocol.frame == "reference" else "each by its own transform"
    entries = {
        "Protocol": f"{protocol.name} (digest {protocol.digest})",
        "Source": protocol.source,
        "Normalisation": f"{protocol.normalisation}, {frame}",
        "Samples": f"{protocol.points:,} points on each side, seeds {protocol.seed} and {protocol.seed + 1}",
    }
    entries |= {f"Choice {number}": note for number, note in enumerate(protocol.notes, start=1)}
    return Table(
        id="protocol",
        title="Protocol",
        header=["", ""],
        rows=[[Cell(name), Cell(text)] for name, text in entries.items()],
        prose=frozenset({1}),
    )


def _label(metric: Metric) -> str:
    return f"{metric.label} {'↑' if metric.higher_is_better else '↓'}"


def _number(value: float) -> str:
    return formatting.significant(value, _DIGITS)


def _mean_cell(summary: Summary, best: float | None) -> Cell:
    note = "" if summary.interval is None else " to ".join(_number(end) for end in summary.interval)
    return Cell(_number(summary.mean), note, best=summary.mean == best)


def _interval_of_size(comparison: Comparison) -> str:
    """Of the size of the difference: turned with it, so negative where the other method might be better."""
    if comparison.interval is None:
        return ""
    low, high = comparison.interval
    if comparison.difference < 0:
        low, high = -high, -low
    return f"{_number(low)} to {_number(high)}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def _best_mean(found: Aggregate, metric: Metric) -> float | None:
    """None of a single method."""
    if len(found.methods) < 2:
        return None
    means = [found.summaries[method, metric.key].mean for method in found.methods]
    return max(means) if metric.higher_is_better else min(means)


def _hardest_first(found: Aggregate) -> list[str]:
    """Assets by the mean rank of their scores over methods, by the first metric."""
    metric = found.protocol.scored[0]
    total = sum(
        (found.scores[method, metric.key].argsort(kind="stable").argsort() for method in found.methods),
        start=0 * found.scores[found.methods[0], metric.key],
    )
    sign = 1 if metric.higher_is_better else -1
    return [asset for _, asset in sorted(zip(sign * total, found.assets, strict=True))]


def _byline(found: Aggregate) -> str:
    methods = f"{len(found.methods)} {'method' if len(found.methods) == 1 else 'methods'}"
    parts = [f"{len(found.assets)} assets", methods, f"{len(found.failed)} failed"]
    if found.left_out:
        parts.append(f"{len({row.asset for row in found.left_out})} left out, their reference cannot be used")
    return ", ".join(parts)


def _overview(asset: str) -> Path:
    return Path(PICTURES) / "overview" / f"{asset}.jpg"


def _exhibit(asset: str, found: Aggregate, rows: dict[tuple[str, str], Row], out: Path) -> Exhibit:
    shown = []
    for method in found.methods:
        row = rows[asset, method]
        _, prediction, error = picture_paths(out / PICTURES, asset, method)
        scores = [
            (_label(metric), _number(row.scores[metric.key]))
            for metric in found.protocol.scored
            if metric.key in row.scores
        ]
        drawn = row.status == "ok"  # pictures of an earlier run may still be there
        shown.append(
            Shown(
                method,
                _data_uri(prediction) if drawn else "",
                _data_uri(error) if drawn else "",
                scores,
                row.reason or "",
            )
        )
    return Exhibit(asset, _data_uri(picture_paths(out / PICTURES, asset, "")[0]), shown)


def _data_uri(path: Path) -> str:
    if not path.exists():
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _environment(kind: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=kind == "html",  # Markdown has its own escapes
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"markdown_text": markdown_text, "markdown_table": to_markdown}
    return environment


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _result_rows(rows: Sequence[Row], protocol: Protocol) -> list[dict[str, object]]:
    return [
        {
            "asset": row.asset,
            "method": row.method,
            "status": row.status,
            "reason": row.reason,
            **{metric.key: row.scores.get(metric.key) for metric in protocol.scored},
            "faces": row.facts and row.facts.faces,
            "area": row.facts and row.facts.area,
            "watertight": row.facts and row.facts.watertight,
            "components": row.facts and row.facts.components,
            "interior_share": row.facts and row.facts.interior_share,
            "seconds": row.seconds,
            "protocol_digest": row.protocol_digest,
            "pred_sha256": row.pred_sha256,
            "ref_sha256": row.ref_sha256,
        }
        for row in rows
    ]


def _summary_rows(found: Aggregate) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for (method, key), summary in found.summaries.items():
        low, high = summary.interval or (None, None)
        rows.append(
            {
                "method": method,
                "metric": key,
                "mean": summary.mean,
                "low": low,
                "high": high,
                "median": summary.median,
                "assets": len(found.assets),
                "failed": sum(row.method == method for row in found.failed),
                "sampling_ceiling": found.ceilings.get(key),
            }
        )
    return rows


def _comparison_rows(found: Aggregate) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for comparison in found.comparisons:
        low, high = comparison.interval or (None, None)
        rows.append(
            {
                "metric": comparison.metric.key,
                "first": comparison.first,
                "second": comparison.second,
                "difference": comparison.difference,
                "low": low,
                "high": high,
                "first_better": comparison.first_better,
                "second_better": comparison.second_better,
                "p_holm": comparison.p,
            }
        )
    return rows
