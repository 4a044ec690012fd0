"""F-scores: how many points are within a threshold of the other side (Knapitsch et al., "Tanks and Temples", 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.surface import checked_distances


@dataclass(frozen=True)
class FScore:
    """Shares, 0..1, of points within `threshold` of the other side."""

    threshold: float  # in units of length
    precision: float  # of the prediction's points
    recall: float  # of the reference's points

    @property
    def fscore(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def fscores(
    pred_to_ref: Tensor, ref_to_pred: Tensor, thresholds: Sequence[float], *, strict: bool = False
) -> list[FScore]:
    """The F-score at each threshold.

    Args:
        pred_to_ref: floating [N]: the distance of every sample of the prediction to the reference.
        ref_to_pred: floating [M]: the other way round.
        thresholds: in units of length. TRELLIS.2 states the square of its threshold.
        strict: count d < t, as Open3D, Mesh R-CNN and 3DShape2VecSet do; else d <= t, as Kaolin and ConvONet.

    Raises:
        ValueError: no distances or thresholds, or values that are none.
    """
    forward, back = checked_distances("pred_to_ref", pred_to_ref), checked_distances("ref_to_pred", ref_to_pred)
    _check(thresholds)
    return [FScore(t, _share(forward, t, strict), _share(back, t, strict)) for t in thresholds]


def kaolin_fscore(pred_to_ref: Tensor, ref_to_pred: Tensor, threshold: float) -> float:
    """What kaolin.metrics.pointcloud.f_score returns, for comparison with numbers that were made with it.

    Its recall divides the prediction's hits by themselves plus the reference's misses, so it mixes the counts of both
    sides and is no share of the reference.
    """
    forward, back = checked_distances("pred_to_ref", pred_to_ref), checked_distances("ref_to_pred", ref_to_pred)
    _check([threshold])
    hits, misses = int((forward <= threshold).sum()), int((back > threshold).sum())
    recall = hits / (hits + misses) if hits + misses else 0.0
    return FScore(threshold, hits / len(forward), recall).fscore


def _check(thresholds: Sequence[float]) -> None:
    if not thresholds or not all(0 < t < math.inf for t in thresholds):
        raise ValueError(f"thresholds must be positive and finite, at least one, got {list(thresholds)}")


def _share(distances: Tensor, threshold: float, strict: bool) -> float:
    compare = torch.lt if strict else torch.le
    return float(compare(distances, threshold).double().mean())
