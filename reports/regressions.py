"""A comparison of two sets of records, as a chapter of a report: found elsewhere, told here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from bench.records import Environment
from reports import formatting
from reports.environments import difference_table
from reports.markup import Cell, Table, Tags


@dataclass(frozen=True)
class Outcome:
    """One measurement on both sides. Times in ms; the ratio is HEAD over BASE, with an interval of 95 %."""

    name: str
    verdict: str  # "slower", "faster", "equivalent", "inconclusive", or what there is instead of two times
    ratio: float | None
    interval: tuple[float, float] | None
    base_ms: float | None
    head_ms: float | None
    is_regression: bool
    why: str
    tags: Tags


@dataclass(frozen=True)
class Regressions:
    """What became of BASE in HEAD. `margin` is the share of the time of BASE that a gate allows."""

    conclusion: str
    sides: list[str]  # one sentence each
    base: Environment
    head: Environment
    margin: float
    outcomes: list[Outcome]

    @cached_property
    def table(self) -> Table:
        return outcome_table(self.outcomes)

    @cached_property
    def differences(self) -> Table:
        """How the environments differ."""
        return difference_table({"BASE": self.base, "HEAD": self.head})


def worst_first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Regressions, then slowdowns that are none, then the rest by falling ratio; at last what has no ratio."""

    def place(outcome: Outcome) -> tuple[bool, bool, float]:
        ratio = outcome.ratio if outcome.ratio is not None else 0.0
        return not outcome.is_regression, outcome.verdict != "slower", -ratio

    return sorted(outcomes, key=place)


def outcome_table(outcomes: Iterable[Outcome]) -> Table:
    """A row for each outcome, the worst first."""
    return Table(
        id="compare",
        title="Measurements",
        header=["measurement", "verdict", "HEAD / BASE", "95 % interval", "BASE ms", "HEAD ms", "why"],
        rows=[_row(outcome) for outcome in worst_first(outcomes)],
        prose=frozenset({1, 6}),
    )


def _row(outcome: Outcome) -> list[Cell]:
    ratio, interval = "", ""
    if outcome.ratio is not None and outcome.interval is not None:
        ratio = f"{outcome.ratio:.3f}"
        interval = "{:.3f} to {:.3f}".format(*outcome.interval)
    times = ["" if ms is None else formatting.significant(ms, 4) for ms in (outcome.base_ms, outcome.head_ms)]
    return [Cell(outcome.name, tags=outcome.tags), *map(Cell, (outcome.verdict, ratio, interval, *times, outcome.why))]
