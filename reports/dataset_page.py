"""The page that describes a prepared dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.data.dataset.manifest import Entry, Header
from models.data.dataset.statistics import QUANTILES, Statistics
from reports import formatting
from reports.markup import EMPTY, Cell, Table

_TEMPLATES = Path(__file__).with_name("templates")
# Longer lists are cut; the manifest has all.
_MOST = 40


def dataset_tables(statistics: Statistics, entries: list[Entry]) -> list[Table]:
    """Counts, quantiles and failures, in reading order."""
    tables = [
        _count_table("status", "Assets", "status", statistics.status),
        _count_table("splits", "Splits", "split", statistics.splits),
        _spread_table(statistics),
        _count_table("categories", "Categories", "category", statistics.categories),
        _count_table("licences", "Licences", "licence", statistics.licences),
        _count_table("creators", "Creators", "creator", statistics.creators),
        _count_table("reasons", "Failures by reason", "reason", statistics.reasons),
        _lost_table(entries),
    ]
    return [table for table in tables if table.rows]


def to_dataset_page(
    name: str, header: Header, statistics: Statistics, entries: list[Entry], sheet: str | None = None
) -> str:
    """One HTML page that loads nothing.

    Args:
        sheet: contact sheet as a data URI.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("dataset.html.j2").render(
        name=name,
        header=header,
        settings={key.replace("_", " "): _plain(value) for key, value in header.settings.items()},
        numbers=_numbers(header, statistics),
        tables=dataset_tables(statistics, entries),
        sheet=sheet,
        style=(_TEMPLATES / "style.css").read_text(encoding="utf-8"),
    )


def _numbers(header: Header, statistics: Statistics) -> dict[str, str]:
    samples = statistics.status["ok"]
    numbers = {
        "samples": f"{samples:,}",
        "failed": f"{statistics.status['failed']:,}",
        "duplicates": f"{statistics.status['duplicate']:,}",
        "voxels": f"{statistics.voxels:,}",
        "MiB": formatting.mebibytes(statistics.size),
        "shards": f"{len(header.shards):,}",
    }
    if samples:
        numbers["seconds an asset"] = formatting.significant(statistics.seconds / statistics.assets)
    return numbers


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _count_table(id: str, title: str, column: str, counts: Mapping[str, int]) -> Table:
    total = sum(counts.values())
    rows = [[Cell(name), Cell(f"{count:,}"), Cell(f"{count / total:.1%}")] for name, count in counts.items() if count]
    caption = f"the {_MOST} most frequent of {len(rows)}" if len(rows) > _MOST else ""
    return Table(id, title, [column, "count", "share"], rows[:_MOST], caption)


def _spread_table(statistics: Statistics) -> Table:
    names = {0.0: "least", 0.5: "median", 1.0: "most"}
    header = ["of a sample", *(names.get(at, f"{at:.0%}") for at in QUANTILES), "mean"]
    rows = [
        [Cell(spread.name), *(Cell(formatting.significant(value)) for value in (*spread.quantiles, spread.mean))]
        for spread in statistics.spreads
    ]
    return Table("spreads", "Sizes and times", header, rows)


def _lost_table(entries: list[Entry]) -> Table:
    rows = [
        [
            Cell(entry.key),
            Cell(entry.source),
            Cell(entry.reason or f"the same as {entry.duplicate_of}"),
            Cell(f"{entry.seconds:.1f}") if entry.seconds is not None else EMPTY,
        ]
        for entry in entries
        if entry.status != "ok"
    ]
    return Table(
        "lost", "Failures and duplicates", ["asset", "source", "what", "seconds"], rows, prose=frozenset({1, 2})
    )
