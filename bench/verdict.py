"""Verdicts on pairs of sample sets: slower, faster, equivalent or inconclusive.

Slower means that head takes more than 1 + margin times as long as base, faster that base takes more than 1 + margin
times as long as head, equivalent that neither does: each is claimed only when a rank test rejects the opposite after
correction for the number of pairs. Everything else is inconclusive, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bench import statistics
from bench.disturbance import disturbance

Verdict = Literal["slower", "faster", "equivalent", "inconclusive"]

# Chance of any wrong claim of one kind among all pairs of a comparison.
LEVEL: Final = 0.01
# With 60 samples a side of 1 % noise, a slowdown by 3 % among 20 pairs is found nineteen times in twenty
# (tests/bench/test_verdict.py); on an H200 the noise is 0.3 % in the middle (reports/results/h200).
MARGIN: Final = 0.02
SAMPLES: Final = 60


_TESTS: dict[Verdict, Callable[[Sequence[float], Sequence[float], float], statistics.Floats]] = {
    "slower": statistics.p_slower,
    "faster": statistics.p_faster,
    "equivalent": statistics.p_equivalent,
}


@dataclass(frozen=True)
class Pair:
    """The samples of one measurement on both sides, in the order they were taken."""

    base: Sequence[float]
    head: Sequence[float]
    flaw: str | None = None  # why it cannot be judged whatever the samples say


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    ratio: float  # head / base
    p_value: float  # of the claim, corrected; of "slower" where there is none
    reason: str | None = None  # of an inconclusive one


def judge(pairs: Sequence[Pair], margin: float = MARGIN) -> list[Judgement]:
    """A verdict on each pair.

    Raises:
        ValueError: a margin that is not positive, or a sample that is no positive number.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin:g}")
    for pair in pairs:
        for samples in (pair.base, pair.head):
            if not len(samples) or not np.all(np.isfinite(samples)) or min(samples) <= 0:
                raise ValueError("samples must be positive numbers, at least one a side")
    able = statistics.testable([statistics.least_p(len(pair.base), len(pair.head)) for pair in pairs], LEVEL)
    tested = [pair for pair, can in zip(pairs, able, strict=True) if can]
    p_values = {
        claim: statistics.holm([float(test(pair.base, pair.head, margin)) for pair in tested])
        for claim, test in _TESTS.items()
    }
    rows = iter([{claim: p[i] for claim, p in p_values.items()} for i in range(len(tested))])
    needed = statistics.samples_needed(LEVEL / max(1, len(pairs)))
    return [_judge(pair, margin, next(rows) if can else None, needed) for pair, can in zip(pairs, able, strict=True)]


def _judge(pair: Pair, margin: float, p_values: dict[Verdict, float] | None, needed: int) -> Judgement:
    """
    Args:
        p_values: of each claim, corrected; None where there are too few samples for any.
        needed: samples a side that are enough in a comparison of this size.
    """
    ratio = statistics.ratio(pair.base, pair.head)
    p_slower = 1.0 if p_values is None else p_values["slower"]
    reason = pair.flaw
    for side, samples in (("BASE", pair.base), ("HEAD", pair.head)):
        if reason is None and (found := disturbance(samples, margin)) is not None:
            reason = f"{side} {found}"
    if reason is None and p_values is None:
        counts = f"{len(pair.base)} and {len(pair.head)}"
        reason = f"{counts} samples are too few; needs {needed} a side in a comparison of this size"
    if reason is not None or p_values is None:
        return Judgement("inconclusive", ratio, p_slower, reason)

    inside: dict[Verdict, bool] = {
        "slower": ratio > 1 + margin,
        "faster": 1 / ratio > 1 + margin,
        "equivalent": 1 / (1 + margin) < ratio < 1 + margin,
    }
    for claim, p in p_values.items():
        if p <= LEVEL and inside[claim]:
            return Judgement(claim, ratio, p)
    return Judgement("inconclusive", ratio, p_slower, f"too noisy, or too close to the margin of {margin:.3g}")
