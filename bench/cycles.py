"""Verdicts on two sides that took turns: statistics of cycles of blocks, and the noise floor that a job shows itself.

A cycle visits base, head and a control in a random order and then in the reverse order. The control is a second process
of the code of base. Of every block only the fastest sample counts: whatever disturbs a call makes it slower, and within
a block disturbances last longer than a call. The value of a side in a cycle is the mean logarithm of its two blocks, so
that a drift which is linear over the cycle cancels.

Why a rank test on cycles is exact: base and head change places by the fall of a coin. Where head takes exactly f times
as long as base, exchanging them turns head - base - log f into its negative, whatever the machine did meanwhile. Drift,
throttling, modes and correlated noise therefore cost power, never correctness, as long as both sides suffer them alike.
Samples within a block, or the two blocks of a cycle, have no coins of their own and are no independent evidence.

What the coin does not cover is what belongs to a process for its whole life: addresses, pages, allocator state, the
core it runs on. So processes are started anew each round, and base runs twice: control / base is a ratio of equal code
that has everything in it which head / base has, except the change. No difference below what those ratios predict for
equal code is ever claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student

from bench.statistics import Floats, centre, centre_interval, holm, p_above
from bench.verdict import LEVEL, Judgement, Verdict

BASE, HEAD, CONTROL = SIDES = range(3)

Samples = list[float]
Blocks = tuple[Samples, Samples]  # of one side in one cycle, in ms


@dataclass
class Series:
    """One measurement: for each round an array [cycles, 3] of log ms of base, head and control."""

    rounds: list[Floats] = field(default_factory=list)

    def add(self, cycles: Sequence[tuple[Blocks, Blocks, Blocks]]) -> None:
        """A round: the samples of both blocks of base, head and control in every cycle."""
        self.rounds.append(np.array([[_value(blocks) for blocks in cycle] for cycle in cycles]))

    @property
    def log_ratios(self) -> Floats:
        """log(head / base) of all cycles."""
        return np.concatenate([values[:, HEAD] - values[:, BASE] for values in self.rounds])

    @property
    def control_ratios(self) -> list[float]:
        """log(control / base) of each round."""
        return [float(centre(values[:, CONTROL] - values[:, BASE])) for values in self.rounds]

    @property
    def ratio(self) -> float:
        """head / base: exp of the Hodges-Lehmann estimate over all cycles."""
        return float(np.exp(centre(self.log_ratios)))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the ratio: 95 %, by bootstrap over cycles."""
        low, high = centre_interval(self.log_ratios)
        return math.exp(low), math.exp(high)


def _value(blocks: Blocks) -> float:
    first, second = blocks
    return math.log(min(first) * min(second)) / 2


def floors(series: Sequence[Series], level: float) -> list[float]:
    """For each measurement, how far from 1 the ratio of equal code may come out in this job, as a margin.

    The control's ratios are taken for independent normal draws of mean zero, and head / base for the average of as many
    of them as there are rounds. Student's t then bounds it in one direction at `level`, with all measurements' draws as
    degrees of freedom. A measurement that is noisier than the rest is bounded by its own draws' spread.
    """
    draws = np.concatenate([one.control_ratios for one in series])
    bound = float(student.ppf(1 - level, len(draws)))
    pooled = float(np.sqrt(np.mean(draws**2)))
    found = []
    for one in series:
        own = float(np.sqrt(np.mean(np.square(one.control_ratios))))
        found.append(math.expm1(min(bound * max(pooled, own) / math.sqrt(len(one.rounds)), 100.0)))
    return found


def judge_series(
    series: Sequence[Series], before: Sequence[Judgement | None], margin: float, looks: int
) -> tuple[list[Judgement], list[float]]:
    """A verdict on each measurement after a round, and its noise floor.

    A measurement that has a verdict keeps it. The chance of any wrong claim of one kind in a whole job is at most
    `bench.verdict.LEVEL`: every look spends an equal share, and within a look Holm's correction holds, for which what
    was claimed at an earlier look counts as rejected (Ye et al., "A group sequential Holm procedure with multiple
    primary endpoints", 2013). Differences are tested against the margin or the noise floor, whichever is larger;
    equivalence is claimed only where the floor is below the margin.

    Args:
        before: verdicts at the look before; None at the first.
        looks: how often the job looks at most.

    Raises:
        ValueError: a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin:g}")
    if not series:
        return [], []
    limits = floors(series, LEVEL / 2 / looks / len(series))  # for claims of either direction
    decided = [old if old is not None and old.verdict != "inconclusive" else None for old in before]
    p_values: dict[Verdict, list[float]] = {"slower": [], "faster": [], "equivalent": []}
    for one, old, floor in zip(series, decided, limits, strict=True):
        for claim, p in p_values.items():
            p.append(_p(claim, one, margin, floor) if old is None else float(old.verdict != claim))
    corrected = {claim: [min(1.0, looks * value) for value in holm(p)] for claim, p in p_values.items()}
    judgements = []
    for i, (one, old) in enumerate(zip(series, decided, strict=True)):
        claimed = [claim for claim, p in corrected.items() if p[i] <= LEVEL]
        if old is not None:
            judgements.append(old)
        elif claimed:
            judgements.append(Judgement(claimed[0], one.ratio, corrected[claimed[0]][i]))
        else:
            reason = f"too noisy, or too close to the margin of {margin:.3g}"
            if limits[i] > margin:
                reason = f"two processes of BASE may differ by {limits[i]:.1%} in this job, which is above the margin"
            judgements.append(Judgement("inconclusive", one.ratio, corrected["slower"][i], reason))
    return judgements, limits


def _p(claim: Verdict, series: Series, margin: float, floor: float) -> float:
    logs = series.log_ratios
    if claim == "equivalent":
        inside = math.log1p(margin)
        return 1.0 if floor > margin else max(p_above(-logs, -inside), p_above(logs, -inside))
    return p_above(logs if claim == "slower" else -logs, math.log1p(max(margin, floor)))
