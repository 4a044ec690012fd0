"""Sample series that no test should judge: the time drifted while it was measured, or it has two modes.

Both checks ask for more than significance: what is found must exceed the practical margin, because a drift or a
distance of modes below it moves the median by less than half of the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, theilslopes

_DRIFT_LEVEL = 0.01
# With fewer samples an empty valley is no surprise.
_FEWEST_FOR_MODES = 20
# A smaller share of the samples is outliers, no mode.
_MODE_SHARE = 0.15
# Evenly spread samples have a sixth in the middle third between the centres of their halves, normal ones a fifth.
_VALLEY_SHARE = 1 / 24


def disturbance(samples: Sequence[float], margin: float) -> str | None:
    """Why a series in the order of measurement cannot be judged, or None."""
    moved = drift(samples, margin)
    if moved is not None:
        return f"drifts by {moved:+.1%} while measured"
    apart = modes(samples, margin)
    return None if apart is None else f"has two modes, {apart:.1%} apart"


def drift(samples: Sequence[float], margin: float) -> float | None:
    """Relative change from the first to the last sample, if it exceeds the margin and is no accident; else None.

    Size by the median of slopes between all pairs, on logarithms (Theil 1950, Sen 1968); accident by Kendall's rank
    correlation with the order (Mann, "Nonparametric tests against trend", 1945).
    """
    if len(samples) < 3:
        return None
    order = np.arange(len(samples))
    change = float(theilslopes(np.log(samples), order).slope) * (len(samples) - 1)
    if abs(change) <= np.log1p(margin) or kendalltau(order, samples).pvalue > _DRIFT_LEVEL:
        return None
    return float(np.expm1(change))


def modes(samples: Sequence[float], margin: float) -> float | None:
    """Relative distance of two modes, if the samples have two and they are more than the margin apart; else None.

    The split into two clusters is the one that explains most variance (Otsu, "A threshold selection method from
    gray-level histograms", 1979). Any samples can be split in two; it takes a valley between them to make two modes.
    """
    logs = np.sort(np.log(samples))
    count = len(logs)
    if count < _FEWEST_FOR_MODES:
        return None
    fewest = math.ceil(_MODE_SHARE * count)
    below = np.arange(fewest, count - fewest + 1)
    sums = np.cumsum(logs)
    low_mean = sums[below - 1] / below
    high_mean = (sums[-1] - sums[below - 1]) / (count - below)
    split = below[np.argmax(below * (count - below) * (high_mean - low_mean) ** 2)]
    low, high = np.median(logs[:split]), np.median(logs[split:])
    third = (high - low) / 3
    valley = np.count_nonzero((logs > low + third) & (logs < high - third))
    if high - low <= np.log1p(margin) or valley >= _VALLEY_SHARE * count:
        return None
    return float(np.expm1(high - low))
