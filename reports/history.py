"""Series: one measurement over the commits that it was made at.

Points of a series agree in everything but commit and time: environment fingerprint, provider, branch, pass, workload
with all its counts, and shape. They are in the order of time, as git may not be at hand. Runs of one commit are one
point, at the time of the first: its median is the median of their medians, its range spans theirs. With local changes,
or at an unknown commit, every run is a point of its own, since nobody knows whether two have the same code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from bench.records import Record
from reports import formatting
from reports.providers import label, sort_key
from reports.study import DIRECTION_NAMES, DIRECTIONS

_STAGES = ("total", "cmp", "select", "slc", "win")


@dataclass(frozen=True)
class Point:
    """One commit; milliseconds."""

    commit: str  # ten digits, with "+" for local changes; or "unknown"
    exact: bool  # whether the commit says what ran
    time: datetime  # of the first run
    runs: int
    p20: float  # the least
    p50: float  # the median
    p80: float  # the greatest


@dataclass(frozen=True)
class Series:
    """Points in the order of time. `record` is the newest, and stands for what all have in common."""

    record: Record
    points: tuple[Point, ...]

    @property
    def runs(self) -> int:
        return sum(point.runs for point in self.points)

    @property
    def ratio(self) -> float:
        """Last median over first."""
        return self.points[-1].p50 / self.points[0].p50

    @property
    def setting(self) -> str:
        """Machine and attention shape."""
        environment, shape = self.record.environment, self.record.shape
        return (
            f"{environment.device}, torch {environment.torch}, fingerprint {environment.fingerprint}; "
            f"{shape.heads} heads of width {shape.head_dim}, {shape.kv_heads} key-value, {shape.dtype}, "
            f"blocks {shape.compression_block} and {shape.selection_block}, window {shape.window} shifted by "
            f"{shape.window_shift}, top-k {shape.topk}"
        )

    @property
    def workload(self) -> str:
        """Label, and what else tells random or captured inputs apart."""
        workload = self.record.workload
        inputs = f" {workload.captured}" if workload.captured else f", seed {workload.seed}" if workload.seed else ""
        return workload.label + inputs

    @property
    def title(self) -> str:
        """What is measured, without the setting."""
        record = self.record
        stage = "" if record.stage == "total" else f" ({record.stage})"
        return (
            f"{label(record.provider)}{stage}, {DIRECTION_NAMES[record.direction]}, {self.workload}, "
            f"{formatting.tokens(record.workload.tokens)} tokens"
        )


def to_series(records: Iterable[Record]) -> list[Series]:
    """The series of all records with a time, by setting, workload, tokens, provider and pass."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.created):
        if record.summary is not None:
            workload, shape = record.workload.model_dump_json(), record.shape.model_dump_json()
            what = (record.provider, record.stage, record.direction)
            groups[record.environment.fingerprint, shape, workload, *what].append(record)
    series = [Series(members[-1], tuple(_points(members))) for members in groups.values()]
    return sorted(series, key=_place)


def _points(records: list[Record]) -> list[Point]:
    """One point a commit, in the order of the records."""
    commits: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        commits[(_exact(record) and record.environment.git_commit) or f"run {record.run_id}"].append(record)
    points = []
    for members in commits.values():
        first, summaries = members[0], [record.summary for record in members if record.summary is not None]
        commit = (first.environment.git_commit or "unknown")[:10]
        points.append(
            Point(
                commit=commit + ("+" if first.environment.git_dirty else ""),
                exact=_exact(first),
                time=first.created,
                runs=len({record.run_id for record in members}),
                p20=min(summary.p20 for summary in summaries),
                p50=median(summary.p50 for summary in summaries),
                p80=max(summary.p80 for summary in summaries),
            )
        )
    return points


def _exact(record: Record) -> bool:
    return record.environment.git_commit is not None and not record.environment.git_dirty


def _place(series: Series) -> tuple[object, ...]:
    record = series.record
    return (
        *(series.setting, series.workload, record.workload.tokens, sort_key(record.provider)),
        *(DIRECTIONS.index(record.direction), _STAGES.index(record.stage)),
    )
