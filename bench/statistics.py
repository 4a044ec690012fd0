"""Statistics of two sample sets: how many times slower one is, and how sure that is.

Nothing here assumes a distribution: times are skewed, quantised and have outliers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu, wilcoxon

Floats = NDArray[np.float64]

# Resampled sets are reduced to this many quantiles, or the pairs of a thousand samples a side would fill the memory.
_QUANTILES = 64
# Up to so many samples a side the rank test is exact, unless there are ties; beyond, the normal approximation is.
_EXACT = 25


def ratio(base: ArrayLike, head: ArrayLike) -> float:
    """head / base: exp of the median of all pairwise differences of logarithms.

    The estimate of shift by Hodges and Lehmann, "Estimates of location based on rank tests" (1963), on logarithms.
    """
    return float(np.exp(np.median(np.subtract.outer(np.log(head), np.log(base)))))


def ratio_interval(
    base: ArrayLike, head: ArrayLike, *, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of `ratio`: both sides are drawn anew with replacement.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    generator = np.random.default_rng(seed)
    base_draws, head_draws = (_resampled(np.log(side), draws, generator) for side in (base, head))
    differences = head_draws[:, :, None] - base_draws[:, None, :]
    estimates = np.median(differences.reshape(draws, -1), axis=1)
    low, high = np.exp(np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return float(low), float(high)


def _resampled(samples: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """(draws, at most _QUANTILES)"""
    drawn = samples[generator.integers(len(samples), size=(draws, len(samples)))]
    if len(samples) <= _QUANTILES:
        return drawn
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.quantile(drawn, middles, axis=1).T


def centre(x: ArrayLike) -> Floats:
    """Median of the averages of all pairs of values, each with itself too: Hodges and Lehmann's one-sample estimate.

    Args:
        x: values along the last axis; leading axes are independent samples.
    """
    values = np.asarray(x, dtype=float)
    first, second = np.triu_indices(values.shape[-1])
    return np.asarray(np.median((values[..., first] + values[..., second]) / 2, axis=-1))


def centre_interval(x: ArrayLike, *, confidence: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of `centre`: the values are drawn anew with replacement."""
    generator = np.random.default_rng(seed)
    estimates = centre(_resampled(np.asarray(x, dtype=float), draws, generator))
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_above(x: ArrayLike, threshold: float) -> float:
    """p-value against "x is symmetric about the threshold, or about less".

    One-sided signed-rank test of Wilcoxon, "Individual comparisons by ranking methods" (1945); exact for few values
    without ties.
    """
    above = np.asarray(x, dtype=float) - threshold
    p = wilcoxon(above, alternative="greater", zero_method="zsplit").pvalue
    # As for `_rank_test`: all signs alike is the most that so few values can show.
    return float(max(p, 0.5 ** len(above)))


def p_slower(base: ArrayLike, head: ArrayLike, margin: float) -> Floats:
    """p-value against "head takes at most 1 + margin times as long as base".

    One-sided test of Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than
    the other" (1947), after base is scaled by the margin.

    Args:
        base, head: samples along the last axis; leading axes are independent comparisons.
    """
    return _rank_test(head, np.multiply(base, 1 + margin), "greater")


def p_faster(base: ArrayLike, head: ArrayLike, margin: float) -> Floats:
    """As `p_slower` with the sides exchanged: against "base takes at most 1 + margin times as long as head"."""
    return p_slower(head, base, margin)


def p_equivalent(base: ArrayLike, head: ArrayLike, margin: float) -> Floats:
    """p-value against "one side takes at least 1 + margin times as long as the other": two one-sided tests.

    Schuirmann, "A comparison of the two one-sided tests procedure and the power approach" (1987), with rank tests.
    """
    not_slower = _rank_test(head, np.multiply(base, 1 + margin), "less")
    not_faster = _rank_test(base, np.multiply(head, 1 + margin), "less")
    return np.maximum(not_slower, not_faster)


def _rank_test(x: ArrayLike, y: ArrayLike, alternative: str) -> Floats:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    few = max(x.shape[-1], y.shape[-1]) <= _EXACT and not _tied(x, y)
    p = mannwhitneyu(x, y, alternative=alternative, axis=-1, method="exact" if few else "asymptotic").pvalue
    # The normal approximation can go below what ranks of so few samples can show.
    return np.maximum(p, 1 / math.comb(x.shape[-1] + y.shape[-1], x.shape[-1]))


def _tied(x: Floats, y: Floats) -> bool:
    return bool(np.any(np.diff(np.sort(np.concatenate([x, y], axis=-1), axis=-1), axis=-1) == 0))


def least_p(base_count: int, head_count: int) -> float:
    """The smallest p-value that the tests here give for so many samples: when the sides do not overlap."""
    base = np.arange(base_count)
    return float(p_slower(base, np.arange(head_count) + base_count, 0.0))


def samples_needed(level: float) -> int:
    """Samples a side with which a p-value of `level` can be reached."""
    count = 2
    while least_p(count, count) > level:
        count += 1
    return count


def testable(least: Sequence[float], level: float) -> list[bool]:
    """Which of several comparisons, by their `least_p`, can reach the level corrected for their number.

    Tarone, "A modified Bonferroni method for discrete data" (1990): those that never can need no correction, so that a
    few comparisons of many samples are not lost among many comparisons of few.
    """
    for number in range(1, len(least) + 1):
        able = [p <= level / number for p in least]
        if sum(able) <= number:
            return able
    return []


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number: the chance of any false rejection stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]
