"""Where a series of times changes level: the commits that made something faster or slower.

The logarithms of the times are fitted by levels, each held for at least three points. The best fit under a penalty for
every change is found exactly (optimal partitioning: Jackson et al. 2005, doi:10.1109/LSP.2001.838216), with a squared
loss cut off at four standard deviations of the noise (Fearnhead and Rigaill 2019, doi:10.1080/01621459.2017.1385466),
so that an outlier costs less than the two changes that would explain it away. The noise is measured on differences of
neighbours, which steps and drifts hardly touch.

Why this and not E-divisive means, which MongoDB (Daly et al. 2020, doi:10.1145/3358960.3375791) and Hunter (Fleming et
al. 2023, doi:10.1145/3578244.3583719) use: a search that halves the series step by step may miss a regression mended
soon after, a permutation test cannot be sure of three points whatever their distance, and neither knows drifts. Here
nothing is random. The price is a penalty set by simulation instead of a test that is exact for any noise; both need
runs that are independent.

A slow drift would become a staircase. Where one straight line explains several points as well as the steps in one
direction do, it is called a drift and has no change points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_POINTS: Final = 8  # with fewer the noise is not known well enough
_MIN_LEVEL = 3  # points; two slow runs in a row are no level
_CUT = 4.0  # standard deviations
# Of a change. With it at most 0.7 % of 2,000 constant series of 8, 10, 12, 15 and 30 points had one, under each of
# normal, Laplace, Student (2 and 3 degrees of freedom) and contaminated noise; at most 0.2 % of those of 30 points.
_PENALTY = 28.0
# Of a slope. As much as a change and a quarter: two steps up are then seldom called a drift, and a drift is seldom
# called more than one step.
_SLOPE_PENALTY = 35.0
# Of the logarithm, so 0.2 %: where medians agree better than that, it is by luck or by the clock's resolution.
_LEAST_NOISE = 0.002

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChangePoint:
    """A step from one level to another."""

    index: int  # of the first point of the new level
    ratio: float  # new level over old
    low: float  # about 95 % confidence, taking the position as known
    high: float
    score: float  # how many times its penalty the change is worth, from about 1 on


@dataclass(frozen=True)
class Drift:
    """Points that follow a straight line on the logarithmic scale."""

    start: int
    end: int  # exclusive
    ratio: float  # last point of the line over the first


@dataclass(frozen=True)
class Changes:
    """What happened in a series."""

    points: tuple[ChangePoint, ...] = ()
    drifts: tuple[Drift, ...] = ()
    note: str | None = None  # why nothing could be looked for


def find_changes(times: Sequence[float]) -> Changes:
    """Change points and drifts of times in order; the same series always gives the same.

    Time grows with the cube of the points: milliseconds for 30, under a second for 300.

    Raises:
        ValueError: a time that is not a positive number.
    """
    if not all(math.isfinite(time) and time > 0 for time in times):
        raise ValueError("times must be positive numbers")
    if len(times) < MIN_POINTS:
        return Changes(note=f"too short: {len(times)} of {MIN_POINTS} points")
    logs = np.log(np.asarray(times, dtype=np.float64))
    scaled = (logs - np.median(logs)) / _noise(logs)
    bounds = [0, *_partition(scaled), len(logs)]
    lines = _drifts(scaled, bounds)
    bounds = [bound for bound in bounds if not any(start < bound < end for start, end in lines)]
    slopes = [_slope(logs[s:e]) if (s, e) in lines else 0.0 for s, e in pairwise(bounds)]
    points = []
    for i, at in enumerate(bounds[1:-1]):
        # A drift counts with the value it has reached, or starts from, at the change.
        before, after = logs[bounds[i] : at], logs[at : bounds[i + 2]]
        before = before + slopes[i] * np.arange(len(before))[::-1]
        after = after - slopes[i + 1] * np.arange(len(after))
        low, shift, high = _shift(before, after)
        points.append(ChangePoint(at, math.exp(shift), math.exp(low), math.exp(high), _score(logs, before, after)))
    drifts = [Drift(start, end, math.exp(_slope(logs[start:end]) * (end - start - 1))) for start, end in lines]
    return Changes(tuple(points), tuple(drifts))


def _noise(logs: _Array) -> float:
    """Standard deviation of one point, from the median distance of neighbours as of normal noise."""
    deviation = 1.4826 * float(np.median(np.abs(np.diff(logs)))) / math.sqrt(2)
    return max(deviation, _LEAST_NOISE)


def _losses(x: _Array) -> _Array:
    """[n + 1, n]: loss of the first i points around a level at point j. A level is always one of the points."""
    losses = np.minimum((x[:, None] - x[None, :]) ** 2, _CUT**2)
    return np.vstack([np.zeros(len(x)), np.cumsum(losses, axis=0)])


def _loss(x: _Array) -> float:
    """Loss of all points around their best level."""
    return float(_losses(x)[-1].min())


def _partition(x: _Array) -> list[int]:
    """Where levels begin, the first left out, in the fit of least loss and penalties."""
    losses = _losses(x)
    best = np.full(len(x) + 1, np.inf)
    best[0] = -_PENALTY
    begins = np.zeros(len(x) + 1, dtype=np.int64)
    for end in range(_MIN_LEVEL, len(x) + 1):
        starts = np.array([0, *range(_MIN_LEVEL, end - _MIN_LEVEL + 1)])
        totals = best[starts] + (losses[end] - losses[starts]).min(axis=1) + _PENALTY
        chosen = int(totals.argmin())
        best[end], begins[end] = totals[chosen], starts[chosen]
    found = []
    end = int(begins[len(x)])
    while end:
        found.append(end)
        end = int(begins[end])
    return found[::-1]


def _drifts(x: _Array, bounds: list[int]) -> list[tuple[int, int]]:
    """Start and end of stretches where one line beats several levels that rise or fall, the clearest chosen first."""
    levels = [float(np.median(x[s:e])) for s, e in pairwise(bounds)]
    losses = [_loss(x[s:e]) for s, e in pairwise(bounds)]
    savings: dict[tuple[int, int], float] = {}
    for first in range(len(levels)):
        for last in range(first + 1, len(levels)):
            if len(set(np.sign(np.diff(levels[first : last + 1])))) == 1:
                start, end = bounds[first], bounds[last + 1]
                line = x[start:end] - _slope(x[start:end]) * np.arange(end - start)
                steps = sum(losses[first : last + 1]) + (last - first) * _PENALTY
                savings[start, end] = steps - _loss(line) - _SLOPE_PENALTY
    found: list[tuple[int, int]] = []
    for (start, end), saving in sorted(savings.items(), key=lambda item: -item[1]):
        if saving >= 0 and not any(start < e and s < end for s, e in found):
            found.append((start, end))
    return sorted(found)


def _slope(x: _Array) -> float:
    """Change from point to point: the median slope of all pairs (Theil 1950, Sen 1968)."""
    i, j = np.triu_indices(len(x), k=1)
    return float(np.median((x[j] - x[i]) / (j - i)))


def _score(logs: _Array, before: _Array, after: _Array) -> float:
    noise = _noise(logs)
    return (_loss(np.concatenate([before, after]) / noise) - _loss(before / noise) - _loss(after / noise)) / _PENALTY


def _shift(before: _Array, after: _Array) -> tuple[float, float, float]:
    """Shift from `before` to `after` between its 95 % limits: Hodges and Lehmann's estimate, Moses' interval.

    The limits are order statistics of all differences by the normal approximation of the rank sum (Hollander, Wolfe and
    Chicken, Nonparametric Statistical Methods, section 4.3); with few points they are the extreme differences.
    """
    m, n = len(before), len(after)
    differences = np.sort(np.subtract.outer(after, before).ravel())
    rank = math.floor(m * n / 2 - 1.96 * math.sqrt(m * n * (m + n + 1) / 12))
    outer = max(rank, 1) - 1
    return float(differences[outer]), float(np.median(differences)), float(differences[-1 - outer])
