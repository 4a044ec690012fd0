"""From rows to what a table says: means with confidence intervals, and which methods differ beyond chance.

Assets are the units: intervals and tests tell what other assets of the kind would have shown, not what other samples
of the same surfaces would. A failed asset counts with the metric's worst score; an asset whose reference cannot be used
counts for no method.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from eval.protocols.protocol import Metric, Protocol
from eval.rows import Row

CONFIDENCE = 0.95
_DRAWS = 10_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """A metric of a method over all assets; the interval is of the mean, None of a single asset."""

    mean: float
    interval: tuple[float, float] | None
    median: float


@dataclass(frozen=True)
class Comparison:
    """Two methods by one metric, asset by asset."""

    metric: Metric
    first: str
    second: str
    difference: float  # mean of first - second, in units of the metric
    interval: tuple[float, float] | None
    first_better: int  # assets
    second_better: int
    p: float  # two-sided; corrected for the number of comparisons

    @property
    def better(self) -> str | None:
        """The method with the better mean; None where they are equal."""
        if not self.difference:
            return None
        return self.first if (self.difference > 0) == self.metric.higher_is_better else self.second


@dataclass(frozen=True)
class Aggregate:
    """All methods over the same assets."""

    protocol: Protocol
    assets: list[str]  # that count
    methods: list[str]  # the best by the protocol's first metric first
    summaries: dict[tuple[str, str], Summary]  # by method and key
    scores: dict[tuple[str, str], Floats]  # of every asset, in the order of `assets`
    ceilings: dict[str, float]  # mean over the assets, by key
    comparisons: list[Comparison]
    failed: list[Row]
    left_out: list[Row]  # without a usable reference


def aggregate(rows: Sequence[Row], protocol: Protocol) -> Aggregate:
    """Aggregate rows of one protocol.

    Raises:
        ValueError: rows of another version of the protocol, a method without a row for some asset, or no asset whose
            reference can be used.
    """
    if any(row.protocol_digest != protocol.digest for row in rows):
        raise ValueError(f"rows must all be of the protocol {protocol.name} with digest {protocol.digest}")
    left_out = [row for row in rows if row.status == "no_reference"]
    unusable = {row.asset for row in left_out}
    counted = {(row.asset, row.method): row for row in rows if row.asset not in unusable}
    assets, methods = (sorted({key[i] for key in counted}) for i in (0, 1))
    if not assets:
        raise ValueError("no asset has a usable reference")
    missing = [f"{asset} by {method}" for asset in assets for method in methods if (asset, method) not in counted]
    if missing:
        raise ValueError(f"rows must have every asset by every method, there is none for {missing[0]}")

    scores = {
        (method, metric.key): np.array([_score(counted[asset, method], metric, protocol) for asset in assets])
        for method in methods
        for metric in protocol.scored
    }
    summaries = {key: _summary(values) for key, values in scores.items()}
    first = protocol.scored[0]
    methods.sort(key=lambda method: summaries[method, first.key].mean, reverse=first.higher_is_better)
    return Aggregate(
        protocol=protocol,
        assets=assets,
        methods=methods,
        summaries=summaries,
        scores=scores,
        ceilings=_ceilings(list(counted.values())),
        comparisons=_comparisons(scores, methods, protocol),
        failed=[row for row in counted.values() if row.status == "failed"],
        left_out=left_out,
    )


def bootstrap_interval(values: Floats, *, seed: int = 0) -> tuple[float, float] | None:
    """Percentile interval of the mean: assets are drawn anew with replacement. None for fewer than two.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    means = np.concatenate(
        [values[generator.integers(len(values), size=(100, len(values)))].mean(1) for _ in range(_DRAWS // 100)]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def signed_rank_p(differences: Floats) -> float:
    """Two-sided p-value against "differences are symmetric about 0": Wilcoxon's signed-rank test (1945).

    Ties with zero are split between the signs; the value is never below what so many signs can show, 2^(1 - n).
    """
    if not differences.any():
        return 1.0
    p = float(wilcoxon(differences, zero_method="zsplit").pvalue)
    return max(p, 2.0 ** (1 - len(differences)))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, after Holm, "A simple sequentially rejective multiple test procedure"."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]


def _score(row: Row, metric: Metric, protocol: Protocol) -> float:
    return row.scores[metric.key] if row.status == "ok" else metric.worst(protocol.diagonal)


def _summary(values: Floats) -> Summary:
    return Summary(float(values.mean()), bootstrap_interval(values), float(np.median(values)))


def _ceilings(rows: Sequence[Row]) -> dict[str, float]:
    """Of each asset once: they depend on the reference alone."""
    by_asset = {row.asset: row.ceilings for row in rows if row.ceilings}
    keys = {key for ceilings in by_asset.values() for key in ceilings}
    return {key: float(np.mean([ceilings[key] for ceilings in by_asset.values()])) for key in keys}


def _comparisons(scores: dict[tuple[str, str], Floats], methods: Sequence[str], protocol: Protocol) -> list[Comparison]:
    pairs = [(metric, *two) for metric in protocol.scored for two in itertools.combinations(methods, 2)]
    differences = [scores[first, metric.key] - scores[second, metric.key] for metric, first, second in pairs]
    corrected = holm([signed_rank_p(values) for values in differences])
    return [
        Comparison(
            metric=metric,
            first=first,
            second=second,
            difference=float(values.mean()),
            interval=bootstrap_interval(values),
            first_better=int((values > 0 if metric.higher_is_better else values < 0).sum()),
            second_better=int((values < 0 if metric.higher_is_better else values > 0).sum()),
            p=p,
        )
        for (metric, first, second), values, p in zip(pairs, differences, corrected, strict=True)
    ]
